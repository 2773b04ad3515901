"""The tables at the end of a run: one per sweep point, a policy a row, every number above its margin.

Where there are many sweep points, one table has them all: a sweep point a row, a policy a column, the tail's latency.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median_low
from typing import TYPE_CHECKING, Any

from experiments.analysis import cost
from experiments.analysis.statistics import Interval
from experiments.analysis.summary import Row, told

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PLAIN_WIDTH = 120
"""Columns of the tables where the output is not a terminal."""

MOST_TABLES = 6
"""Sweep points that each get a table; more of them share one."""
MOST_ROWS = 30
"""Rows of that one table."""

LATE = {"p50": "p50\nms", "p99": "p99\nms", "p999": "p99.9\nms", "gap": "gap\nms"}
WRONG = {"accuracy_available": "A_a\n%", "accuracy_degraded": "A_d\n%", "accuracy_overall": "A_o\n%"}
LOCATED = {"wrong": "wrong\n%", "false_alarms": "false\nal. %", "misses": "misses\n%"}
LEFT_OUT = ("gap", "bytes")
"""Columns that make room for those of wrong answers."""
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
    for part in tables(rows, ascii_only=console.options.ascii_only, width=console.width):
        console.print(part, highlight=False)


def roomy(console: Console) -> Console:
    """Return the console itself if it is a terminal, else one for the same file that is wide enough for the tables."""
    from rich.console import Console

    if console.is_terminal:
        return console
    return Console(file=console.file, width=max(PLAIN_WIDTH, console.width), color_system=None)


def tables(rows: Sequence[Row], ascii_only: bool = False, width: int = PLAIN_WIDTH) -> list[RenderableType]:
    """Return the tables, one per sweep point, each followed by the lines of its remarks; else one for the whole sweep.

    `width` is the number of columns of the screen.
    """
    parts: list[RenderableType] = []
    points = list(dict.fromkeys(row.point_key for row in rows))
    ordered = sorted(rows, key=lambda row: points.index(row.point_key))
    sign = "+/-" if ascii_only else "±"
    if len(points) > MOST_TABLES:
        return _overview(ordered, sign, width)
    for _, group in groupby(ordered, key=lambda row: row.point_key):
        together = list(group)
        parts.append(_table(together, sign))
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
    # Below the name, where other columns have their margins: a column of its own would leave names no room.
    standing = any(row.standing for row in rows)
    table.add_column("policy,\nstanding" if standing else "policy")
    columns: list[list[str]] = []
    corrupt = any("wrong" in row.metrics for row in rows)
    for metric, heading in LATE.items():
        if corrupt and metric in LEFT_OUT:
            continue
        table.add_column(heading, justify="right", no_wrap=True)
        columns.append(column(rows, metric, 1.0, sign))
    table.add_column("unavail.\n%", justify="right", no_wrap=True)
    columns.append(column(rows, "unavailable", 100.0, sign))
    if any(row.metrics["accuracy_overall"] is not None for row in rows):
        for metric, heading in WRONG.items():
            table.add_column(heading, justify="right", no_wrap=True)
            columns.append(column(rows, metric, 100.0, sign))
    if corrupt:
        for metric, heading in LOCATED.items():
            table.add_column(heading, justify="right", no_wrap=True)
            columns.append(column(rows, metric, 100.0, sign))
    if any(row.metrics["goodput"] is not None for row in rows):
        table.add_column("goodput\n/s", justify="right", no_wrap=True)
        columns.append(column(rows, "goodput", 1.0, sign))
    priced = any(cost.of(row.cost, "price") != row.cost["instances"] for row in rows)
    for name, (heading, written) in COST.items():
        if (name == "price" and not priced) or (corrupt and name in LEFT_OUT):
            continue
        table.add_column(heading, justify="right", no_wrap=True)
        columns.append([written(row) for row in rows])
    for row, cells in zip(rows, zip(*columns, strict=True), strict=True):
        table.add_row(f"{row.policy}\n  {row.standing}" if standing else row.policy, *cells)
    return table


def column(rows: Sequence[Row], metric: str, factor: float, sign: str) -> list[str]:
    """Return a metric of every row with its margin, with as many decimals as give its median margin two digits."""
    intervals = [row.metrics.get(metric) for row in rows]
    margins = [one.margin * factor for one in intervals if one is not None and one.margin > 0]
    typical = median_low(margins) if margins else 0.0
    decimals = 2 if typical <= 0 else min(max(1 - math.floor(math.log10(typical)), 0), 2)
    scale = Scale(factor, decimals, sign)
    return [scale.cell(interval) for interval in intervals]


def _overview(rows: Sequence[Row], sign: str, width: int) -> list[RenderableType]:
    """Return one table of p99.9 for a whole sweep, and what to say of it."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    points = {row.point_key: row.point for row in rows}
    policies = list(dict.fromkeys(row.policy for row in rows))
    written = column(rows, "p999", 1.0, sign)
    cells = {(row.point_key, row.policy): cell for row, cell in zip(rows, written, strict=True)}
    count = min(len(points), MOST_ROWS)
    shown = [list(points)[round(index * (len(points) - 1) / (count - 1))] for index in range(count)]
    table = Table(box=box.SIMPLE_HEAD, title="p99.9 in ms", title_justify="left", title_style="bold", pad_edge=False)
    room = width - 2
    for key in rows[0].point:
        short = key.rpartition(".")[2]
        table.add_column(short if [one.rpartition(".")[2] for one in rows[0].point].count(short) == 1 else key)
        room -= 3 + max(len(short), *(len(str(points[point][key])) for point in shown))
    fitting: list[str] = []
    for policy in policies:
        words = [*policy.split(), *(cells.get((point, policy), "-") for point in shown)]
        room -= 3 + max(map(len, words))
        if room >= 0 or not fitting:
            fitting.append(policy)
            table.add_column(policy, justify="right", overflow="fold")
    for point in shown:
        numbers = [cells.get((point, policy), "-").replace("\n", "\u00a0") for policy in fitting]
        table.add_row(*map(str, points[point].values()), *numbers)
    left = [f"{len(points) - len(shown)} of {len(points)} sweep points"] if len(shown) < len(points) else []
    left += [", ".join(policies[len(fitting) :])] if len(fitting) < len(policies) else []
    rest = f"{' and '.join(left)}, and all other columns" if left else "all other columns"
    said = [Text(f"{_margins(rows)}; {rest} are in summary.csv", style="dim"), *_targets(rows)]
    return [table, *said, *_remarks_of_many(rows), Text()]


