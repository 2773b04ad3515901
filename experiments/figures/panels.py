"""Panels of a swept experiment: which key runs along the axis, and which rows share a panel."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from experiments.analysis.summary import Row, point_key
from experiments.figures import style

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Panel:
    """Rows that are drawn together."""

    title: str
    point: dict[str, Any]
    """The swept keys that are fixed in this panel."""
    rows: list[Row]


@dataclass(frozen=True)
class Along:
    """The swept key on the horizontal axis, and where its values lie on it."""

    key: str
    values: list[Any]
    even: bool = False
    """Whether to place the values at even distances, whatever they are."""

    @property
    def numeric(self) -> bool:
        """Whether the values are numbers whose distances mean something here."""
        return not self.even and all(isinstance(one, int | float) and not isinstance(one, bool) for one in self.values)

    def position(self, row: Row) -> float:
        """Return where a row lies on the axis."""
        return self.coordinate(row.point[self.key])

    def coordinate(self, at: Any) -> float:
        """Return where one of the values lies on the axis."""
        return float(at) if self.numeric else float(self.values.index(at))

    def dress(self, axes: Axes) -> None:
        """Scale the horizontal axis, with a tick at every value that there is room for."""
        from matplotlib.ticker import NullLocator

        places = [float(one) for one in self.values] if self.numeric else [float(i) for i in range(len(self.values))]
        if self.numeric and min(places) > 0 and style.wants_log(places, 20):
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
        log = axes.get_xscale() == "log"
        shown = _apart([math.log(at) if log else at for at in places], [style.value(one) for one in self.values], axes)
        axes.set_xticks([places[index] for index in shown], [style.value(self.values[index]) for index in shown])


def _apart(places: Sequence[float], names: Sequence[str], axes: Axes) -> list[int]:
    """Return which names can stand at these places of the horizontal axis without touching: both ends, if any."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    scale = 0.9 * style.inches(axes) / ((places[order[-1]] - places[order[0]]) or 1)

    def clear(one: int, other: int) -> bool:
        needed = 0.031 * style.zoom() * (len(names[one]) + len(names[other]) + 2)
        return abs(places[one] - places[other]) * scale >= needed

    kept = order[:1]
    for index in order[1:-1]:
        if clear(index, kept[-1]) and clear(index, order[-1]):
            kept.append(index)
    return kept + [index for index in order[1:][-1:] if clear(index, kept[-1])]


def along(rows: Sequence[Row], wanted: str | None = None, *, even: bool = False) -> Along | None:
    """Return the key for the horizontal axis: the one wanted, else the first numeric one, else the first one.

    A key with one value only is passed over where there is another; None without a sweep.
    """
    candidates = []
    for key in rows[0].point if rows else ():
        values = list(dict.fromkeys(row.point[key] for row in rows))
        candidates.append(Along(key, values))
    for one in candidates:
        if one.key == wanted:
            return replace(one, even=even)
    candidates.sort(key=lambda one: (len(one.values) == 1, not one.numeric))
    return replace(candidates[0], even=even) if candidates else None


def panels(rows: Sequence[Row], apart_from: str | Sequence[str] = ()) -> list[Panel]:
    """Group rows by their sweep point, in order of appearance, leaving out `apart_from` and what changes with it."""
    groups: dict[str, Panel] = {}
    left_out: set[str] = set()
    for key in [apart_from] if isinstance(apart_from, str) else apart_from:
        left_out |= together(rows, key)
    for row in rows:
        point = {key: at for key, at in row.point.items() if key not in left_out}
        title = ", ".join(style.pair(key, at) for key, at in point.items())
        groups.setdefault(point_key(point), Panel(title, point, [])).rows.append(row)
    return list(groups.values())


def together(rows: Sequence[Row], key: str) -> set[str]:
    """Return `key` and the keys that change only when it does: those that are swept together with it."""

    def count(*names: str) -> int:
        return len({point_key({name: row.point[name] for name in names}) for row in rows})

    steps = count(key)
    return {key} | {one for one in rows[0].point if count(one) > 1 and count(one, key) == steps}


def grid(count: int, page: style.Page | None = None) -> tuple[int, int]:
    """Return rows and columns for `count` panels, as many beside each other as the page has room for."""
    columns = count if count <= 3 else 2 if count == 4 else 3
    if page is not None and page.width is not None:
        columns = max(1, min(columns, int(page.width / (style.NARROWEST * style.zoom()))))
    return -(-count // columns), columns


def facets(
    titles: Sequence[str],
    alone: tuple[float, float],
    beside: tuple[float, float],
    *,
    headline: str,
    small_print: str,
    labels: tuple[str, str],
    legend: Sequence[Artist] = (),
    page: style.Page | None = None,
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a panel for each title, on common axes with the labels of x and y.

    A panel has the size `alone` in inches where there is one, else `beside`.
    """
    rows, columns = grid(len(titles), page)
    size = alone if len(titles) == 1 else beside
    figure, every = style.sheet(rows, columns, size, headline, small_print, legend, page, sharex=True, sharey=True)
    axes = every[: len(titles)]
    for ax in every[len(titles) :]:
        ax.set_visible(False)
    for index, (ax, title) in enumerate(zip(axes, titles, strict=True)):
        ax.set_title(wrapped(title, ax))
        ax.label_outer()
        if index >= len(titles) - columns:
            ax.tick_params(labelbottom=True)
    (axes[0].set_xlabel if columns == 1 else figure.supxlabel)(labels[0])
    high = float(figure.get_figheight()) - (0.6 if rows == 1 else 1.2)
    upright = textwrap.fill(labels[1], max(int(0.8 * high / (0.07 * style.zoom())), 8))
    (axes[0].set_ylabel if rows == 1 else figure.supylabel)(upright)
    if columns == 1:
        axes[-1].set_xlabel(labels[0])
    return figure, axes


def wrapped(title: str, axes: Axes) -> str:
    """Return a title in as many lines as the panel's width asks for."""
    return textwrap.fill(title, max(int(style.inches(axes) / (0.07 * style.zoom())), 8))
