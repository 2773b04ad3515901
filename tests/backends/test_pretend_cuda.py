"""The CUDA path on a device that is not there: placement, waits of the host, graphs and precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple

import numpy as np
import pytest
import torch
from torch import nn

from backends.answers import Predictor
from backends.torch_backend import TorchBackend
from parity.codes import Addition, Approxifer, Concatenation, Conditional, Exact, InvNet, Learned, Nercc, TensorCode
from parity.networks import Mlp, Network
from sim.trace import Route, Trace
from tests import pretend_cuda
from tests.backends.test_answers import make_trace, random_trace
from tests.pretend_cuda import Device, PlacementError
from tests.pretend_cuda import pretend_cuda as pretended

pytestmark = [
    pytest.mark.skipif(bool(pretend_cuda.MISSING), reason=f"this torch lacks {', '.join(pretend_cuda.MISSING)}"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device: nothing has to be pretended"),
]


@pytest.fixture
def device() -> Iterator[Device]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with pretended() as device:
        yield device


def test_the_device_tells_placement_waits_and_pinned_copies_apart(device: Device) -> None:
    there, here = torch.ones(4, device="cuda"), torch.ones(4)
    assert there.is_cuda
    assert not (there + 1).cpu().is_cuda
    with pytest.raises(PlacementError):
        there + here
    device.clear()
    _ = here.pin_memory().to("cuda", non_blocking=True) + there
    assert device.waits == []
    there.sum().item()
    here.to("cuda")
    here.pin_memory().to("cuda")
    there.to("cpu", non_blocking=True)
    there.nonzero()
    assert len(device.waits) == 5
    assert all(line.startswith("tests/backends/test_pretend_cuda.py:") for _, line in device.waits)


SHAPE, CLASSES, SAMPLES = (1, 8, 8), 6, 50
IMAGES = torch.randn(SAMPLES, *SHAPE, generator=torch.Generator().manual_seed(1))
LABELS = np.random.default_rng(1).integers(0, CLASSES, SAMPLES)
CODES: dict[str, tuple[TensorCode, int, int]] = {
    "addition": (Addition(), 2, 1),
    "addition, two rows": (Addition(), 3, 2),
    "concatenation": (Concatenation(), 2, 1),
    "conditional": (Conditional(), 2, 1),
    "exact": (Exact(), 3, 2),
    "invnet": (InvNet(), 2, 1),
    "learned": (Learned(), 2, 1),
    "approxifer": (Approxifer(), 2, 3),
    "nercc": (Nercc(), 2, 3),
}


def network(kind: Network | None = None, seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return (kind or Mlp(hidden=(20,))).build(SHAPE, CLASSES).eval()


def trace_for(code: TensorCode, k: int, r: int, seed: int) -> Trace:
    """Make a trace with many reconstructions; where no answer counts as it is, of all queries from k coded answers."""
    if code.systematic:
        return random_trace(k, r, seed)
    generator = np.random.default_rng(seed)
    batches = [(1, group, slot) for group in range(12) for slot in range(k)]
    masks = [sum(1 << k + int(row) for row in generator.permutation(r)[:k]) for _ in batches]
    return make_trace(batches, {query: (Route.RECONSTRUCTION, mask) for query, mask in enumerate(masks)}, k, r)


class Cell:
    """A code at work with untrained parts, and traces whose answers are asked for."""

    def __init__(self, name: str, kind: Network | None = None) -> None:
        self.code, self.k, self.r = CODES[name]
        self.deployed, self.backup = network(kind), network(kind, 2)
        kind = kind or Mlp(hidden=(20,))
        trained = [
            part.build(kind, SHAPE, CLASSES, lambda _module: None).eval() for part in self.code.parts(self.k, self.r)
        ]
        self.coder, self.parities = self.code.bind(self.k, self.r, trained, self.deployed)

    def predictor(self, device: str) -> Predictor:
        return Predictor(TorchBackend(device, precision="single"), self.deployed, IMAGES, LABELS, default_answer=3)

    def answer(self, predictor: Predictor, seed: int) -> tuple[object, ...]:
        trace = trace_for(self.code, self.k, self.r, seed)
        samples = np.random.default_rng(seed).integers(0, SAMPLES, len(trace.queries))
        found = astuple(predictor.answer(trace, samples, self.coder, self.parities, self.backup))
        return tuple(one.tolist() if isinstance(one, np.ndarray) else one for one in found)


@pytest.mark.parametrize("name", CODES)
def test_deferred_answers_of_every_code_are_the_cpus(name: str) -> None:
    cell = Cell(name)
    on_cpu = cell.predictor("cpu")
    expected = [cell.answer(on_cpu, seed) for seed in range(3)]
    with pretended():
        there = cell.predictor("cuda")
        assert [cell.answer(there, seed) for seed in range(3)] == expected
