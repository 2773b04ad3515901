"""A forward pass that replays CUDA graphs, one for each shape of its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from parity.capture import capture, waits_refused

Forward = Callable[[Tensor], Tensor]

MOST_SHAPES = 512
"""Each recording keeps its inputs and outputs on the device; shapes beyond this many run without one, and `Graphs`
says so."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorded forward pass: `replay` computes `outputs` from the present content of `inputs`."""

    inputs: Tensor
    outputs: Tensor
    replay: Callable[[], Any]
    pool: Any = None


def record(forward: Forward, inputs: Tensor, pool: Any = None) -> Recording:
    """Record `forward` on CUDA for inputs of this shape, with intermediate results in `pool` where that is given.

    Raises RuntimeError where it waits for the device, and leaves stream and allocator as they were.
    """
    held = inputs.clone()
    cuda: Any = torch.cuda
    aside = cuda.Stream(inputs.device)  # of this device: its own stream would be the current device's
    aside.wait_stream(cuda.current_stream(inputs.device))
    with cuda.stream(aside):
        forward(held)  # kernels are chosen, and workspaces made, before anything is recorded
        with waits_refused():  # most of what cannot be recorded is refused here, with nothing to mend
            for _ in range(2):
                forward(held)
    cuda.current_stream(inputs.device).wait_stream(aside)
    outputs, graph = capture(lambda: forward(held), aside, pool)
    return Recording(held, outputs, graph.replay, graph.pool())


class Graphs:
    """A forward pass that replays CUDA graphs: a module's kernels recorded once per shape of its inputs.

    All recordings share one pool for their intermediate results. The recording is a function that is handed in, so
    that everything around it is tested where there is no CUDA.
    """

    def __init__(self, forward: Forward, record: Callable[[Forward, Tensor, Any], Recording] = record) -> None:
        """Wrap `forward`; `record` makes a recording of it."""
        self._forward = forward
        self._record = record
        self._recordings: dict[tuple[Any, ...], Recording] = {}
        self.refused: str | None = None
        """Why the module, or another shape of inputs, is not recorded; it then runs as it is."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the outputs, which hold only until the next call. Raises OutOfMemoryError, after which to try less."""
        key = (inputs.shape, inputs.stride(), inputs.dtype)
        if key not in self._recordings:
            if self.refused is None and len(self._recordings) == MOST_SHAPES:
                self.refused = f"only {MOST_SHAPES} shapes of inputs are recorded"
            if self.refused is not None:
                return self._forward(inputs)
            pool = next((one.pool for one in self._recordings.values()), None)
            try:
                self._recordings[key] = self._record(self._forward, inputs, pool)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self.refused = str(error)
                return self._forward(inputs)
        recording = self._recordings[key]
        recording.inputs.copy_(inputs)
        recording.replay()
        return recording.outputs

    def clear(self) -> None:
        """Give the recordings' memory back."""
        self._recordings.clear()
