"""Concatenation: a coded query shows its k queries side by side, each made smaller, in an image of one query's size.

Source: Kosaian, Rashmi, Venkataraman, "Parity Models", SOSP 2019, section 4.2: halves for k = 2, quadrants for k = 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveInt

from parity.codes.linear import LinearCode
from sim.errors import ParmError

if TYPE_CHECKING:
    from torch import Tensor

LAYOUTS: dict[int, tuple[int, ...]] = {2: (2,), 3: (2, 1), 4: (2, 2), 5: (2, 3), 6: (3, 3), 9: (3, 3, 3)}
"""By k, where none is given: how many queries stand in each row. k = 3 has two quadrants above one half."""


class Concatenation(LinearCode):
    """Smaller copies of the queries side by side in one image, answered by a parity model, decoded by subtraction."""

    kind: Literal["concatenation"] = "concatenation"
    weights: None = None
    """Predictions are always summed with weight 1."""
    query_weights: None = None
    """Queries are not weighted."""
    layout: tuple[PositiveInt, ...] | None = None
    """How many queries stand in each row of the picture, from the top: [2] side by side, [1, 1] one above the other,
    which keeps their full width. By default [2] for k = 2, [2, 1] for 3, [2, 2] for 4, and for 5, 6 and 9."""

    def check(self, k: int, r: int) -> None:
        """Raise ValueError where there is no layout for k queries, or more than one row is asked for."""
        if self.layout is not None and sum(self.layout) != k:
            raise ValueError(f"layout: {list(self.layout)} has {sum(self.layout)} places, but k = {k}")
        if self.layout is None and k not in LAYOUTS:
            known = ", ".join(map(str, LAYOUTS))
            raise ValueError(f"concatenation has layouts for k = {known}, not for k = {k}: give one as 'layout'")
        if r != 1:
            raise ValueError(f"concatenation makes one coded query per group, not r = {r}; 'addition' takes any r")
        super().check(k, r)

    def identity(self, k: int, r: int, row: int) -> dict[str, Any]:
        """See `LinearCode.identity`; the layout belongs to it."""
        return super().identity(k, r, row) | {"layout": list(self.layout or LAYOUTS[k])}

    def encode(self, queries: Tensor, r: int) -> Tensor:
        """Resize by averaging and place: images (g, k, channels, height, width) -> (g, 1, channels, height, width).

        Raises ParmError for queries that are no images, or smaller than the layout.
        """
        from torch.nn.functional import interpolate

        k = queries.shape[1]
        self.check(k, r)
        if queries.dim() != 5:
            raise ParmError(f"concatenation needs images (channels, height, width), not shape {queries.shape[2:]}")
        layout = self.layout or LAYOUTS[k]
        height, width = queries.shape[3:]
        if height < len(layout) or width < max(layout):
            raise ParmError(f"concatenation cannot show {k} queries in an image of {height}x{width} pixels")
        picture = queries.new_empty(len(queries), *queries.shape[2:])
        slot = 0
        for row, columns in enumerate(layout):
            top, bottom = row * height // len(layout), (row + 1) * height // len(layout)
            for column in range(columns):
                left, right = column * width // columns, (column + 1) * width // columns
                small = interpolate(queries[:, slot], size=(bottom - top, right - left), mode="area")
                picture[:, :, top:bottom, left:right] = small
                slot += 1
        return picture[:, None]
