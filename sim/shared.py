"""What simulations of one trial have in common and need not make twice: draws, and timelines of stragglers.

They depend on the seed and the trial, and on options that are often the same for every policy and sweep point.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol, TypeVar

ROOM = 64 * 2**20
"""Bytes that are kept by default."""


class Sized(Protocol):
    """Something that knows how much memory it takes."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        ...


Made = TypeVar("Made", bound=Sized)


class Shared:
    """Things by what they depend on, as many as there is room for: what was not asked for the longest goes first.

    Whoever gets something must not change it in a way that others would see.
    """

    __slots__ = ("_kept", "_room", "_taken")

    def __init__(self, room: int = ROOM) -> None:
        self._kept: dict[Hashable, tuple[Sized, int]] = {}
        self._room = room
        self._taken = 0

    def get(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return what `make` returned for an equal key before, or does now. Some things grow while they are used."""
        made, before = self._kept.pop(key, (None, 0))
        if made is None:
            made = make()
        now = made.nbytes
        self._kept[key] = made, now
        self._taken += now - before
        while self._taken > self._room and len(self._kept) > 1:
            _, gone = self._kept.pop(next(iter(self._kept)))
            self._taken -= gone
        return made  # type: ignore[return-value]

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._taken = 0
