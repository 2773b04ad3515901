"""Compares run directories: differences of metrics, and whether their intervals overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.analysis.estimates import unit as unit_of
from experiments.analysis.statistics import Interval
from experiments.analysis.summary import METRICS, Row, read
from experiments.analysis.tables import describe
from sim.errors import ParmError

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = ("p50", "p99", "p999", "unavailable", "accuracy_overall", "goodput")
"""The metrics of the table; `Comparison.rows` has all of them."""


@dataclass(frozen=True)
class MetricComparison:
    """One metric of one policy at one sweep point, in two runs."""

    policy: str
    point: dict[str, Any]
    metric: str
    base: Interval
    other: Interval
    run: str
    """Name of the run that is compared with the first."""

    @property
    def difference(self) -> float:
        """Other run minus first run, in the metric's unit."""
        return self.other.value - self.base.value

    @property
    def overlap(self) -> bool:
        """Whether the two 95% intervals have a point in common."""
        return self.base.overlaps(self.other)


@dataclass(frozen=True)
class Comparison:
    """Result of `compare`."""

    names: list[str]
    """A short name for each run; the others are compared with the first."""
    rows: list[MetricComparison]
    unmatched: list[str]
    """A sentence for each row that only one of two runs has."""

    def table(self, metrics: Sequence[str] = SHOWN) -> Table:
        """Return a rich table of `metrics`: the values, the difference, and whether the intervals overlap."""
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, title=f"against {self.names[0]}", title_justify="left", pad_edge=False)
        table.add_column("policy")
        for heading in ("metric", self.names[0], "run", "value", "difference", "intervals"):
            table.add_column(heading, justify="left" if heading in {"metric", "run", "intervals"} else "right")
        before = ""
        for one in self.rows:
            if one.metric not in metrics:
                continue
            who = one.policy + (f"\n{describe(one.point)}" if one.point else "")
            factor, unit = (1.0, unit_of(one.metric)) if unit_of(one.metric) else (100.0, "%")
            table.add_row(
                who if who != before else "",
                f"{one.metric} {unit}",
                _written(one.base.scaled(factor)),
                one.run,
                _written(one.other.scaled(factor)),
                f"{one.difference * factor:+.2f}",
                "overlap" if one.overlap else "apart",
                style=None if one.overlap else "bold",
            )
            before = who
        return table


def compare(dirs: Sequence[Path]) -> Comparison:
    """Compare the runs in `dirs` with the first of them, by policy and sweep point.

    Raises ParmError for fewer than two directories, one that holds no summary, or runs without a row in common.
    """
    if len(dirs) < 2:
        raise ParmError("comparing needs at least two run directories")
    names = _names(dirs)
    tables = [{(row.point_key, row.policy): row for row in read(folder)} for folder in dirs]
    base = tables[0]
    compared: list[MetricComparison] = []
    unmatched: list[str] = []
    for (where, policy), row in base.items():
        for name, table in zip(names[1:], tables[1:], strict=True):
            other = table.get((where, policy))
            if other is None:
                unmatched.append(f"{_called(row)} is in {names[0]} but not in {name}")
            else:
                compared.extend(_metrics(row, other, name))
    for name, table in zip(names[1:], tables[1:], strict=True):
        unmatched.extend(
            f"{_called(row)} is in {name} but not in {names[0]}" for key, row in table.items() if key not in base
        )
    if not compared:
        raise ParmError(f"{' and '.join(names)} have no policy at the same sweep point in common")
    return Comparison(names, compared, unmatched)


def _metrics(base: Row, other: Row, name: str) -> list[MetricComparison]:
    found = []
    for metric in METRICS:
        one, two = base.metrics[metric], other.metrics[metric]
        if one is not None and two is not None:
            found.append(MetricComparison(base.policy, base.point, metric, one, two, name))
    return found


def _called(row: Row) -> str:
    return row.policy + (f" at {describe(row.point)}" if row.point else "")


def _names(dirs: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that are distinct."""
    parts = [path.resolve().parts for path in dirs]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise ParmError("the same run directory was named twice")


def _written(interval: Interval) -> str:
    margin = "" if interval.margin != interval.margin else f" ±{interval.margin:.2f}"
    return f"{interval.value:.2f}{margin}"
