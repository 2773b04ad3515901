"""Named random streams: a draw depends on what it is for, never on when it is requested.

A stream is keyed by (seed, trial, purpose, entities). Query 4711's first service draw is number 4711 of the stream
("service", deployed, attempt 0) under every policy (common random numbers).
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Hashable
from types import MethodType

import numpy as np
from numpy.typing import NDArray

from sim.shared import Made, Shared

BLOCK = 4096
"""Draws made at once. Another value gives other random numbers."""

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]


class Streams:
    """All random streams of one trial; the experiment's `seed` and the trial number are their only seeds.

    With `shared`, draws are kept there for other simulations of the trial.
    """

    __slots__ = ("_service", "_shared", "seed", "trial")

    def __init__(self, seed: int, trial: int = 0, shared: Shared | None = None, service: str = "") -> None:
        self.seed = seed
        self.trial = trial
        self._shared = shared
        self._service = service

    def of(self, service: str) -> Streams:
        """Return the streams of a service, which its name decides; those of the empty name are the trial's own."""
        return Streams(self.seed, self.trial, self._shared, service) if service else self

    def generator(self, purpose: str, *entities: int) -> np.random.Generator:
        """Return a new generator at the beginning of the stream (purpose, entities)."""
        whole = f"{self._service}/{purpose}" if self._service else purpose
        words = (self.seed, self.trial, zlib.crc32(whole.encode()), *entities)
        short = min(words) >= 0 and max(words) < 1 << 32  # an array of such words is the same key, four times as fast
        key = np.random.SeedSequence(np.array(words, np.uint32) if short else words)
        return np.random.Generator(np.random.Philox(key))

    def stream(self, draw: Draw, purpose: str, *entities: int) -> Stream:
        """Return numbered draws of `draw(generator, n)` from the stream (purpose, entities)."""
        return Stream(self, draw, purpose, entities)

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return what `make` makes of these streams, perhaps in an earlier simulation; `key` has all it depends on."""
        if self._shared is None:
            return make()
        return self._shared.get((self.seed, self.trial, self._service, key), make)


class Stream:
    """Numbered draws: `at(i)` always returns the same number.

    Each block of `BLOCK` draws has its own generator, so that no earlier draws are needed. The two latest blocks are
    kept, since queries near a block's edge are dispatched slightly out of order.
    """

    __slots__ = ("_block", "_draw", "_entities", "_other", "_other_start", "_purpose", "_source", "_start", "_streams")

    def __init__(self, streams: Streams, draw: Draw, purpose: str, entities: tuple[int, ...]) -> None:
        self._streams = streams
        self._draw = draw
        self._purpose = purpose
        self._entities = entities
        self._source = source(draw)
        self._block: list[float] = []
        self._other: list[float] = []
        self._start = self._other_start = -BLOCK

    def at(self, index: int) -> float:
        """Return draw number `index` (>= 0)."""
        offset = index - self._start
        if 0 <= offset < BLOCK:
            return self._block[offset]
        self._block, self._other = self._other, self._block
        self._start, self._other_start = self._other_start, self._start
        offset = index - self._start
        if not 0 <= offset < BLOCK:
            block = index // BLOCK
            self._block = self.block(block).tolist()
            self._start = block * BLOCK
            offset = index - self._start
        return self._block[offset]

    def block(self, number: int) -> NDArray[np.float64]:
        """Return the draws number * BLOCK and following, shape (BLOCK,); nobody may change them."""
        if self._source is None:
            return self._drawn(number)
        key = (self._purpose, self._entities, number, self._source)
        return self._streams.once(key, lambda: self._drawn(number))

    def _drawn(self, number: int) -> NDArray[np.float64]:
        return self._draw(self._streams.generator(self._purpose, *self._entities, number), BLOCK)


class _Source:
    """A bound method from which draws come: equal to another where both are the same method of equal objects.

    Methods themselves are equal only if their object is the same.
    """

    __slots__ = ("_function", "_hash", "_owner")

    def __init__(self, draw: MethodType) -> None:
        self._function, self._owner = draw.__func__, draw.__self__
        self._hash = hash((self._function, self._owner))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Source) or self._function is not other._function:
            return False
        try:
            return bool(self._owner == other._owner)
        except Exception:  # a plugin's, say one that holds arrays
            return False


def source(draw: Callable[..., object]) -> Hashable | None:
    """Return what is equal for the same method of equal objects, such as distributions, or None where none can tell."""
    if inspect.isfunction(draw) and draw.__closure__ is None:
        return draw
    try:
        return _Source(draw) if isinstance(draw, MethodType) else None
    except TypeError:  # it cannot be hashed
        return None
