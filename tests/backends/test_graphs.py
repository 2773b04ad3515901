"""What surrounds a CUDA graph, with a recording made of Python."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from backends import graphs
from backends.graphs import Forward, Graphs, Recording


def doubled(inputs: Tensor) -> Tensor:
    return 2 * inputs


class Recorder:
    """Records by keeping the function: `replay` goes from the held inputs to the held outputs, as a graph does."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, forward: Forward, inputs: Tensor, pool: object) -> Recording:
        self.shapes.append(tuple(inputs.shape))
        held, outputs = inputs.clone(), forward(inputs)
        return Recording(held, outputs, lambda: outputs.copy_(forward(held)))


def test_a_shape_is_recorded_once_and_replayed_with_the_inputs_of_the_call() -> None:
    recorder = Recorder()
    run = Graphs(doubled, recorder)
    for value in (1.0, 3.0, 5.0):
        for rows in (4, 2):
            assert torch.equal(run(torch.full((rows, 3), value)), torch.full((rows, 3), 2 * value))
    assert recorder.shapes == [(4, 3), (2, 3)]
    assert run.refused is None


def test_another_type_or_layout_is_another_recording() -> None:
    recorder = Recorder()
    run = Graphs(doubled, recorder)
    inputs = torch.randn(2, 3, 4, 4)
    for given in (inputs, inputs.half(), inputs.contiguous(memory_format=torch.channels_last)):
        assert torch.equal(run(given), 2 * given)
    assert len(recorder.shapes) == 3


def test_shapes_beyond_the_most_run_without_a_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST_SHAPES", 2)
    recorder = Recorder()
    run = Graphs(doubled, recorder)
    for rows in (1, 2, 3, 4, 1):
        assert torch.equal(run(torch.ones(rows)), torch.full((rows,), 2.0))
    assert recorder.shapes == [(1,), (2,)]


def test_a_module_that_cannot_be_recorded_runs_as_it_is() -> None:
    asked = []

    def refuse(forward: Forward, inputs: Tensor, pool: object) -> Recording:
        asked.append(len(inputs))
        raise RuntimeError("operation not permitted when stream is capturing")

    run = Graphs(doubled, refuse)
    for rows in (1, 2):
        assert torch.equal(run(torch.ones(rows)), torch.full((rows,), 2.0))
    assert asked == [1]
    assert run.refused == "operation not permitted when stream is capturing"
