"""Real interfering work: processes that run a model on the same device, over and over, while something is measured."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

from backends.processes import die_with_parent, start, stop
from sim.errors import ParmError

if TYPE_CHECKING:
    from torch import nn

    from backends.torch_backend import Precision, TorchBackend

PATIENCE = 120.0
"""Seconds within which an interfering process has to have made its first pass."""


@contextlib.contextmanager
def contending(count: int, module: nn.Module, shape: Sequence[int], backend: TorchBackend) -> Iterator[None]:
    """Keep `count` processes busy on the backend's device with passes of `module` over batches `shape` of noise.

    They run it in the precision in which the backend does. All of them are running when the block is entered, and ended
    after it. Raises ParmError where one does not start.
    """
    given = copy.deepcopy(module).cpu() if count else module
    device, precision = str(backend.device), "half" if count and backend.runner(module).half else "single"
    started: list[tuple[BaseProcess, Connection]] = []
    try:
        started.extend(start(_interfere, given, tuple(shape), device, precision) for _ in range(count))
        for process, pipe in started:
            try:
                if not pipe.poll(PATIENCE):
                    raise ParmError(f"an interfering process made no pass within {PATIENCE:g} s")
                pipe.recv()
            except (EOFError, ConnectionResetError):
                process.join()
                raise ParmError(f"an interfering process did not start (exit status {process.exitcode})") from None
        yield
    finally:
        stop(process for process, _ in started)
        for _, pipe in started:
            pipe.close()


def _interfere(pipe: Connection, module: nn.Module, shape: tuple[int, ...], device: str, precision: Precision) -> None:
    die_with_parent()
    import torch

    from backends.torch_backend import TorchBackend

    backend = TorchBackend(device, precision=precision)
    inputs = backend.place(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    backend.serve(module, inputs)
    pipe.send(None)
    while True:
        backend.serve(module, inputs)
