"""One model made ready for one device: a fused copy of it, its precision and layout, and the batch that suits both."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from backends.fusion import fused
from backends.graphs import Graphs

Precision = Literal["auto", "half", "single"]
"""Of forward passes. `auto` is half precision on CUDA where a model's answers bear it, and single elsewhere."""

LEAST_ROWS = 16
"""Smaller batches than this are padded. A CPU's matrix kernels round differently for tiny batches; from 8 rows on, a
sample's output was measured to have the same bits whatever it shares its batch with, so that answers do not depend on
which cell of an experiment asked for them first."""

CACHE = 2**22
"""Bytes that a batch's largest activation may take on the CPU, so that the next layer finds it in a cache."""

Gather = Callable[[slice], Tensor]
"""Makes the inputs of these rows, on the device; called once per batch, and asked for nothing beyond its rows."""


class ModelRunner:
    """Runs one module on one device, without ever waiting for that device.

    The module is moved to the device and put into evaluation mode, and stays so. A convolutional one is run as a fused
    copy, to which later changes of the module do not carry over; `is_stale` tells them.
    """

    def __init__(self, module: nn.Module, device: torch.device, *, half: bool, batch: int | None = None) -> None:
        """Prepare to run `module`; `batch` is the number of samples per pass, chosen from the first inputs if None."""
        self.device = device
        self.half = half
        self.batch = batch
        self.how = "as it is"
        """What was done to the module, in words."""
        self.settled = False
        """Whether half precision has been weighed for this module."""
        self._given = module.eval().to(device)
        self._state = _state(module)
        self._type = (torch.float16 if device.type == "cuda" else torch.bfloat16) if half else torch.float32
        self._channels_last = any(isinstance(part, nn.Conv2d) for part in module.modules())
        self._module: nn.Module | None = None
        self._forward: Callable[[Tensor], Tensor] = self._first

    def is_stale(self, module: nn.Module) -> bool:
        """Say whether `module` was trained, loaded or moved since it was made ready."""
        return module.training or self._state != _state(module)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Run over inputs (n, *shape) as they are; return float32 (n, outputs), good until the next call."""
        inputs = inputs.to(self.device, self._type, non_blocking=True)
        if self._channels_last and inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return self._forward(inputs).float()

    def _first(self, inputs: Tensor) -> Tensor:
        """Make the copy that runs, and run it."""
        module = self._given
        if self._channels_last:
            module, self.how = trusted_copy(
                module, inputs[:1].float(), onednn=self.device.type == "cpu" and not self.half
            )
        if self.half:
            module = copy.deepcopy(module).to(self._type)
        if self._channels_last:
            module = module.to(memory_format=torch.channels_last)
        self._module = module
        self._forward = Graphs(module) if self.device.type == "cuda" else module
        return self._forward(inputs)

    def padded(self, inputs: Tensor) -> Tensor:
        """Run over inputs (n, *shape), filled up to a size whose outputs depend on nothing but their own sample."""
        rows = len(inputs)
        size = max(rows, LEAST_ROWS) if rows else 0
        if self.device.type == "cuda" and rows:
            size = max(LEAST_ROWS, 1 << (rows - 1).bit_length())  # few shapes, since each has a recording of its own
        if rows < size:
            inputs = torch.cat([inputs, inputs[-1:].expand(size - rows, *inputs.shape[1:])])
        return self(inputs)[:rows]

    def outputs(self, rows: int, gather: Gather) -> Tensor:
        """Run over `rows` rows, batch by batch; return float32 (rows, outputs) on the device.

        Nothing waits for the device in between: gathering, encoding and passing of all batches are queued up.
        """
        step = self.batch_for(gather) if rows else 1
        result = torch.empty(0)
        for start in range(0, max(rows, 1), step):
            chunk = slice(start, min(start + step, rows))
            outputs = self.padded(gather(chunk))
            if start == 0:
                result = torch.empty(rows, *outputs.shape[1:], device=self.device)
            result[chunk] = outputs
        return result

    def batch_for(self, gather: Gather) -> int:
        """Return the samples per pass, chosen by a pass over the first row where that is still open.

        A rule and not a measurement: a choice that depends on what else the machine does could change rounding, and
        with it an answer, from run to run.
        """
        if self.batch is None:
            if self.device.type == "cuda":
                self.batch = 2048
            else:
                first = gather(slice(0, 1))
                self.padded(first)
                assert self._module is not None  # it was made in that pass
                fitting = CACHE * LEAST_ROWS // max(1, largest_activation(self._module, lambda: self.padded(first)))
                self.batch = min(256, max(32, 1 << fitting.bit_length() - 1 if fitting else 0))
        return self.batch


def trusted_copy(module: nn.Module, inputs: Tensor, *, onednn: bool) -> tuple[nn.Module, str]:
    """Return a fused copy of `module` and what was done to it, once it has answered `inputs` (n, *shape) alike.

    Where it does not, a plain copy: a network can do what no pattern of layers shows.
    """
    made, how = fused(module, onednn=onednn)
    plain = module(inputs)
    try:
        error = float((made(inputs) - plain).abs().max())
    except RuntimeError as problem:
        return copy.deepcopy(module), f"as it is: fused, it says {str(problem).splitlines()[0]}"
    # On CUDA convolutions may multiply in TF32, with ten bits of mantissa.
    allowed = (1e-2 if inputs.is_cuda else 1e-4) * max(1.0, float(plain.abs().max()))
    return (made, how) if error <= allowed else (copy.deepcopy(module), f"as it is: fused, it is off by {error:.1e}")


def largest_activation(module: nn.Module, run: Callable[[], Tensor]) -> int:
    """Return the bytes of the largest tensor that any part of `module` hands on while `run` runs."""
    largest = 0

    def look(_module: nn.Module, _inputs: object, outputs: object) -> None:
        nonlocal largest
        if isinstance(outputs, Tensor):
            largest = max(largest, outputs.numel() * outputs.element_size())

    hooks = [part.register_forward_hook(look) for part in module.modules()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return largest


def _state(module: nn.Module) -> tuple[tuple[int, int], ...]:
    """Return what changes when a parameter or a buffer does: where it is, and how often it was written to."""
    tensors = [*module.parameters(), *module.buffers()]
    return tuple((tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors)
