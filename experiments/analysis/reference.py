"""Published measurements to compare with: drawn as hollow marks, and listed in `reference.csv`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import Field

from experiments.analysis import csv_text
from experiments.analysis.estimates import Metric, sample
from experiments.analysis.outcome import Outcome
from experiments.analysis.statistics import Interval
from experiments.analysis.summary import point_key
from sim.kinds import Options

HEADER = (
    "source", "policy", "key", "at", "metric", "simulated", "simulated_lo", "simulated_hi", "reference", "ratio",
)  # fmt: skip


class Reference(Options):
    """Published or measured points to compare with simulated ones."""

    source: str
    """Source of the numbers, as shown in figures and tables."""
    policy: str
    """Name of the policy to compare with."""
    metric: Metric = "p999"
    """A metric of the summary or a percentile such as p99.5; latencies in ms, the others as fractions."""
    key: str
    """The swept key over which they are given."""
    values: dict[str, float] = Field(min_length=1)
    """The numbers by value of the swept key."""

    def at(self, swept: object) -> float | None:
        """Return the number at a value of the swept key, or None."""
        return next((value for name, value in self.values.items() if same(name, swept)), None)


def same(name: str, swept: object) -> bool:
    """Return whether a YAML key, which is text, equals a swept value."""
    if isinstance(swept, (int, float)) and not isinstance(swept, bool):
        try:
            return float(name) == float(swept)
        except ValueError:
            return False
    return name == str(swept)


@dataclass(frozen=True)
class ReferenceComparison:
    """One reference number beside the simulated one."""

    reference: Reference
    at: object
    """The swept key's value."""
    simulated: Interval
    """In the reference's unit."""
    expected: float

    @property
    def ratio(self) -> float:
        """Simulated value divided by reference."""
        return self.simulated.value / self.expected if self.expected else math.nan


def compare(references: Sequence[Reference], outcomes: Sequence[Outcome]) -> list[ReferenceComparison]:
    """Pair every reference number with its simulated value, if there is one, in the order of the sweep."""
    return [found for reference in references for found in _of(reference, outcomes)]


def _of(reference: Reference, outcomes: Sequence[Outcome]) -> Iterator[ReferenceComparison]:
    cells: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.policy == reference.policy and reference.key in outcome.point:
            cells.setdefault(point_key(outcome.point), []).append(outcome)
    for trials in cells.values():
        swept = trials[0].point[reference.key]
        expected = reference.at(swept)
        if expected is not None:
            simulated = sample(reference.metric, trials).interval
            yield ReferenceComparison(reference, swept, simulated, expected)


def as_csv(compared: Sequence[ReferenceComparison]) -> str:
    """Return the text of `reference.csv`: a row per number, with the columns of `HEADER`."""
    rows = []
    for one in compared:
        of, simulated = one.reference, one.simulated
        numbers = (simulated.value, simulated.lo, simulated.hi, one.expected, one.ratio)
        rows.append((of.source, of.policy, of.key, one.at, of.metric, *numbers))
    return csv_text.as_csv(HEADER, rows)


def sentences(compared: Sequence[ReferenceComparison]) -> list[str]:
    """Return a sentence for each reference with the relative errors of the simulated values."""
    together: dict[tuple[str, str, str], list[float]] = {}
    for one in compared:
        name = (one.reference.source, one.reference.metric, one.reference.policy)
        together.setdefault(name, []).append(100 * (one.ratio - 1))
    said = []
    for (source, metric, policy), off in together.items():
        how = f"{off[0]:+.1f}%" if len(off) == 1 else f"{min(off):+.1f}% to {max(off):+.1f}%"
        points = f"{len(off)} point{'s' if len(off) > 1 else ''}"
        said.append(f"{source}: {metric} of {policy} is off by {how} ({points})")
    return said
