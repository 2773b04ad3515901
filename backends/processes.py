"""Processes that are started here: how they start and end, and a pool of them that applies a function to items.

Why no library: of twelve items of which one kills its process, `concurrent.futures` and loky lose six or seven, all
with the same error, which names none; and their workers outlive a parent that is killed (docs/clusters.md).

They are spawned rather than forked, since neither CUDA nor a pool of threads survives a fork, and ignore Ctrl-C, which
is for the process that started them.
"""

from __future__ import annotations

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
from typing import Any, Generic, Self, TypeVar

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


class Pool(Generic[Item, Result]):
    """Worker processes that apply one function to items, as a context; with fewer than two, this process does it.

    The standard library's pool shares one result queue among its workers: a worker that is killed while it writes there
    leaves half a message behind, and the main process waits for the rest forever. Here each worker has its own pipe.
    """

    def __init__(self, function: Callable[[Item], Result], workers: int) -> None:
        """Start `workers` processes. `function` is pickled."""
        self._function = function
        started = [start(_work, function) for _ in range(workers)] if workers > 1 else []
        self._processes = [process for process, _ in started]
        self._idle = [pipe for _, pipe in started]
        self._busy: dict[Connection, int] = {}
        self._results: dict[int, Callable[[], Result]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def in_order(self, items: Sequence[Item]) -> Generator[Callable[[], Result], None, None]:
        """Yield, in the items' order, a call that returns an item's result or raises the function's error.

        Where its worker ended, that is `WorkerKilledError`. At most twice as many results as workers are in progress or
        waiting to be taken. Take all results before the next call.
        """
        if not self._processes:
            yield from (partial(self._function, item) for item in items)
            return
        waiting = deque(range(len(items)))
        for wanted in range(len(items)):
            while wanted not in self._results:
                while self._idle and waiting and waiting[0] < wanted + 2 * len(self._processes):
                    number = waiting.popleft()
                    self._send(number, items[number])
                self._collect(wanted)
            yield self._results.pop(wanted)

    def close(self) -> None:
        """Stop the workers, whatever they do."""
        stop(self._processes)
        for pipe in (*self._idle, *self._busy):
            pipe.close()

    def _send(self, number: int, item: Item) -> None:
        """Give an item to an idle worker."""
        pipe = self._idle.pop()
        try:
            pipe.send(item)
            self._busy[pipe] = number
        except BrokenPipeError:
            self._results[number] = partial(_raise, WorkerKilledError())

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
                self._results[number] = partial(_raise, WorkerKilledError())


def _return(value: Result) -> Result:
    return value


def _raise(error: BaseException) -> Any:
    raise error


def _work(pipe: Connection, function: Callable[[Any], Any]) -> None:
    """Serve items until the pipe ends."""
    die_with_parent()
    while True:
        try:
            item = pipe.recv()
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
