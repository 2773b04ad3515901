"""What codes have in common whose coded query is a picture of its k queries in small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import PositiveInt

from parity.codes.base import TensorCode
from sim.errors import ParmError

if TYPE_CHECKING:
    from torch import Tensor

LAYOUTS: dict[int, tuple[int, ...]] = {2: (2,), 3: (2, 1), 4: (2, 2), 5: (2, 3), 6: (3, 3), 9: (3, 3, 3)}
"""By k, where none is given: how many queries stand in each row. k = 3 has two quadrants above one half."""
STACKED: dict[int, tuple[int, ...]] = {2: (1, 1), 3: (1, 1, 1)}
"""The same with chroma subsampling, which keeps rows: queries stand above one another."""


class PictureCode(TensorCode):
    """A code whose coded query shows smaller copies of the queries in an image of one query's size."""

    layout: tuple[PositiveInt, ...] | None = None
    """How many queries stand in each row of the picture, from the top: [2] side by side, [1, 1] one above the other,
    which keeps their full width. By default [2] for k = 2, [2, 1] for 3, [2, 2] for 4, and for 5, 6 and 9; with
    `chroma` [1, 1] and [1, 1, 1] for k = 2 and 3."""
    chroma: bool = False
    """Chroma subsampling, for images of three colours: in the same number of values, send the brightness of twice as
    many rows, and colour for every second column only. Two images in JPEG's 4:2:0 lose next to nothing."""

    def rows(self, k: int) -> tuple[int, ...]:
        """Return the layout for k queries. Raises KeyError where there is none."""
        if self.layout is not None:
            return self.layout
        return STACKED[k] if self.chroma and k in STACKED else LAYOUTS[k]

    def check(self, k: int, r: int) -> None:
        """Raise ValueError where there is no layout for k queries, or more than one row is asked for."""
        if self.layout is not None and sum(self.layout) != k:
            raise ValueError(f"layout: {list(self.layout)} has {sum(self.layout)} places, but k = {k}")
        name = self.name_in_yaml()
        if self.layout is None and k not in LAYOUTS:
            known = ", ".join(map(str, LAYOUTS))
            raise ValueError(f"{name} has layouts for k = {known}, not for k = {k}: give one as 'layout'")
        if self.chroma and len(self.rows(k)) == 1:
            raise ValueError(
                f"chroma: layout {list(self.rows(k))} keeps every row already; put queries above one another"
            )
        if r != 1:
            raise ValueError(f"{name} makes one coded query per group, not r = {r}; 'addition' takes any r")
        super().check(k, r)

    def check_images(self, shape: Sequence[int], k: int) -> None:
        """Raise ParmError for queries that are no images, smaller than the layout, or without the colours it takes."""
        name = self.name_in_yaml()
        if len(shape) != 3:
            raise ParmError(f"{name} needs images (channels, height, width), not shape {tuple(shape)}")
        channels, height, width = shape
        layout = self.rows(k)
        if self.chroma and channels != 3:
            raise ParmError(f"chroma: images of three colours are needed, and these have {channels}: leave it out")
        if height < len(layout) or width < max(layout) * (2 if self.chroma else 1):
            raise ParmError(f"{name} cannot show {k} queries in an image of {height}x{width} pixels")

    def drawn(self, k: int) -> dict[str, Any]:
        """Return how the picture is made, as JSON values, for the keys of models."""
        known = {"layout": list(self.rows(k))}
        return known | {"chroma": True} if self.chroma else known

    def encode(self, queries: Tensor, r: int) -> Tensor:
        """Resize by averaging and place: images (g, k, channels, height, width) -> (g, 1, channels, height, width).

        Raises ValueError like `check` and ParmError like `check_images`.
        """
        from parity.mosaic import shown

        k = queries.shape[1]
        self.check(k, r)
        self.check_images(queries.shape[2:], k)
        return shown(queries, self.rows(k), self.chroma)[:, None]
