"""What an executor can do."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor(Protocol):
    """Applies functions to items, most of all to cells, in other processes."""

    @property
    def local(self) -> bool:
        """Whether the processes are this machine's, with its files."""
        ...

    @property
    def started(self) -> bool:
        """Whether there are processes, so that work costs no more than itself."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what the manifest says of it: its name, and its size if that is not this machine's."""
        ...

    def at_once(self) -> int:
        """Return how many items are computed at the same time."""
        ...

    def gpus(self) -> int:
        """Return how many GPUs there are beyond those of this process."""
        ...

    def start(self, workers: int, first: Callable[[], object]) -> None:
        """Have that many processes of this machine call `first`, pickled, while this one does something else."""
        ...

    def in_order(
        self,
        function: Callable[[Item], Any],
        items: Sequence[Item],
        workers: int | None = None,
        then: Callable[[Item, Any], Any] | None = None,
    ) -> Generator[Callable[[], Any], None, None]:
        """Yield, in the items' order, a call that returns an item's result or raises the function's error.

        At most `workers` items are computed at once (None: `at_once`), and at most twice as many are in progress or
        waiting to be taken. With `then`, which only an executor with GPUs takes, the result is `then(item, found)` of
        what the function found, computed where a GPU is. An item whose process ended raises
        `backends.processes.WorkerKilledError`; what is lost with a machine is computed again. Functions and items are
        pickled.
        """
        ...
