"""Named random streams: a draw depends on what it is for, never on when it is requested.

A stream is keyed by (seed, trial, purpose, entities). Query 4711's first service draw is number 4711 of the stream
("service", deployed, attempt 0) under every policy (common random numbers).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

BLOCK = 4096
"""Draws made at once. Another value gives other random numbers."""

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]


class Streams:
    """All random streams of one trial; the experiment's `seed` and the trial number are their only seeds."""

    __slots__ = ("seed", "trial")

    def __init__(self, seed: int, trial: int = 0) -> None:
        self.seed = seed
        self.trial = trial

    def generator(self, purpose: str, *entities: int) -> np.random.Generator:
        """Return a new generator at the beginning of the stream (purpose, entities)."""
        words = (self.seed, self.trial, zlib.crc32(purpose.encode()), *entities)
        short = min(words) >= 0 and max(words) < 1 << 32  # an array of such words is the same key, four times as fast
        key = np.random.SeedSequence(np.array(words, np.uint32) if short else words)
        return np.random.Generator(np.random.Philox(key))

    def stream(self, draw: Draw, purpose: str, *entities: int) -> Stream:
        """Return numbered draws of `draw(generator, n)` from the stream (purpose, entities)."""
        return Stream(self, draw, purpose, entities)


class Stream:
    """Numbered draws: `at(i)` always returns the same number.

    Each block of `BLOCK` draws has its own generator, so that no earlier draws are needed. The two latest blocks are
    kept, since queries near a block's edge are dispatched slightly out of order.
    """

    __slots__ = ("_block", "_draw", "_entities", "_other", "_other_start", "_purpose", "_start", "_streams")

    def __init__(self, streams: Streams, draw: Draw, purpose: str, entities: tuple[int, ...]) -> None:
        self._streams = streams
        self._draw = draw
        self._purpose = purpose
        self._entities = entities
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
        """Return the draws number * BLOCK and following, shape (BLOCK,)."""
        return self._draw(self._streams.generator(self._purpose, *self._entities, number), BLOCK)