def _targets(rows: Sequence[Row]) -> list[RenderableType]:
    """Return a line for each sweep point that has a target."""
    from rich.text import Text

    groups = [list(group) for _, group in groupby(rows, key=lambda row: row.point_key)]
    return [
        Text(f"target {told(group[0].target)} at {describe(group[0].point)}: {_kept(group)}")
        for group in groups
        if group[0].target
    ]


def _remarks_of_many(rows: Sequence[Row]) -> list[RenderableType]:
    """Return the remarks of a whole sweep: each once, with where it was first made and how often."""
    from rich.text import Text

    found: dict[str, list[tuple[str, Row]]] = {}
    for row in rows:
        for note in row.notes:
            kind = re.sub(r"[0-9][0-9.,%]*", "#", note.partition(":")[0])
            found.setdefault(kind, []).append((f"note: {note}", row))
    for _, group in groupby(rows, key=lambda row: row.point_key):
        together = list(group)
        unequal = verdict(together)[1]
        if unequal:
            found.setdefault("cost", []).append((unequal, together[0]))
    lines: list[RenderableType] = []
    for kind, said in found.items():
        text, row = said[0]
        every = len({row.point_key for row in rows}) if kind == "cost" else len(rows)
        where = describe(row.point) if kind == "cost" else f"{row.policy}, {describe(row.point)}"
        more = f"; the like in {len(said) - 1} more of {every}" if len(said) > 1 else ""
        lines.append(Text(f"{text} ({where}{more})", style="yellow"))
    return lines


def _margins(rows: Sequence[Row]) -> str:
    least, most = min(row.trials for row in rows), max(row.trials for row in rows)
    over = f" over {f'{least} to ' if least < most else ''}{most} trials" if most > 1 else ""
    return f"margins are 95% intervals{over}"


def _remarks(rows: Sequence[Row]) -> list[RenderableType]:
    from rich.text import Text

    lines = []
    rule, unequal = verdict(rows)
    lines.append(Text(f"{_margins(rows)}; {rule}", style="dim"))
    if unequal:
        lines.append(Text(unequal, style="yellow"))
    if rows[0].target:
        lines.append(Text(f"target {told(rows[0].target)}: {_kept(rows)}"))
    policies: dict[str, list[str]] = {}
    for row in rows:
        for note in row.notes:
            policies.setdefault(note, []).append(row.policy)
    for note, names in policies.items():
        who = "" if len(names) == len(rows) else f" ({', '.join(names)})"
        lines.append(Text(f"note: {note}{who}", style="yellow"))
    return [*lines, Text()]


def _kept(rows: Sequence[Row]) -> str:
    """Return in words which policies keep the target, at 95% confidence each."""
    words = {"yes": "kept by", "no": "missed by", "undecided": "undecided for"}
    by = {met: [row.policy for row in rows if row.target_met == met] for met in words}
    return "; ".join(f"{words[met]} {', '.join(who)}" for met, who in by.items() if who)


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
