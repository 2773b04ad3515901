"""Models run by torch, on CUDA or the CPU: predictions in big batches, and one batch timed as an instance runs it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from backends.runner import LEAST_ROWS, Gather, ModelRunner, Precision
from parity.codes.base import sent
from sim.errors import ParmError

__all__ = ["LEAST_ROWS", "Precision", "TorchBackend"]

LEAST_AGREEMENT = 0.999
"""Share of the held samples for which half precision has to give the same class, for `auto` to take it."""


MOST_RUNNERS = 32
"""Modules that are kept ready; each has a copy of its weights, and on CUDA its recordings."""


class TorchBackend:
    """Runs modules on one device.

    A module that is given to a backend is moved to its device, put into evaluation mode, and stays so.
    """

    def __init__(
        self,
        device: str = "auto",
        batch: int | None = None,
        *,
        precision: Precision = "auto",
        exports: Path | None = None,
    ) -> None:
        """Choose a device: `auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`.

        `batch` is the number of samples per forward pass (default: 2048 on CUDA, on the CPU what suits the model).
        `half` precision is float16 on CUDA and bfloat16 on the CPU; see `settle` for `auto`. Raises ParmError where
        there is no such device. Exports of networks to ONNX are kept in the folder `exports`.
        """
        self.device = _device(device)
        if self.device.type == "cuda" and self.device.index is not None:
            torch.cuda.set_device(self.device)  # streams and events belong to the current device, which would be 0
        self.batch = batch
        self.precision = precision
        if batch is not None and batch < LEAST_ROWS:
            raise ParmError(f"a backend's batch must be at least {LEAST_ROWS} samples, not {batch}")
        self.exports = exports
        self._runners: dict[nn.Module, ModelRunner] = {}

    def place(self, tensor: Tensor) -> Tensor:
        """Put a data set on the device, so that gathering from it copies nothing between devices."""
        return tensor.to(self.device)

    def place_indices(self, arrays: Sequence[NDArray[np.int64]]) -> list[Tensor]:
        """Put arrays of indices on the device, all in one transfer, which nothing waits for."""
        tensors = [torch.from_numpy(np.asarray(array, np.int64)) for array in arrays]
        if self.device.type == "cpu":
            return tensors
        together = sent(torch.cat([one.flatten() for one in tensors]), self.device)
        parts = torch.split(together, [one.numel() for one in tensors])
        return [part.reshape(one.shape) for part, one in zip(parts, tensors, strict=True)]

    def runner(self, module: nn.Module) -> ModelRunner:
        """Return `module` made ready for the device; it is kept until the module changes or newer ones push it out."""
        known = self._runners.pop(module, None)
        if known is None or known.is_stale(module):
            known = self._runner(module, half=self.precision == "half")
        self._keep(module, known)
        return known

    def _runner(self, module: nn.Module, *, half: bool) -> ModelRunner:
        return ModelRunner(module, self.device, half=half, batch=self.batch, exports=self.exports)

    def _keep(self, module: nn.Module, runner: ModelRunner) -> None:
        self._runners[module] = runner
        if len(self._runners) > MOST_RUNNERS:
            del self._runners[next(iter(self._runners))]

    def how(self, module: nn.Module) -> str | None:
        """Return in words how `module` is run, or None if it was not."""
        known = self._runners.get(module)
        return None if known is None else known.how

    def settle(self, module: nn.Module, held: Callable[[], Tensor]) -> ModelRunner:
        """Decide the precision of `module` where that is `auto`; return the module made ready.

        With `precision: auto` on CUDA half precision is taken where at least `LEAST_AGREEMENT` of the answers to the
        `held` samples (n, *shape) are the same class. On the CPU single precision stays: bfloat16 changed one
        answer in a thousand there.
        """
        runner = self.runner(module)
        if self.precision == "auto" and self.device.type == "cuda" and not runner.settled:
            agreement = self.agreement(module, held())
            if agreement >= LEAST_AGREEMENT:
                runner = self._runner(module, half=True)
                self._keep(module, runner)
            runner.settled = True
            runner.agreement = agreement
        return runner

    def distrust_half(self, module: nn.Module) -> bool:
        """Have `module` run in single precision from now on, if half was this backend's choice; return whether it was.

        For outputs that overflowed half precision.
        """
        runner = self.runner(module)
        if not (runner.half and runner.settled):
            return False
        single = self._runner(module, half=False)
        single.settled = True
        self._keep(module, single)
        return True

    def outputs(self, module: nn.Module, rows: int, gather: Gather) -> Tensor:
        """Run `module` over what `gather` makes of each batch of `rows` rows; return float32 (rows, outputs).

        The result is on the device, and nothing waited for it: see `ModelRunner.outputs`.
        """
        with torch.inference_mode():
            return self.runner(module).outputs(rows, gather)

    def predict(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """Run `module` over inputs (n, *shape); return its outputs on the CPU, float32 (n, outputs)."""
        outputs = self.outputs(module, len(inputs), lambda chunk: inputs[chunk])
        return outputs.cpu().clone()  # made outside inference mode: an ordinary tensor, which callers may write to

    def predict_samples(self, module: nn.Module, resident: Tensor, indices: Tensor) -> Tensor:
        """Run `module` over the samples `indices` (n,) of a placed data set; return float32 (n, outputs) on the CPU."""
        indices = indices.to(resident.device)
        return self.outputs(module, len(indices), lambda chunk: resident[indices[chunk]]).cpu().clone()

    def serve(self, module: nn.Module, inputs: Tensor) -> tuple[Tensor, float]:
        """Run `module` once over placed inputs (n, *shape); return what `predict` does, and the seconds of the pass.

        The seconds are those of the forward pass over the inputs as they are, and of the copy of its outputs to the
        CPU. The outputs have the same bits as `predict`'s: where that pads, it does so in a second pass, not timed.
        """
        runner = self.runner(module)
        chunks = torch.split(inputs, self.batch or max(len(inputs), 1))
        with torch.inference_mode():
            self.wait()  # else earlier work on the device would be part of it
            begin = perf_counter()
            outputs = torch.cat([runner(chunk).cpu() for chunk in chunks])  # waits for each
            seconds = perf_counter() - begin
            if 0 < len(chunks[-1]) < LEAST_ROWS or self.device.type == "cuda":
                outputs = runner.outputs(len(inputs), lambda chunk: inputs[chunk]).cpu()
        return outputs.clone(), seconds

    def wait(self) -> None:
        """Wait until the device has finished all its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def agreement(self, module: nn.Module, inputs: Tensor) -> float:
        """Return the fraction of `inputs` for which half and single precision give the same top answer."""
        with torch.inference_mode():
            answers = [
                self._runner(module, half=half).outputs(len(inputs), lambda chunk: inputs[chunk]).argmax(dim=1)
                for half in (True, False)
            ]
        return float((answers[0] == answers[1]).float().mean())

    @property
    def name(self) -> str:
        """The device in words, with the number of threads on a CPU."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        listing = Path("/proc/cpuinfo")
        lines = listing.read_text(encoding="utf-8").splitlines() if listing.exists() else []
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        threads = torch.get_num_threads()
        name = names[0] if names else platform.processor() or platform.machine()
        return f"{name}, {threads} thread{'s' if threads > 1 else ''}"


def _device(name: str) -> torch.device:
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if present else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()) or (kind == "cpu" and number):
        raise ParmError(f"there is no device '{name}': choose auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(number or 0) >= present:
        raise ParmError(f"there is no device '{name}': torch sees {present} CUDA device(s); choose auto or cpu")
    return torch.device(name)
