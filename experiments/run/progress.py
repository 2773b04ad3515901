"""Reports progress to standard error: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from time import monotonic

Advance = Callable[[str], None]
LINES = 20
"""Plain lines per task, at most."""
PAUSE = 5.0
"""Seconds between plain lines of a status, at least."""


class Reporter:
    """Reports to standard error."""

    def __init__(self) -> None:
        self._said = float("-inf")

    def say(self, text: str) -> None:
        """Print a line in one write, so that no signal separates the text from its newline."""
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def status(self, text: str, *, last: bool) -> None:
        """Show the state of work with an unknown number of steps; `last` marks the final state."""
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text}", end="\n" if last else "", file=sys.stderr, flush=True)
        elif last or monotonic() - self._said >= PAUSE:
            self._said = monotonic()
            self.say(text)

    @contextlib.contextmanager
    def task(self, what: str, total: int) -> Iterator[Advance]:
        """Show the progress of `total` steps of `what`; yields a function to call with each finished step's name."""
        if sys.stderr.isatty() and total:
            with self._bar(what, total) as advance:
                yield advance
            return
        done = 0

        def advance_plainly(step: str) -> None:
            nonlocal done
            done += 1
            if done == total or done * LINES // total > (done - 1) * LINES // total:
                self.say(f"{what}: {done}/{total} ({step})")

        yield advance_plainly

    @contextlib.contextmanager
    def _bar(self, what: str, total: int) -> Iterator[Advance]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[step]}", markup=False),
        )
        with Progress(*columns, console=Console(stderr=True)) as progress:
            number = progress.add_task(what, total=total, step="")
            yield lambda step: progress.update(number, advance=1, step=step)
