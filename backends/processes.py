"""Processes that are started here: how they start and end, and a pool of them that applies functions to items.

Why no library: of twelve items of which one kills its process, `concurrent.futures` and loky lose six or seven, all
with the same error, which names none; and their workers outlive a parent that is killed (docs/clusters.md).

They are spawned rather than forked, since neither CUDA nor a pool of threads survives a fork, and ignore Ctrl-C, which
is for the process that started them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Self, TypeVar

from backends.blame import portable

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def ignoring_sigint() -> Iterator[None]:
    """Ignore Ctrl-C in this block, which processes that are started in it inherit, even before their first line."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def start(target: Callable[..., None], *args: object) -> tuple[BaseProcess, Connection]:
    """Start a process that calls `target(pipe, *args)`; return it and the other end of its pipe.

    The pipe ends when either process ends, however that happens.
    """
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=target, args=(theirs, *args), daemon=True)
    with ignoring_sigint():
        process.start()
    theirs.close()  # else the pipe would not end with the process
    return process, ours


def stop(processes: Iterable[BaseProcess]) -> None:
    """End the processes at once and wait until they are gone."""
    processes = list(processes)
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()


def die_with_parent() -> None:
    """End this process when its parent ends, even if that is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel

        def watch() -> None:
            connection.wait([sentinel])
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


class WorkerKilledError(Exception):
    """A worker process ended while it had an item."""


class Pool:
    """Worker processes that apply functions to items, as a context; with fewer than two, this process does it.

    They are started with the first items and stay until the end, since starting one takes longer than most work for it.

    The standard library's pool shares one result queue among its workers: a worker that is killed while it writes there
    leaves half a message behind, and the main process waits for the rest forever. Here each worker has its own pipe.
    """

    def __init__(self, workers: int) -> None:
        """Have at most `workers` processes."""
        self.workers = workers
        self._processes: dict[Connection, BaseProcess] = {}
        self._idle: list[Connection] = []
        self._busy: dict[Connection, int] = {}
        self._results: dict[int, Callable[[], Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def started(self) -> bool:
        """Whether there are processes."""
        return bool(self._processes)

    def start(self, count: int, first: Callable[[], object] | None = None) -> None:
        """Have processes for `count` items, if those are two or more; new ones call `first` meanwhile.

        Whatever `first` raises is left to the items that need it.
        """
        wanted = min(self.workers, count)
        for _ in range(wanted - len(self._processes) if wanted > 1 else 0):
            process, pipe = start(_work, first)
            self._processes[pipe] = process
            self._idle.append(pipe)

    def in_order(
        self, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> Generator[Callable[[], Result], None, None]:
        """Yield, in the items' order, a call that returns `function(item)` or raises its error; `function` is pickled.

        Where its worker ended, that is `WorkerKilledError`. At most twice as many results as workers are in progress or
        waiting to be taken. Take all results before the next call.
        """
        self.start(len(items))
        if not self.started:
            yield from (partial(function, item) for item in items)
            return
        waiting, ahead = deque(range(len(items))), 2 * len(self._processes)
        try:
            for wanted in range(len(items)):
                while wanted not in self._results:
                    while self._idle and waiting and waiting[0] < wanted + ahead:
                        number = waiting.popleft()
                        self._send(number, function, items[number])
                    self._collect(wanted)
                yield self._results.pop(wanted)
        finally:
            if self._busy or self._results:  # whoever asked gave up: nobody waits for these
                self.close()

    def close(self) -> None:
        """Stop the workers, whatever they do."""
        stop(self._processes.values())
        for pipe in self._processes:
            pipe.close()
        self._processes.clear()
        self._idle.clear()
        self._busy.clear()
        self._results.clear()

    def _send(self, number: int, function: Callable[[Any], Any], item: object) -> None:
        """Give an item to an idle worker."""
        pipe = self._idle.pop()
        try:
            pipe.send((function, item))
            self._busy[pipe] = number
        except BrokenPipeError:
            self._lost(pipe, number)

    def _collect(self, wanted: int) -> None:
        """Wait for a result; without a worker left, `wanted` is lost."""
        if not self._busy:
            self._results.setdefault(wanted, partial(_raise, WorkerKilledError()))
            return
        for pipe in connection.wait(list(self._busy)):
            assert isinstance(pipe, Connection)
            number = self._busy.pop(pipe)
            try:
                good, value = pipe.recv()
                self._results[number] = partial(_return if good else _raise, value)
                self._idle.append(pipe)
            except (EOFError, ConnectionResetError):
                self._lost(pipe, number)

    def _lost(self, pipe: Connection, number: int) -> None:
        """Note that a worker ended while it had an item, or before it got one."""
        self._results[number] = partial(_raise, WorkerKilledError())
        stop([self._processes.pop(pipe)])
        pipe.close()


def _return(value: Result) -> Result:
    return value


def _raise(error: BaseException) -> Any:
    raise error


def _work(pipe: Connection, first: Callable[[], object] | None) -> None:
    """Serve items until the pipe ends."""
    die_with_parent()
    if first is not None:
        with contextlib.suppress(Exception):
            first()
    while True:
        try:
            function, item = pipe.recv()
        except EOFError:
            return
        try:
            answer = True, function(item)
        except BaseException as error:  # the main process raises it, and names the item
            answer = False, portable(error)
        try:
            pipe.send(answer)
        except BrokenPipeError:
            return
