"""The tables at the end of a run: one per sweep point, a policy a row, every number above its margin."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median_low
from typing import TYPE_CHECKING, Any

from experiments.analysis import cost
from experiments.analysis.statistics import Interval
from experiments.analysis.summary import Row

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PLAIN_WIDTH = 120
"""Columns of the tables where the output is not a terminal."""

LATE = {"p50": "p50\nms", "p99": "p99\nms", "p999": "p99.9\nms", "gap": "gap\nms"}
WRONG = {"accuracy_available": "A_a\n%", "accuracy_degraded": "A_d\n%", "accuracy_overall": "A_o\n%"}
COST: dict[str, tuple[str, Callable[[Row], str]]] = {
    "instances": ("inst-\nances", lambda row: f"{row.cost['instances']:.4g}"),
    "price": ("price", lambda row: f"{cost.of(row.cost, 'price'):.4g}"),
    "busy": ("busy ms\n/query", lambda row: f"{row.cost['busy_seconds_per_query'] * 1000:.4g}"),
    "bytes": ("kB\n/query", lambda row: f"{row.cost['bytes_per_query'] / 1000:.4g}"),
}


@dataclass(frozen=True)
class Scale:
    """How the numbers of one column are written: all with the same decimals."""

    factor: float
    decimals: int
    sign: str

    def cell(self, interval: Interval | None) -> str:
        """Return the value with its margin in a second line; a dash where there is nothing."""
        if interval is None or math.isnan(interval.value):
            return "-"
        shown = interval.scaled(self.factor)
        margin = "" if math.isnan(shown.margin) else f"{self.sign}{shown.margin:.{self.decimals}f}"
        return f"{shown.value:.{self.decimals}f}\n{margin}"


def show(rows: Sequence[Row], console: Console) -> None:
    """Print every table with its remarks, as plain text where `console` is not a terminal."""
    console = roomy(console)
    for part in tables(rows, ascii_only=console.options.ascii_only):
        console.print(part, highlight=False)


def roomy(console: Console) -> Console:
    """Return the console itself if it is a terminal, else one for the same file that is wide enough for the tables."""
    from rich.console import Console

    if console.is_terminal:
        return console
    return Console(file=console.file, width=max(PLAIN_WIDTH, console.width), color_system=None)


def tables(rows: Sequence[Row], ascii_only: bool = False) -> list[RenderableType]:
    """Return the tables, one per sweep point, each followed by the lines of its remarks."""
    parts: list[RenderableType] = []
    ordered = sorted(rows, key=lambda row: [other.point_key for other in rows].index(row.point_key))
    for _, group in groupby(ordered, key=lambda row: row.point_key):
        together = list(group)
        parts.append(_table(together, "+/-" if ascii_only else "±"))
        parts.extend(_remarks(together))
    return parts


def describe(point: dict[str, Any]) -> str:
    """Return a sweep point in words, such as `workload.arrivals.rate = 270`; empty without a sweep."""
    return ", ".join(f"{key} = {value}" for key, value in point.items())


def _table(rows: Sequence[Row], sign: str) -> RenderableType:
    from rich import box
    from rich.table import Table

    title = describe(rows[0].point)
    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold", pad_edge=False)
    table.add_column("policy")
    columns: list[list[str]] = []
    for metric, heading in LATE.items():
        table.add_column(heading, justify="right", no_wrap=True)
        columns.append(_column(rows, metric, 1.0, sign))
    table.add_column("unavail.\n%", justify="right", no_wrap=True)
    columns.append(_column(rows, "unavailable", 100.0, sign))
    if any(row.metrics["accuracy_overall"] is not None for row in rows):
        for metric, heading in WRONG.items():
            table.add_column(heading, justify="right", no_wrap=True)
            columns.append(_column(rows, metric, 100.0, sign))
    priced = any(cost.of(row.cost, "price") != row.cost["instances"] for row in rows)
    for name, (heading, written) in COST.items():
        if name == "price" and not priced:
            continue
        table.add_column(heading, justify="right", no_wrap=True)
        columns.append([written(row) for row in rows])
    for row, cells in zip(rows, zip(*columns, strict=True), strict=True):
        table.add_row(row.policy, *cells)
    return table


def _column(rows: Sequence[Row], metric: str, factor: float, sign: str) -> list[str]:
    """Write a metric with as many decimals as give its median margin two significant digits."""
    intervals = [row.metrics[metric] for row in rows]
    margins = [one.margin * factor for one in intervals if one is not None and one.margin > 0]
    typical = median_low(margins) if margins else 0.0
    decimals = 2 if typical <= 0 else min(max(1 - math.floor(math.log10(typical)), 0), 2)
    scale = Scale(factor, decimals, sign)
    return [scale.cell(interval) for interval in intervals]


def _remarks(rows: Sequence[Row]) -> list[RenderableType]:
    from rich.text import Text

    lines = []
    trials = {row.trials for row in rows}
    sign = "margins are 95% intervals" + (
        f" over {trials.pop()} trials" if len(trials) == 1 and max(trials) > 1 else ""
    )
    rule, unequal = verdict(rows)
    lines.append(Text(f"{sign}; {rule}", style="dim"))
    if unequal:
        lines.append(Text(unequal, style="yellow"))
    policies: dict[str, list[str]] = {}
    for row in rows:
        for note in row.notes:
            policies.setdefault(note, []).append(row.policy)
    for note, names in policies.items():
        who = "" if len(names) == len(rows) else f" ({', '.join(names)})"
        lines.append(Text(f"note: {note}{who}", style="yellow"))
    return [*lines, Text()]


def verdict(rows: Sequence[Row]) -> tuple[str, str | None]:
    """Return, for the rows of one sweep point, the rule in words, and which rows do not cost the same, if any."""
    rule = rows[0].equal_cost
    groups: list[tuple[float, list[str]]] = []
    for row in rows:
        spent = cost.of(row.cost, rule)
        for first, who in groups:
            if cost.same(spent, first, rule):
                who.append(row.policy)
                break
        else:
            groups.append((spent, [row.policy]))
    meaning = f"equal cost is {cost.RULES[rule].meaning}" + (" within 1%" if cost.RULES[rule].tolerance >= 0.01 else "")
    if len(groups) < 2:
        return f"{meaning}: {cost.written(groups[0][0], rule)}", None
    parts = [f"{', '.join(who)} {cost.written(spent, rule)}" for spent, who in groups]
    return meaning, "not at equal cost: " + "; ".join(parts)
