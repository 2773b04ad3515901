"""Cells in processes of this machine, with `backends.processes.Pool`."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from typing import Any, Self

from backends.processes import Pool
from experiments.run.executors.base import Item


def default_workers() -> int:
    """Return the number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not available on this system
        return os.cpu_count() or 1


class Local:
    """Processes of this machine, or this process where one is enough; as a context, they stay until its end."""

    local = True

    def __init__(self) -> None:
        self._stays = False
        self._pool = Pool(1)

    def __enter__(self) -> Self:
        self._stays = True
        return self

    def __exit__(self, *_: object) -> None:
        self._stays = False
        self._pool.close()

    def describe(self) -> dict[str, Any]:
        """Return the manifest's entry."""
        return {"name": "local"}

    def at_once(self) -> int:
        """Return the number of cores."""
        return default_workers()

    def gpus(self) -> int:
        """Return 0: this process computes the answers."""
        return 0

    @property
    def started(self) -> bool:
        """Whether there are processes."""
        return self._pool.started

    def start(self, workers: int, first: Callable[[], object]) -> None:
        """Start processes if they stay, as `Executor.start` says."""
        if self._stays:
            self._pool.workers = max(self._pool.workers, workers)
            self._pool.start(workers, first)

    def in_order(
        self,
        function: Callable[[Item], Any],
        items: Sequence[Item],
        workers: int | None = None,
        then: Callable[[Item, Any], Any] | None = None,
    ) -> Generator[Callable[[], Any], None, None]:
        """Yield a call for each item's result, as `Executor.in_order` says."""
        assert then is None, "it has no GPUs to offer"
        count = workers or self.at_once()
        if count == 1 or not self._stays:
            with Pool(count) as pool:
                yield from pool.in_order(function, items)
            return
        self._pool.workers = max(self._pool.workers, count)
        yield from self._pool.in_order(function, items)


LOCAL = Local()
"""The executor that is used if none is named: its processes end with the items."""
