"""Worker processes that are sent one task at a time through a pipe each, and answer with outputs and clock times.

A pipe ends with either of its two processes: a worker that dies is noticed at once, and workers whose frontend is gone,
however it went, end by themselves. Clock times are `time.perf_counter`'s, which the processes of one machine share.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from struct import Struct
from time import perf_counter
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from backends.processes import start, stop
from sim.errors import ParmError

Values = NDArray[np.float32]

Service = Callable[[int, Values], Values]
"""`service(model, inputs)`: one pass of a model over flat inputs; returns its flat outputs."""

Setup = Callable[[int], Service]
"""`setup(worker)`: makes, in its own process, what a worker does. It is pickled."""

_ASK = Struct("<id")
_ANSWER = Struct("<?ddd")
_WHOLE = 1 - 1e-6
"""A competing pass is run once this much of it is due: sums of fractions are not exact."""


class WorkerDiedError(ParmError):
    """A worker process ended before it was asked to."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker sent back."""

    worker: int
    begun: float
    """When the worker had the task, by `perf_counter`."""
    served: float
    """When it had the outputs; competing work came after."""
    ended: float
    """When it sent the answer."""
    outputs: Values
    """Flat, float32."""


class Workers:
    """The processes, as a context: all of them are ready when it begins and gone when it ends."""

    def __init__(self, setup: Setup, count: int, cores: Sequence[int] | None = None) -> None:
        """Start `count` workers; with `cores`, worker i stays on core `cores[i % len(cores)]`.

        Raises ParmError where one cannot be set up.
        """
        if os.name == "nt":
            raise ParmError("a real pool needs to wait for pipes, which this operating system does not support.")
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        try:
            for number in range(count):
                core = None if cores is None else cores[number % len(cores)]
                process, pipe = start(_serve, setup, number, core)
                self._processes.append(process)
                self._pipes.append(pipe)
            for number in range(count):
                trouble = self._receive(number)
                if trouble:
                    raise ParmError(f"worker {number} could not be set up: {trouble.decode()}")
        except BaseException:
            self.close()
            raise
        self._numbers = {pipe.fileno(): number for number, pipe in enumerate(self._pipes)}

    def __len__(self) -> int:
        return len(self._pipes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """The processes' ids, by worker."""
        return [process.pid or 0 for process in self._processes]

    def send(self, worker: int, model: int, factor: float, inputs: Values) -> None:
        """Have an idle worker run `inputs` through `model`, slowed down `factor` times (at least 1) by competing work.

        Raises WorkerDiedError.
        """
        try:
            self._pipes[worker].send_bytes(_ASK.pack(model, factor) + inputs.tobytes())
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._died(worker) from error

    def wait(self, seconds: float | None) -> list[Answer]:
        """Return the answers that are back, after waiting so long for the first; None waits without end.

        Raises WorkerDiedError where a worker is gone, and ParmError where one failed at its task.
        """
        ready, _, _ = select.select(list(self._numbers), [], [], seconds)  # its timeouts are finer than poll's
        return [self._answer(self._numbers[descriptor]) for descriptor in ready]

    def close(self) -> None:
        """End the processes, whatever they do."""
        stop(self._processes)
        for pipe in self._pipes:
            pipe.close()

    def _answer(self, worker: int) -> Answer:
        message = self._receive(worker)
        good, begun, served, ended = _ANSWER.unpack_from(message)
        if not good:
            raise ParmError(f"worker {worker} failed: {message[_ANSWER.size :].decode()}")
        return Answer(worker, begun, served, ended, np.frombuffer(bytearray(message), np.float32, offset=_ANSWER.size))

    def _receive(self, worker: int) -> bytes:
        try:
            return self._pipes[worker].recv_bytes()
        except (EOFError, ConnectionResetError) as error:
            raise self._died(worker) from error

    def _died(self, worker: int) -> WorkerDiedError:
        process = self._processes[worker]
        process.join(timeout=1)
        code = process.exitcode
        how = "" if code is None else f" by signal {-code}" if code < 0 else f" with exit status {code}"
        return WorkerDiedError(f"worker {worker} (process {process.pid}) ended{how} during the run.")


def _serve(pipe: Connection, setup: Setup, number: int, core: int | None) -> None:
    """Serve tasks until the pipe ends.

    A slowdown of f is competing work: before it answers, the worker runs f - 1 further passes over the same inputs, as
    a neighbour's tasks would take turns with its own. Fractions of a pass are added up until they make a whole one.
    """
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    try:
        service = setup(number)
    except Exception as error:
        pipe.send_bytes(_sentence(error))
        return
    pipe.send_bytes(b"")
    owed = 0.0
    while True:
        try:
            message = pipe.recv_bytes()
        except (EOFError, ConnectionResetError):
            return
        begun = perf_counter()
        try:
            model, factor = _ASK.unpack_from(message)
            inputs = np.frombuffer(bytearray(message), np.float32, offset=_ASK.size)
            outputs = service(model, inputs)
            served = perf_counter()
            owed += factor - 1
            while owed >= _WHOLE:
                service(model, inputs)
                owed -= 1
            times = _ANSWER.pack(True, begun, served, perf_counter())
            answer = times + outputs.astype(np.float32, copy=False).tobytes()
        except Exception as error:
            answer = _ANSWER.pack(False, begun, begun, perf_counter()) + _sentence(error)
        try:
            pipe.send_bytes(answer)
        except (BrokenPipeError, ConnectionResetError):
            return


def _sentence(error: Exception) -> bytes:
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no reason given'}".encode()
