"""Direct labels that keep clear of the marks, of the intervals and of each other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

ANCHORS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
"""Directions in which a label may lie from its mark, the preferred first."""

DISTANCES = (0, 8, 18, 30)
"""Points between a mark's edge and its label, the preferred first."""


@dataclass(frozen=True)
class Label:
    """A text that belongs to the mark at (x, y), whose radius is in points."""

    text: str
    x: float
    y: float
    radius: float
    color: str
    bars: tuple[tuple[float, float], tuple[float, float]]
    """The mark's intervals: (low, high) along x and along y."""


def put(figure: Figure, axes: Axes, labels: Sequence[Label], size: float = 8.5) -> None:
    """Write each label where it overlaps least; a label far from its mark gets a thin line to it.

    Greedy, in the order given: every label takes the best of 32 places. The figure is laid out first, so that this
    is the last thing done to it.
    """
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()
    pixels = figure.dpi / 72
    frame = axes.get_window_extent()
    taken: list[Bbox] = []
    for label in labels:
        (x, y), reach = axes.transData.transform((label.x, label.y)), label.radius * pixels
        taken.append(Bbox.from_extents(x - reach, y - reach, x + reach, y + reach))
        (left, right), (low, high) = label.bars
        ends = axes.transData.transform([(left, label.y), (right, label.y), (label.x, low), (label.x, high)])
        taken.append(Bbox.from_extents(ends[0][0] - 3, y - 3, ends[1][0] + 3, y + 3))
        taken.append(Bbox.from_extents(x - 3, ends[2][1] - 3, x + 3, ends[3][1] + 3))
    for label in labels:
        text = axes.text(label.x, label.y, label.text, size=size, color=label.color)
        box = text.get_window_extent()
        text.remove()
        x, y = axes.transData.transform((label.x, label.y))
        best: tuple[float, tuple[int, int], float] | None = None
        for rank, (distance, direction) in enumerate(itertools.product(DISTANCES, ANCHORS)):
            away = (label.radius + 3 + distance) * pixels
            place = _place(x, y, box.width, box.height, direction, away)
            cost = sum(_overlap(place, other) for other in taken) + 5 * _outside(place, frame) + 0.5 * rank
            if best is None or cost < best[0]:
                best = (cost, direction, label.radius + 3 + distance)
        assert best is not None
        _, (right, up), away = best
        taken.append(_place(x, y, box.width, box.height, (right, up), away * pixels))
        written = axes.annotate(
            label.text,
            (label.x, label.y),
            (right * away, up * away),
            textcoords="offset points",
            ha={1: "left", 0: "center", -1: "right"}[right],
            va={1: "bottom", 0: "center", -1: "top"}[up],
            size=size,
            color=label.color,
            arrowprops={"arrowstyle": "-", "color": label.color, "lw": 0.5, "alpha": 0.6, "shrinkB": label.radius}
            if away > label.radius + 12
            else None,
            zorder=6,
        )
        written.set_in_layout(False)  # else the panels would move away from where it was placed


def _place(x: float, y: float, width: float, height: float, direction: tuple[int, int], away: float) -> Bbox:
    from matplotlib.transforms import Bbox

    right, up = direction
    left = x + right * away + {1: 0.0, 0: -width / 2, -1: -width}[right]
    low = y + up * away + {1: 0.0, 0: -height / 2, -1: -height}[up]
    return Bbox.from_bounds(left, low, width, height)


def _overlap(one: Bbox, other: Bbox) -> float:
    wide = min(one.x1, other.x1) - max(one.x0, other.x0)
    high = min(one.y1, other.y1) - max(one.y0, other.y0)
    return float(wide * high) if wide > 0 and high > 0 else 0.0


def _outside(box: Bbox, frame: Bbox) -> float:
    return float(box.width * box.height) - _overlap(box, frame)
