"""The CUDA path on a real device: what `test_pretend_cuda.py` tests without one, and what only a device can tell."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from backends.answers import Predictor
from backends.runner import ModelRunner, Way
from backends.torch_backend import TorchBackend
from parity.networks import Network, ResNet18
from tests.backends.test_fusion import lived_in
from tests.backends.test_pretend_cuda import CODES, IMAGES, SAMPLES, Cell, Waiting, network

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def both(module: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the outputs for all images on the CPU and on the device, in single precision."""
    here = TorchBackend("cpu", precision="single").predict(copy.deepcopy(module), IMAGES)
    return here, TorchBackend("cuda", precision="single").predict(module, IMAGES)


@pytest.mark.parametrize("kind", [None, ResNet18(width=16)], ids=str)
@pytest.mark.parametrize("name", CODES)
def test_deferred_answers_of_every_code_are_the_cpus(name: str, kind: Network | None) -> None:
    cell = Cell(name, kind)
    here = [cell.answer(cell.predictor("cpu"), seed) for seed in range(3)]
    there = cell.predictor("cuda")
    assert [cell.answer(there, seed) for seed in range(3)] == here


def test_a_cell_waits_for_nothing_that_torch_knows_of_until_its_end() -> None:
    cell = Cell("addition, two rows")
    predictor: Predictor = cell.predictor("cuda")
    for seed in range(3):
        cell.answer(predictor, seed)
    with pytest.warns(UserWarning, match="synchronizing CUDA operation") as waits:
        torch.cuda.set_sync_debug_mode("warn")
        try:
            cell.answer(predictor, 2)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len(waits) == 1


def test_single_precision_is_the_cpus() -> None:
    here, there = both(lived_in(network(ResNet18(width=16))))
    torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("unnoticed", [False, True])
def test_a_refused_recording_leaves_no_stream_behind_and_others_are_recorded(unnoticed: bool) -> None:
    backend, module = TorchBackend("cuda", precision="single"), Waiting(unnoticed=unnoticed)
    before = torch.cuda.current_stream()
    expected = TorchBackend("cpu").predict(copy.deepcopy(module), IMAGES)
    torch.testing.assert_close(backend.predict(module, IMAGES), expected, rtol=1e-4, atol=1e-4)
    assert torch.cuda.current_stream() == before
    assert "without CUDA graphs: " in str(backend.how(module))
    other = network(seed=2)
    backend.predict(other, IMAGES)
    assert "without CUDA graphs" not in str(backend.how(other))


def test_many_sizes_of_batches_share_a_pool_and_answer_alike() -> None:
    backend, module = TorchBackend("cuda", precision="single"), network(ResNet18(width=16))
    images = backend.place(IMAGES)
    expected, _ = both(module)
    for _ in range(2):
        for size in range(1, 33):
            outputs, _ = backend.serve(module, images[:size])
            torch.testing.assert_close(outputs, expected[:size], rtol=1e-4, atol=1e-4)
    assert "without CUDA graphs" not in str(backend.how(module))


@pytest.mark.parametrize("way", ["folded", "cudnn", "compiled"])
def test_every_way_gives_the_classes_of_single_precision(way: Way) -> None:
    module = lived_in(network(ResNet18(width=16)))
    here, _ = both(copy.deepcopy(module))
    for half in (False, True):
        runner = ModelRunner(copy.deepcopy(module), torch.device("cuda"), half=half, way=way)
        with torch.inference_mode():
            outputs = runner.outputs(SAMPLES, lambda chunk: IMAGES[chunk]).cpu()
        torch.testing.assert_close(outputs, here, rtol=2e-2, atol=2e-2 if half else 1e-4)


def test_half_precision_is_settled_and_said() -> None:
    backend, module = TorchBackend("cuda"), network(ResNet18(width=16))
    backend.settle(module, lambda: IMAGES)
    assert "of the held samples" in str(backend.how(module))
