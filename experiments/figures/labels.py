"""Direct labels that keep clear of the marks, of the intervals and of each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

    Point = tuple[float, float]

ANCHORS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
"""Directions in which a label may lie from its mark, the preferred first."""
DISTANCES = (0, 8, 18, 30, 46, 66)
"""Points between a mark's edge and its label, the preferred first."""
LEADER = 12
"""Points from which on a thin line leads from the mark to its label."""
OUTSIDE, TOGETHER, RANK, CROSSED = 5.0, 6.0, 0.5, 2000.0
"""What a place costs besides the square pixels that it shares with marks and intervals: for each one outside of the
panel and for each one that it shares with another label, for each place that is preferred to it, and for each line to a
label that crosses a label or another line."""
ROUNDS = 5
"""Times that every label may look for a better place, given where the others are."""


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


@dataclass(frozen=True)
class _Spot:
    """A place for a label: its box and the line to it in pixels, and what it costs whatever the other labels do."""

    direction: tuple[int, int]
    away: float
    """Points from the mark's centre."""
    box: Bbox
    leader: tuple[Point, Point] | None
    cost: float


def put(figure: Figure, axes: Axes, labels: Sequence[Label], size: float = 8.5) -> None:
    """Write each label where it overlaps least; a label far from its mark gets a thin line to it.

    One label after the other takes the cheapest of 48 places, then each looks again while any of them moves. The figure
    is laid out first, so that this is the last thing done to it.
    """
    figure.draw_without_rendering()
    taken = [box for label in labels for box in _marked(axes, label)]
    spots = [_spots(figure, axes, label, size, taken) for label in labels]
    chosen: dict[int, _Spot] = {}
    for _ in range(ROUNDS):
        before = dict(chosen)
        for number, mine in enumerate(spots):
            others = [spot for other, spot in chosen.items() if other != number]
            chosen[number] = min(mine, key=lambda spot: spot.cost + sum(_conflict(spot, other) for other in others))
        if chosen == before:
            break
    for number, label in enumerate(labels):
        (right, up), away = chosen[number].direction, chosen[number].away
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
            if chosen[number].leader
            else None,
            zorder=6,
        )
        written.set_in_layout(False)  # else the panels would move away from where it was placed


def _marked(axes: Axes, label: Label) -> list[Bbox]:
    """Return the boxes of a label's mark and of its intervals, in pixels."""
    from matplotlib.transforms import Bbox

    (x, y), reach = axes.transData.transform((label.x, label.y)), label.radius * axes.figure.dpi / 72
    (left, right), (low, high) = label.bars
    ends = axes.transData.transform([(left, label.y), (right, label.y), (label.x, low), (label.x, high)])
    return [
        Bbox.from_extents(x - reach, y - reach, x + reach, y + reach),
        Bbox.from_extents(ends[0][0] - 3, y - 3, ends[1][0] + 3, y + 3),
        Bbox.from_extents(x - 3, ends[2][1] - 3, x + 3, ends[3][1] + 3),
    ]


def _spots(figure: Figure, axes: Axes, label: Label, size: float, taken: Sequence[Bbox]) -> list[_Spot]:
    """Return the places that a label may have."""
    pixels, frame = figure.dpi / 72, axes.get_window_extent()
    text = axes.text(label.x, label.y, label.text, size=size, color=label.color)
    extent = text.get_window_extent()
    text.remove()
    x, y = axes.transData.transform((label.x, label.y))
    found: list[_Spot] = []
    for distance in DISTANCES:
        away = label.radius + 3 + distance
        for direction in ANCHORS:
            box = _place(x, y, extent.width, extent.height, direction, away * pixels)
            leader = None
            if distance + 3 > LEADER:
                leader = ((x, y), (x + direction[0] * away * pixels, y + direction[1] * away * pixels))
            cost = sum(_overlap(box, other) for other in taken) + OUTSIDE * _outside(box, frame) + RANK * len(found)
            found.append(_Spot(direction, away, box, leader, cost))
    return found


def _conflict(one: _Spot, other: _Spot) -> float:
    """What it costs that two labels are in these places."""
    crossed = sum(a.leader is not None and _enters(a.leader, b.box) for a, b in ((one, other), (other, one)))
    if one.leader is not None and other.leader is not None:
        crossed += _cross(one.leader, other.leader)
    return TOGETHER * _overlap(one.box, other.box) + CROSSED * crossed


def _enters(line: tuple[Point, Point], box: Bbox) -> bool:
    """Whether a line has a part inside of a box, by cutting it off at each side (Liang and Barsky 1984)."""
    (x, y), (right, up) = line[0], (line[1][0] - line[0][0], line[1][1] - line[0][1])
    start, end = 0.0, 1.0
    for step, room in ((-right, x - box.x0), (right, box.x1 - x), (-up, y - box.y0), (up, box.y1 - y)):
        if step == 0:
            if room <= 0:
                return False
        elif step < 0:
            start = max(start, room / step)
        else:
            end = min(end, room / step)
    return bool(start < end)  # the box has numbers of NumPy


def _cross(one: tuple[Point, Point], other: tuple[Point, Point]) -> bool:
    """Whether two lines cross: each has its ends on both sides of the other."""

    def side(line: tuple[Point, Point], point: Point) -> float:
        (ax, ay), (bx, by) = line
        return math.copysign(1.0, (bx - ax) * (point[1] - ay) - (by - ay) * (point[0] - ax))

    return all(side(a, b[0]) != side(a, b[1]) for a, b in ((one, other), (other, one)))


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
