"""Worker processes, each with a pipe of its own.

The standard library's process pool shares one result queue among its workers: one that is terminated while it writes
there leaves half a message behind, and the main process waits for the rest for ever. Here a worker that ends, however
it ends, closes its pipe, and nobody else shares it.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from functools import partial
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from backends.processes import ignoring_sigint
from experiments.config.blame import portable

Item = TypeVar("Item")
Result = TypeVar("Result")


class WorkerKilledError(Exception):
    """A worker ended in the midst of an item."""


def in_order(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Generator[Callable[[], Result], None, None]:
    """Apply `function` to the items in `workers` processes, or in this one if that is 1.

    Yield, in the items' order, a call that returns an item's result or raises what went wrong with it, which is
    `WorkerKilledError` where its worker ended. At most twice as many results as workers are under way or waiting to be
    taken. Close the generator to stop the workers early.
    """
    workers = min(workers, len(items))
    if workers <= 1:
        yield from (partial(function, item) for item in items)
        return
    farm: _Farm[Item, Result] = _Farm(function, workers)
    waiting = deque(range(len(items)))
    try:
        for wanted in range(len(items)):
            while wanted not in farm.results:
                while farm.idle and waiting and waiting[0] < wanted + 2 * workers:
                    number = waiting.popleft()
                    farm.send(number, items[number])
                farm.collect(wanted)
            yield farm.results.pop(wanted)
    finally:
        farm.close()


class _Farm(Generic[Item, Result]):
    """The workers, who has what, and what is back."""

    def __init__(self, function: Callable[[Item], Result], workers: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.idle: list[Connection] = []
        self.results: dict[int, Callable[[], Result]] = {}
        self._busy: dict[Connection, int] = {}
        self._processes: list[BaseProcess] = []
        for _ in range(workers):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_work, args=(theirs, function), daemon=True)
            with ignoring_sigint():
                process.start()
            theirs.close()  # so that the pipe ends with the worker
            self._processes.append(process)
            self.idle.append(ours)

    def send(self, number: int, item: Item) -> None:
        """Give an item to an idle worker."""
        pipe = self.idle.pop()
        try:
            pipe.send(item)
            self._busy[pipe] = number
        except BrokenPipeError:
            self.results[number] = partial(_raise, WorkerKilledError())

    def collect(self, wanted: int) -> None:
        """Wait for a result; where no worker is left, `wanted` will never come."""
        if not self._busy:
            self.results.setdefault(wanted, partial(_raise, WorkerKilledError()))
            return
        for pipe in connection.wait(list(self._busy)):
            assert isinstance(pipe, Connection)
            number = self._busy.pop(pipe)
            try:
                good, value = pipe.recv()
                self.results[number] = partial(_return if good else _raise, value)
                self.idle.append(pipe)
            except (EOFError, ConnectionResetError):
                self.results[number] = partial(_raise, WorkerKilledError())

    def close(self) -> None:
        """Stop the workers, whatever they do."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()
        for pipe in (*self.idle, *self._busy):
            pipe.close()


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


def die_with_parent() -> None:
    """End this process when its parent is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel

        def watch() -> None:
            connection.wait([sentinel])
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
