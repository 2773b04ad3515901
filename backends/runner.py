"""One model made ready for one device: a fused copy of it, its precision and layout, its batch and its CUDA graphs."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from backends import onnx
from backends.fusion import trusted_copy
from backends.graphs import Graphs

Precision = Literal["auto", "half", "single"]
"""Of forward passes. `auto` is half precision on CUDA where a model's answers bear it, and single elsewhere."""

LEAST_ROWS = 16
"""Smaller batches than this are padded. A CPU's matrix kernels round differently for tiny batches; from 8 rows on, a
sample's output was measured to have the same bits in every batch, so that answers do not depend on which cell of an
experiment needs them first."""

CACHE = 2**22
"""Bytes that a batch's largest activation may take on the CPU, so that the next layer finds it in a cache."""

ONNX_BATCH = 64
"""Samples per pass in ONNX Runtime. Small networks were fastest with 16 to 64, on one thread, by up to a seventh."""

Gather = Callable[[slice], Tensor]
"""Returns the inputs of these rows, on the device; called once per batch."""

Way = Literal["onnx", "folded", "cudnn", "compiled"]
"""How a network is run: by ONNX Runtime, as a copy with batch norm folded away, with cuDNN's fused convolutions too, or
by torch.compile. Networks without convolutions have nothing to fold and run as they are."""


class ModelRunner:
    """Runs one module on one device, without ever waiting for that device.

    The module is moved to the device and put into evaluation mode, and stays so. A convolutional one is run as a fused
    copy, to which later changes of the module do not carry over; `is_stale` detects them.
    """

    def __init__(
        self,
        module: nn.Module,
        device: torch.device,
        *,
        half: bool,
        batch: int | None = None,
        exports: Path | None = None,
        way: Way | None = None,
        wide_stem: bool = False,
    ) -> None:
        """Prepare to run `module`; `batch` is the number of samples per pass, chosen from the first inputs if None.

        `exports` is the folder for exports to ONNX. `way` is how a convolutional network is run, by default by
        ONNX Runtime in single precision on the CPU and as a folded copy elsewhere; `wide_stem` gives its first
        convolution channels of zeros, up to a multiple of eight.
        """
        self.device = device
        self.half = half
        self.batch = batch
        self._done = "as it is"
        self.settled = False
        """Whether the precision has been decided for this module."""
        self.agreement: float | None = None
        """Share of the held samples on which half and single precision agree, where that decided."""
        self.way: Way = way or ("onnx" if device.type == "cpu" and not half else "folded")
        self._wide_stem = wide_stem
        self._exports = exports
        self._given = module.eval().to(device)
        self._state = _state(module)
        self._type = (torch.float16 if device.type == "cuda" else torch.bfloat16) if half else torch.float32
        self._convolves = any(isinstance(part, nn.Conv2d) for part in module.modules())
        self._channels_last = self._convolves
        self._module: nn.Module | None = None
        """What runs in torch; None before the first pass, and where ONNX Runtime runs."""
        self._forward: Callable[[Tensor], Tensor] = self._first
        self._graphs: Graphs | None = None

    @property
    def how(self) -> str:
        """What was done to the module and in which precision it runs, in words; once it has run."""
        said = [self._done, f"{'half' if self.half else 'single'} precision"]
        if self.agreement is not None:
            said.append(f"half precision agrees on {self.agreement:.4f} of the held samples")
        if self._graphs is not None and self._graphs.refused is not None:
            said.append(f"without CUDA graphs: {self._graphs.refused}")
        return "; ".join(said)

    def is_stale(self, module: nn.Module) -> bool:
        """Return whether `module` was trained, loaded or moved since it was made ready, or the threads changed."""
        return module.training or self._state != _state(module)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Run over inputs (n, *shape) as they are; return float32 (n, outputs), valid until the next call."""
        inputs = inputs.to(self.device, self._type, non_blocking=True)
        if self._channels_last and inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with _full_single_precision(self.device):
            return self._forward(inputs).float()

    def _first(self, inputs: Tensor) -> Tensor:
        """Make the copy or session that runs, and run it over the first inputs."""
        module = self._given
        if self._convolves and self.way == "onnx":
            try:
                self._forward = onnx.optimised(module, inputs, self._exports)
            except ValueError as reason:
                module, how = trusted_copy(module, inputs[:1])
                self._done = f"{how}; not by ONNX Runtime: {reason}"
            else:
                self._done, self._channels_last = "by ONNX Runtime", False
                return self._forward(inputs)
        elif self._convolves:
            example, cudnn = inputs[:1].float(), self.way == "cudnn"
            module, self._done = trusted_copy(module, example, cudnn=cudnn, wide_stem=self._wide_stem)
        if self.half:
            module = copy.deepcopy(module).to(self._type)
        if self._channels_last:
            module = module.to(memory_format=torch.channels_last)
        if self.way == "compiled":
            module.compile(mode="max-autotune-no-cudagraphs")
        self._module = module
        self._forward = module
        if self.device.type == "cuda":
            self._forward = self._graphs = Graphs(module)
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

        Nothing waits for the device in between: gathering, encoding and forward passes of all batches are queued.
        """
        step = self.batch_for(gather) if rows else 1
        result = torch.empty(0)
        start = 0
        while start < max(rows, 1):
            chunk = slice(start, min(start + step, rows))
            try:
                outputs = self.padded(gather(chunk))
            except torch.OutOfMemoryError:
                if step <= LEAST_ROWS:
                    raise
                step = self.batch = max(LEAST_ROWS, step // 2)
                self._forget_recordings()
                continue
            if start == 0:
                result = torch.empty(rows, *outputs.shape[1:], device=self.device)
            result[chunk] = outputs
            start += step
        return result

    def _forget_recordings(self) -> None:
        if self._graphs is not None:
            self._graphs.clear()
        torch.cuda.empty_cache()

    def batch_for(self, gather: Gather) -> int:
        """Return the samples per pass, chosen by a pass over the first row if it is not known yet.

        A rule and not a measurement: a choice that depends on what else the machine does could change rounding, and
        with it an answer, from run to run.
        """
        if self.batch is None:
            if self.device.type == "cuda":
                self.batch = 2048
            else:
                first = gather(slice(0, 1))
                self.padded(first)
                if self._module is None:
                    self.batch = ONNX_BATCH
                else:
                    fitting = CACHE * LEAST_ROWS // max(1, largest_activation(self._module, lambda: self.padded(first)))
                    self.batch = min(256, max(32, 1 << fitting.bit_length() - 1 if fitting else 0))
        return self.batch


@contextlib.contextmanager
def _full_single_precision(device: torch.device) -> Iterator[None]:
    """Have CUDA convolve single precision as such; by default it multiplies in TF32, with ten bits of mantissa."""
    allowed = torch.backends.cudnn.allow_tf32
    if device.type != "cuda" or not allowed:
        yield
        return
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


def largest_activation(module: nn.Module, run: Callable[[], Tensor]) -> int:
    """Return the bytes of the largest tensor that any part of `module` returns while `run` runs."""
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
    written = ((tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors)
    return (torch.get_num_threads(), 0), *written
