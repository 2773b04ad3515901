"""The CUDA path on a real device: what `test_pretend_cuda.py` tests without one, and what only a device can tell."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from backends.answers import Predictor
from backends.runner import ModelRunner, Way
from backends.torch_backend import TorchBackend
from parity.networks import Network, ResNet18
from parity.objectives import Reconstruction, Supervised
from parity.recipes import Best
from tests.backends.test_fusion import lived_in
from tests.backends.test_pretend_cuda import CODES, IMAGES, SAMPLES, Cell, Waiting, fitted, network, training_data

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


@pytest.mark.parametrize("wide_stem", [False, True])
@pytest.mark.parametrize("way", ["folded", "cudnn"])
def test_every_way_gives_the_outputs_of_single_precision(way: Way, wide_stem: bool) -> None:
    module = lived_in(network(ResNet18(width=16)))
    here, _ = both(copy.deepcopy(module))
    for half in (False, True):
        runner = ModelRunner(copy.deepcopy(module), torch.device("cuda"), half=half, way=way, wide_stem=wide_stem)
        with torch.inference_mode():
            outputs = runner.outputs(SAMPLES, lambda chunk: IMAGES[chunk]).cpu()
        torch.testing.assert_close(outputs, here, rtol=2e-2, atol=2e-2 if half else 1e-4)


def test_half_precision_is_settled_and_said() -> None:
    backend, module = TorchBackend("cuda"), network(ResNet18(width=16))
    backend.settle(module, lambda: IMAGES)
    assert "of the held samples" in str(backend.how(module))


@pytest.mark.parametrize("views", [None, 2])
def test_recorded_steps_learn_what_steps_as_they_are_learn(views: int | None, tmp_path: Path) -> None:
    code, k, r = CODES["addition"]
    data, part, found = training_data(4), code.parts(k, r)[0], []
    for graphed in (None, True):
        recipe = Best(epochs=3, holdout=20, shift=1, flip=True, views=views, graphed=graphed)
        module = network(ResNet18(width=16)).cuda()
        objective = Reconstruction(data, network().cuda(), part, recipe, torch.device("cuda"))
        fit, losses = fitted(module, objective, recipe, 14, tmp_path / str(graphed))
        assert fit.refused == ""
        found.append(losses)
    torch.testing.assert_close(*found, rtol=0.02, atol=0)


@pytest.mark.parametrize("unnoticed", [False, True])
def test_after_a_refused_step_training_goes_on_and_random_layers_draw(unnoticed: bool, tmp_path: Path) -> None:
    recipe = Best(epochs=2, holdout=10, shift=1, graphed=True)
    module = nn.Sequential(Waiting(unnoticed=unnoticed), nn.Dropout()).cuda()
    objective = Supervised(training_data(2), recipe, torch.device("cuda"))
    fit, losses = fitted(module, objective, recipe, 10, tmp_path)
    assert fit.refused
    assert len(losses) == 2
    assert torch.rand(3, device="cuda").shape == (3,)


def test_a_compiled_network_gives_the_outputs_of_single_precision() -> None:
    module = lived_in(network(ResNet18(width=16)))  # the last test, since it takes longest
    here, _ = both(copy.deepcopy(module))
    runner = ModelRunner(module, torch.device("cuda"), half=True, way="compiled")
    with torch.inference_mode():
        outputs = runner.outputs(SAMPLES, lambda chunk: IMAGES[chunk]).cpu()
    torch.testing.assert_close(outputs, here, rtol=2e-2, atol=2e-2)
