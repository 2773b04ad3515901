"""An instance's condition over time, generated on demand."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count

from sim.stragglers.base import Effect, Pieces, ServiceModifier
from sim.task import Task

SHORTEST = 1e-6
"""Shortest mean length of a condition, in seconds; shorter ones would make a simulation too slow."""


class SharedPieces:
    """Pieces of time that several simulations go through from the beginning; each is made when first asked for."""

    __slots__ = ("_known", "_pieces")

    def __init__(self, pieces: Iterator[tuple[float, float]]) -> None:
        self._pieces = pieces
        self._known: list[tuple[float, float]] = []

    @property
    def nbytes(self) -> int:
        """Bytes, about: two numbers and a pair for each piece."""
        return 112 * len(self._known)

    def __iter__(self) -> Iterator[tuple[float, float]]:
        known = self._known
        for number in count():
            if number == len(known):
                known.append(next(self._pieces))
            yield known[number]


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


def effect_of(pieces: Sequence[Iterator[tuple[float, float]]]) -> Effect:
    """Return the effect of slowness that is given for each instance as `SlownessTimeline` takes it.

    Nothing is drawn before a task meets it.
    """
    return Effect(modifier=modifier_from([SlownessTimeline(of_one) for of_one in pieces]), form=Pieces(pieces))
