"""CUDA graphs: a module's kernels recorded once per shape of its inputs, then launched together.

A network of small layers on a big GPU spends more time on launching kernels than on running them. The recording is a
function that is handed in, so that everything around it is tested where there is no CUDA.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Forward = Callable[[Tensor], Tensor]

MOST_SHAPES = 16
"""Each recording keeps its intermediate results on the device; shapes beyond this many run without one."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What runs again with `replay`: from what is in `inputs` then, to what is in `outputs` afterwards."""

    inputs: Tensor
    outputs: Tensor
    replay: Callable[[], Any]


def record(forward: Forward, inputs: Tensor) -> Recording:
    """Record `forward` on CUDA for inputs of this shape. Raises RuntimeError where it waits for the device."""
    held = inputs.clone()
    cuda: Any = torch.cuda
    aside = cuda.Stream(inputs.device)
    aside.wait_stream(torch.cuda.current_stream(inputs.device))
    with torch.cuda.stream(aside):
        for _ in range(3):  # kernels are chosen, and workspaces made, before anything is recorded
            forward(held)
    torch.cuda.current_stream(inputs.device).wait_stream(aside)
    graph = cuda.CUDAGraph()
    with cuda.graph(graph, stream=aside):  # its own stream would be on whichever device is the current one
        outputs = forward(held)
    return Recording(held, outputs, graph.replay)


class Graphs:
    """A forward pass that replays a recording wherever it can."""

    def __init__(self, forward: Forward, record: Callable[[Forward, Tensor], Recording] = record) -> None:
        """Wrap `forward`; `record` makes a recording of it."""
        self._forward = forward
        self._record = record
        self._recordings: dict[tuple[Any, ...], Recording] = {}
        self.refused: str | None = None
        """Why the module cannot be recorded, once that is known; it then runs as it is."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the outputs, which hold only until the next call with inputs of this shape."""
        key = (inputs.shape, inputs.stride(), inputs.dtype)
        if key not in self._recordings:
            if self.refused is not None or len(self._recordings) == MOST_SHAPES:
                return self._forward(inputs)
            try:
                self._recordings[key] = self._record(self._forward, inputs)
            except RuntimeError as error:
                self.refused = str(error)
                return self._forward(inputs)
        recording = self._recordings[key]
        recording.inputs.copy_(inputs)
        recording.replay()
        return recording.outputs
