"""An instance's condition over time, generated on demand."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from sim.stragglers.base import Effect, Pieces, ServiceModifier
from sim.task import Task
from sim.trace import Floats

SHORTEST = 1e-6
"""Shortest mean length of a condition, in seconds; shorter ones would make a simulation too slow."""


class SharedPieces:
    """Pieces of time that several simulations go through from the beginning, made block by block when needed."""

    __slots__ = ("_blocks", "_ends", "_factors")

    def __init__(self, blocks: Iterator[tuple[Floats, Floats]]) -> None:
        """`blocks` yields ends and factors of the next pieces, without end."""
        self._blocks = blocks
        self._ends = self._factors = np.empty(0)

    @property
    def nbytes(self) -> int:
        """Bytes of what has been made so far."""
        return 2 * self._ends.nbytes

    def first(self, count: int) -> tuple[Floats, Floats]:
        """Return ends and factors of at least the first `count` pieces; nobody may change them."""
        while len(self._ends) < count:
            ends, factors = next(self._blocks)
            self._ends, self._factors = np.append(self._ends, ends), np.append(self._factors, factors)
        return self._ends, self._factors

    def __iter__(self) -> Iterator[tuple[float, float]]:
        done = 0
        while True:
            ends, factors = self.first(done + 1)
            yield from zip(ends[done:].tolist(), factors[done:].tolist(), strict=True)
            done = len(ends)


class SlownessTimeline:
    """Pieces of time in each of which the instance is slower by a constant factor.

    `pieces` yields (end, factor) with ends that increase without bound. Changes of condition are not events: a task's
    service is integrated over the pieces when it starts.
    """

    __slots__ = ("_kept", "_pieces")

    def __init__(self, pieces: Iterator[tuple[float, float]]) -> None:
        self._pieces = pieces
        self._kept: deque[tuple[float, float]] = deque([(0.0, 1.0)])  # over before anything starts

    def stretch(self, start: float, seconds: float) -> float:
        """Return the duration of a service of `seconds` that begins at `start`, nondecreasing between calls."""
        kept = self._kept
        end, factor = kept[0]
        while end <= start:
            kept.popleft()
            if not kept:
                kept.append(next(self._pieces))
            end, factor = kept[0]
        stretched = seconds * factor
        if start + stretched <= end:
            return stretched
        return self._across(start, seconds)

    def _across(self, start: float, seconds: float) -> float:
        """Integrate over several pieces and keep them, since a cancelled task frees its instance early."""
        kept = self._kept
        now, left, number = start, seconds, 0
        while True:
            end, factor = kept[number]
            possible = (end - now) / factor
            if left <= possible:
                return now + left * factor - start
            left -= possible
            now = end
            number += 1
            if number == len(kept):
                kept.append(next(self._pieces))


def modifier_from(timelines: Sequence[SlownessTimeline]) -> ServiceModifier:
    """Return a modifier that integrates each service over its instance's timeline."""
    stretch = [timeline.stretch for timeline in timelines]

    def modify(task: Task, instance: int, start: float, seconds: float) -> float:
        return stretch[instance](start, seconds)

    return modify


def effect_of(pieces: Sequence[Iterable[tuple[float, float]]]) -> Effect:
    """Return the effect of slowness that is given for each instance as `SlownessTimeline` takes it.

    Nothing is drawn before a task meets it.
    """
    return Effect(modifier=modifier_from([SlownessTimeline(iter(of_one)) for of_one in pieces]), form=Pieces(pieces))
