"""Models run by torch, on CUDA or the CPU: predicting in big batches, and measuring what a batch takes."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backends.profile import Quantiles, RoleName, ServiceProfile
from sim.errors import ParmError

LEAST_ROWS = 16
"""Smaller batches than this are padded. A CPU's matrix kernels round differently for tiny batches; from 8 rows on, a
sample's output was measured to have the same bits whatever it shares its batch with, so that answers do not depend on
which cell of an experiment asked for them first."""


class TorchBackend:
    """Runs modules on one device.

    A module that is given to a backend is moved to its device, put into evaluation mode, and stays so.
    """

    def __init__(self, device: str = "auto", batch: int | None = None, *, half: bool = False) -> None:
        """Choose a device: `auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`.

        `batch` is the number of samples per forward pass (default: 256 on the CPU, 2048 on CUDA). `half` computes in
        half precision (float16 on CUDA, bfloat16 on the CPU); `agreement` tells whether a model's answers bear that.
        Raises ParmError where there is no such device.
        """
        self.device = _device(device)
        on_cuda = self.device.type == "cuda"
        self.batch = batch if batch is not None else 2048 if on_cuda else 256
        if self.batch < LEAST_ROWS:
            raise ParmError(f"a backend's batch must be at least {LEAST_ROWS} samples, not {self.batch}")
        self.half = half
        self._half_type = torch.float16 if on_cuda else torch.bfloat16

    def place(self, tensor: Tensor) -> Tensor:
        """Put a data set on the device, where `predict_samples` then finds it without any copying."""
        return tensor.to(self.device)

    def predict(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """Run `module` over inputs (n, *shape); return its outputs on the CPU, float32 (n, outputs)."""
        return self._run(module, (inputs[chunk] for chunk in self._chunks(len(inputs))))

    def predict_samples(self, module: nn.Module, resident: Tensor, indices: Tensor) -> Tensor:
        """Run `module` over the samples `indices` (n,) of a placed data set; return float32 (n, outputs) on the CPU."""
        indices = indices.to(resident.device)
        return self._run(module, (resident[indices[chunk]] for chunk in self._chunks(len(indices))))

    def serve(self, module: nn.Module, inputs: Tensor) -> tuple[Tensor, float]:
        """Run `module` once over placed inputs (n, *shape); return what `predict` does, and the seconds of the pass.

        The seconds are those of the forward pass over the inputs as they are, and of the copy of its outputs to the
        CPU. The outputs have the same bits as `predict`'s: where that pads, it does so in a second pass, not timed.
        """
        self._prepare(module)
        chunks = self._chunks(len(inputs))
        with torch.inference_mode():
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # or what was asked of the device before would be part of it
            begin = perf_counter()
            outputs = torch.cat([self._forward(module, inputs[chunk]) for chunk in chunks]).cpu()  # waits for it
            seconds = perf_counter() - begin
        if 0 < len(inputs) % self.batch < LEAST_ROWS:
            return self._run(module, (inputs[chunk] for chunk in chunks)), seconds
        return outputs.clone(), seconds

    def agreement(self, module: nn.Module, inputs: Tensor) -> float:
        """Return the fraction of `inputs` for which half and single precision give the same top answer."""
        answers = [
            TorchBackend(str(self.device), self.batch, half=half).predict(module, inputs) for half in (True, False)
        ]
        return float((answers[0].argmax(dim=1) == answers[1].argmax(dim=1)).float().mean())

    def measure(
        self,
        module: nn.Module,
        shape: Sequence[int],
        batch_sizes: Sequence[int] = (1,),
        repeats: int = 500,
        warmup: int = 50,
        *,
        role: RoleName = "deployed",
        network: str | None = None,
    ) -> ServiceProfile:
        """Time `module` on random inputs of `shape`, `repeats` times per batch size after `warmup` discarded rounds.

        A service is the whole of what an instance does with a batch: the copy to the device, the forward pass and the
        copy back. The batch sizes take turns, so that a drift of the machine's speed touches all of them alike.
        `network` names the model in the profile (default: its class). Raises ParmError for sizes or repeats below 1.
        """
        if repeats < 1 or warmup < 0 or not batch_sizes or min(batch_sizes) < 1:
            raise ParmError("a measurement needs batch sizes and repeats of at least 1, and a warm-up of at least 0")
        generator = torch.Generator().manual_seed(0)
        inputs = {size: torch.randn(size, *shape, generator=generator) for size in sorted(set(batch_sizes))}
        seconds: dict[int, list[float]] = {size: [] for size in inputs}
        self._prepare(module)
        with torch.inference_mode():
            for step in range(warmup + repeats):
                for size, batch in inputs.items():
                    took = self._time(module, batch)
                    if step >= warmup:
                        seconds[size].append(took)
        return ServiceProfile(
            device=_device_name(self.device),
            network=network or type(module).__name__,
            how=f"measured: copy in, forward pass in {'half' if self.half else 'single'} precision and copy out of "
            f"random inputs {'x'.join(map(str, shape))}; {repeats} rounds after {warmup} discarded",
            made={"torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine()},
            roles={role: {size: Quantiles.of(np.asarray(times)) for size, times in seconds.items()}},
        )

    def _chunks(self, rows: int) -> list[slice]:
        return [slice(start, start + self.batch) for start in range(0, max(rows, 1), self.batch)]

    def _run(self, module: nn.Module, chunks: Iterable[Tensor]) -> Tensor:
        self._prepare(module)
        with torch.inference_mode():
            outputs = torch.cat([self._padded(module, chunk) for chunk in chunks]).cpu()
        return outputs.clone()  # made outside inference mode: an ordinary tensor, which callers may write to

    def _prepare(self, module: nn.Module) -> None:
        module.eval().to(self.device)
        if _is_convolutional(module):
            module.to(memory_format=torch.channels_last)

    def _padded(self, module: nn.Module, inputs: Tensor) -> Tensor:
        rows = len(inputs)
        if 0 < rows < LEAST_ROWS:
            inputs = torch.cat([inputs, inputs[-1:].expand(LEAST_ROWS - rows, *inputs.shape[1:])])
        return self._forward(module, inputs)[:rows]

    def _forward(self, module: nn.Module, inputs: Tensor) -> Tensor:
        inputs = inputs.to(self.device, non_blocking=True)
        if inputs.dim() == 4 and _is_convolutional(module):
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=self._half_type, enabled=self.half):
            outputs: Tensor = module(inputs)
        return outputs.float()

    def _time(self, module: nn.Module, inputs: Tensor) -> float:
        """Return the seconds of one service: with CUDA events where there is CUDA, else by the wall clock."""
        if self.device.type != "cuda":
            begin = perf_counter()
            self._forward(module, inputs)
            return perf_counter() - begin
        event: Any = torch.cuda.Event
        begun, ended = event(enable_timing=True), event(enable_timing=True)
        begun.record()
        self._forward(module, inputs).cpu()
        ended.record()
        ended.synchronize()
        return float(begun.elapsed_time(ended)) / 1000


def _is_convolutional(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Conv2d) for part in module.modules())


def _device(name: str) -> torch.device:
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if present else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()) or (kind == "cpu" and number):
        raise ParmError(f"there is no device '{name}': choose auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(number or 0) >= present:
        raise ParmError(f"device '{name}' is not here: torch sees {present} CUDA device(s); choose auto or cpu")
    return torch.device(name)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    threads = torch.get_num_threads()
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"
