"""Panels of a swept experiment: which key runs along the axis, and which rows share a panel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from experiments.analysis.summary import Row, point_key
from experiments.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
        """Scale and label the horizontal axis."""
        from matplotlib.ticker import NullLocator

        places = [float(one) for one in self.values] if self.numeric else [float(i) for i in range(len(self.values))]
        if self.numeric and min(places) > 0 and style.wants_log(places, 20):
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
        if len(places) <= 12:
            axes.set_xticks(places, [style.value(one) for one in self.values])
        axes.set_xlabel(style.axis(self.key))


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


def panels(rows: Sequence[Row], apart_from: str | None = None) -> list[Panel]:
    """Group rows by their sweep point, in order of appearance, leaving out the key `apart_from` and those with it."""
    groups: dict[str, Panel] = {}
    left_out = together(rows, apart_from) if apart_from else set()
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


def grid(count: int) -> tuple[int, int]:
    """Return rows and columns for `count` panels."""
    columns = count if count <= 3 else 2 if count == 4 else 3
    return -(-count // columns), columns
