"""How narrow a run's intervals shall be, and how many trials that takes.

The stopping rule is that of sequential intervals of fixed width (Chow and Robbins 1965): trials are added until the
interval of all of them is narrow enough. Stopping where the spread happens to look small makes the coverage fall short,
most with few trials (Glynn and Whitt 1992). So the first look is at ten trials, their number grows by a quarter or more
from look to look, and a relative width g is held to g / (1 + g), since it is one of the estimate and not of the true
value (Law, Simulation Modeling and Analysis, section 9.4.1). Sequest and Sequem (Alexopoulos et al. 2014, 2017) make
intervals of quantiles from one long run; independent trials need neither their batches nor their corrections.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field, model_validator

from experiments.analysis import percentiles
from experiments.analysis.outcome import LATENCIES
from experiments.analysis.summary import METRICS, Row
from experiments.config.widths import MS, Width, parsed
from sim.kinds import Options

FIRST_LOOK = 10
"""Trials before it is judged for the first time whether the intervals are narrow enough."""
LEAST_GROWTH, MOST_GROWTH = 1.25, 2.0
"""By how much the number of trials grows from look to look."""


class Precision(Options):
    """Trials are added until the 95% intervals of these metrics are this narrow on either side."""

    mean: Width | None = None
    """Of the mean latency."""
    p50: Width | None = None
    """Of the median latency."""
    p99: Width | None = None
    """Of the 99th percentile."""
    p999: Width | None = None
    """Of the 99.9th percentile."""
    gap: Width | None = None
    """Of p99.9 less p50."""
    unavailable: Width | None = None
    """Of the share of queries without the deployed model's own answer."""
    accuracy_available: Width | None = None
    """Of A_a."""
    accuracy_degraded: Width | None = None
    """Of A_d."""
    accuracy_overall: Width | None = None
    """Of A_o."""
    goodput: Width | None = None
    """Of the queries per second that are answered rightly and in time."""
    max_trials: int = Field(default=100, ge=2, le=10_000)
    """No more trials than this are run."""
    max_minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """No trials are added that would take the run beyond this, by the time that those before took."""

    @model_validator(mode="before")
    @classmethod
    def _percentiles_by_any_name(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return {percentiles.known(name): width for name, width in given.items()}

    @model_validator(mode="after")
    def _something(self) -> Precision:
        widths = {name: str(width) for name in METRICS if (width := getattr(self, name, None)) is not None}
        if not widths:
            raise ValueError("name a metric and its width, such as p999: 5%")
        for name, width in widths.items():
            unit = parsed(width)[1]
            if name in LATENCIES and unit is None:
                raise ValueError(f"{name}: '{width}' needs a unit: 5% of the value, or a time such as 2ms")
            if name not in LATENCIES and unit in MS:
                raise ValueError(
                    f"{name}: '{width}' is a time, but it is a share or a rate: write 5% of it, or a number"
                )
        return self

    @property
    def widths(self) -> dict[str, str]:
        """The metrics with what was asked of them."""
        return {name: str(width) for name in METRICS if (width := getattr(self, name, None)) is not None}

    def first(self, trials: int) -> int:
        """Return the trials at the first look of an experiment that says `trials`."""
        return max(trials, min(FIRST_LOOK, self.max_trials))

    def wide(self, rows: Sequence[Row]) -> list[Wide]:
        """Return the intervals that are wider than was asked for, the widest by its excess first."""
        found = []
        for row in rows:
            for name, width in self.widths.items():
                interval = row.metrics[name]
                if interval is None or math.isnan(interval.value):
                    continue
                number, unit = parsed(width)
                share = number / 100 / (1 + number / 100)
                asked = share * abs(interval.value) if unit == "%" else number * MS.get(unit or "", 1.0)
                excess = interval.margin / asked if asked > 0 else math.inf
                if math.isnan(excess):
                    excess = math.inf
                if interval.margin != 0 and excess > 1:
                    part = 100 * interval.margin / abs(interval.value) if interval.value else math.inf
                    reached = f"{part:.2g}%" if unit == "%" else f"{interval.margin:.3g}{(unit and ' ms') or ''}"
                    found.append(Wide(row, name, width, reached, excess))
        return sorted(found, key=lambda one: -one.excess)

    def more(self, rows: Sequence[Row], trials: int, affordable: int) -> int:
        """Return how many trials to have next: `trials` where it is enough, and at most `affordable` more."""
        wide = self.wide(rows)
        if not wide:
            return trials
        growth = min(max(wide[0].excess ** 2, LEAST_GROWTH), MOST_GROWTH)
        wanted = min(math.ceil(trials * growth), self.max_trials, trials + affordable)
        return max(trials, wanted)


@dataclass(frozen=True)
class Wide:
    """An interval that is wider than was asked for."""

    row: Row
    metric: str
    asked: str
    reached: str
    excess: float
    """The width as a multiple of what was asked."""


def sentences(precision: Precision, rows: Sequence[Row], trials: int) -> list[str]:
    """Say what was reached."""
    asked = ", ".join(f"{name} within {width}" for name, width in precision.widths.items())
    wide = precision.wide(rows)
    if not wide:
        return [f"precision: {asked}: reached by all rows after {trials} trials"]
    why = f"max_trials is {precision.max_trials}" if trials >= precision.max_trials else "max_minutes is over"
    said = [f"precision: {asked}: not reached in {trials} trials by {len(wide)} of the intervals ({why})"]
    for one in wide[:5]:
        where = ", ".join(f"{key} = {value}" for key, value in one.row.point.items())
        said.append(f"  {one.row.policy}{f' at {where}' if where else ''}: {one.metric} within {one.reached}")
    return said
