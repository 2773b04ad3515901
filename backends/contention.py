"""Real interfering work: processes that run a model on the same device, over and over, while something is measured."""

from __future__ import annotations

import contextlib
import copy
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from multiprocessing.synchronize import Event
from typing import TYPE_CHECKING

from backends.processes import ignoring_sigint
from sim.errors import ParmError

if TYPE_CHECKING:
    from torch import nn

PATIENCE = 120.0
"""Seconds within which an interfering process has to be at work."""


@contextlib.contextmanager
def contending(count: int, module: nn.Module, shape: Sequence[int], batch: int, device: str) -> Iterator[None]:
    """Keep `count` processes busy on `device` with passes of `module` over batches (batch, *shape) of noise.

    All of them are at work once the block is entered, and gone after it. Raises ParmError where one does not start.
    """
    if not count:
        yield
        return
    # Started afresh rather than forked: neither CUDA nor a pool of threads outlives a fork.
    context = multiprocessing.get_context("spawn")
    stop, given = context.Event(), copy.deepcopy(module).cpu()
    started = [context.Event() for _ in range(count)]
    processes = [
        context.Process(target=_interfere, args=(given, (batch, *shape), device, ready, stop), daemon=True)
        for ready in started
    ]
    try:
        for process in processes:
            with ignoring_sigint():
                process.start()
        patient_until = time.monotonic() + PATIENCE
        for process, ready in zip(processes, started, strict=True):
            while not ready.wait(0.2):
                if not process.is_alive() or time.monotonic() > patient_until:
                    raise ParmError(f"an interfering process did not start (exit status {process.exitcode})")
        yield
    finally:
        stop.set()
        for process in processes:
            process.join(5.0)
            if process.is_alive():
                process.kill()
                process.join()


def _interfere(module: nn.Module, shape: tuple[int, ...], device: str, ready: Event, stop: Event) -> None:
    import torch

    from backends.torch_backend import TorchBackend

    backend = TorchBackend(device)
    inputs = backend.place(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    while not stop.is_set():
        backend.serve(module, inputs)
        ready.set()
