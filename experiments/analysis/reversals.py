"""Which pairs of policies change their order between the points of a sweep, with one confidence for all of it.

One point is the reference (`against`), such as the one with synthetic slowness; with further swept keys there is one
reference for each of their values. A pair's order is certain at a point where the interval of its difference, paired by
trial, lies on one side of 0. All intervals hold at once: they share the error (Bonferroni), which needs nothing about
how points and pairs depend on each other. So the chance that any reversal that is named is none is at most the error.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from pydantic import Field

from experiments.analysis.csv_text import as_csv
from experiments.analysis.estimates import HIGHER_IS_BETTER, Metric, sample, unit
from experiments.analysis.outcome import Outcome, Scalar, common
from experiments.analysis.reference import same
from experiments.analysis.selection import NAMES, by_point, margin
from experiments.analysis.statistics import Interval
from experiments.analysis.summary import point_key
from experiments.analysis.tables import describe
from sim.errors import ParmError
from sim.kinds import Options

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

FILE = "reversals.csv"


class Reversals(Options):
    """Which pairs of policies change their order between sweep points."""

    against: dict[str, Scalar] = Field(min_length=1)
    """The reference: values of swept keys. A point is compared with the one that has these values, and its own values
    of all other keys."""
    metric: Metric = "p999"
    """By what policies are ordered: a metric of the summary or a percentile such as p99.5."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Chance that every order that is called certain is right."""


class Order(Enum):
    """What became of the order of two policies, which is certain at the reference."""

    KEPT = "kept"
    """It is certain, and the same."""
    OPEN = "open"
    """It is not certain here."""
    REVERSED = "reversed"
    """It is certain, and the other way round."""


@dataclass(frozen=True)
class Pair:
    """Two policies at a point, whose order is certain at the point's reference."""

    point: dict[str, Any]
    """The swept keys and their values."""
    better: str
    """The policy that is better at the reference."""
    worse: str
    there: Interval
    """By how much the worse one is worse at the reference, in the metric's unit; above 0."""
    here: Interval
    """By how much it is worse here; below 0 where the order is reversed."""

    @property
    def order(self) -> Order:
        """What became of the order."""
        return Order.KEPT if self.here.lo > 0 else Order.REVERSED if self.here.hi < 0 else Order.OPEN

    def cells(self) -> list[Scalar]:
        """Return the pair's row in a table with `Found.columns`."""
        ends = [end for one in (self.there, self.here) for end in (one.value, one.lo, one.hi)]
        return [*self.point.values(), self.better, self.worse, self.order.value, *ends]


@dataclass(frozen=True)
class Found:
    """The pairs of all points but the references, and how many comparisons there were."""

    asked: Reversals
    pairs: list[Pair]
    comparisons: int
    """Intervals that hold at once: of each pair at each point, references included."""
    doubtful: int
    """Pairs, counted at each point, whose order is not certain at the reference."""
    keys: list[str]
    """The swept keys."""

    @property
    def columns(self) -> list[str]:
        """The headings of a table with a row for each pair."""
        ends = [f"{at}{end}" for at in ("there", "here") for end in ("", "_lo", "_hi")]
        return [*self.keys, "better", "worse", "order", *ends]

    def frame(self) -> pd.DataFrame:
        """Return a row for each pair, with the columns of `reversals.csv`."""
        import pandas as pd

        return pd.DataFrame([pair.cells() for pair in self.pairs], columns=self.columns)

    @property
    def reversed(self) -> list[Pair]:
        """The pairs whose order is reversed; first those of which both orders are furthest from being uncertain."""
        found = [pair for pair in self.pairs if pair.order is Order.REVERSED]
        return sorted(found, key=lambda pair: -min(pair.there.lo, -pair.here.hi))

    def sentence(self) -> str:
        """Say how many orders are kept, open and reversed."""
        counts = {order: sum(pair.order is order for pair in self.pairs) for order in Order}
        name = NAMES.get(self.asked.metric, self.asked.metric)
        return (
            f"order of policies by {name} against {describe(self.asked.against)}, "
            f"all at {self.asked.confidence:.0%} confidence: {counts[Order.REVERSED]} of {len(self.pairs)} pairs "
            f"reversed, {counts[Order.KEPT]} kept, {counts[Order.OPEN]} undecided; "
            f"{self.doubtful} undecided at the reference"
        )


def reversals(outcomes: Sequence[Outcome], asked: Reversals) -> Found:
    """Compare the order of each two policies at each point with that at its reference.

    Raises ParmError where a key is not swept, or no point has the values of the reference.
    """
    points = by_point(outcomes)
    places = {point_key(one.point): one.point for one in outcomes}
    for key in asked.against:
        if any(key not in point for point in places.values()):
            known = next(iter(places.values()), {})
            raise ParmError(f"against: '{key}' is not swept; swept are {', '.join(known) or 'no keys'}.")
    references = {_rest(point, asked): key for key, point in places.items() if _is_reference(point, asked)}
    if not references:
        raise ParmError(f"against: there is no sweep point with {describe(asked.against)}.")
    count = sum(math.comb(len(policies), 2) for policies in points.values())
    level = 1 - (1 - asked.confidence) / 2 / max(1, count)
    orders = {key: _differences(policies, asked.metric, level) for key, policies in points.items()}
    found, doubtful = [], 0
    for key, point in places.items():
        if _is_reference(point, asked) or _rest(point, asked) not in references:
            continue
        for (one, other), there in orders[references[_rest(point, asked)]].items():
            here = orders[key].get((one, other))
            if here is None:
                continue
            if there.lo > 0:
                found.append(Pair(point, one, other, there, here))
            elif there.hi < 0:
                found.append(Pair(point, other, one, _opposite(there), _opposite(here)))
            else:
                doubtful += 1
    return Found(asked, found, count, doubtful, list(next(iter(places.values()))))


def _is_reference(point: Mapping[str, Any], asked: Reversals) -> bool:
    return all(same(str(value), point[key]) for key, value in asked.against.items())


def _rest(point: Mapping[str, Any], asked: Reversals) -> str:
    return point_key({key: value for key, value in point.items() if key not in asked.against})


def _differences(
    policies: Mapping[str, Sequence[Outcome]], metric: str, level: float
) -> dict[tuple[str, str], Interval]:
    """Return for each pair by how much the second policy is worse than the first, each end one-sided at `level`."""
    names = list(policies)
    together = dict(zip(names, common(*policies.values()), strict=True)) if names else {}
    sign = -1.0 if metric in HIGHER_IS_BETTER else 1.0
    samples = {name: sample(metric, trials) for name, trials in together.items() if trials}
    found = {}
    for one, other in itertools.combinations(samples, 2):
        by = sign * (samples[other].interval.value - samples[one].interval.value)
        room = margin(samples[one], samples[other], level)
        found[one, other] = Interval(by, by - room, by + room)
    return found


def _opposite(interval: Interval) -> Interval:
    return Interval(-interval.value, -interval.hi, -interval.lo)


def as_text(found: Found) -> str:
    """Return the text of `reversals.csv`: a row for each pair at each point, in the order of the sweep."""
    return as_csv(found.columns, (pair.cells() for pair in found.pairs))


def _short(number: float, digits: int) -> str:
    """Return a number to so many significant digits, without an exponent."""
    return f"{float(f'{number:.{digits}g}'):.10g}"


def table(found: Found) -> Table:
    """Return a rich table of the pairs whose order is reversed somewhere, each with its clearest reversal."""
    from rich import box
    from rich.table import Table

    words = {"ms": " ms", "/s": "/s"}.get(unit(found.asked.metric), "")
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=found.sentence(), caption_justify="left")
    for heading in ("better at\nthe reference", "than"):
        drawn.add_column(heading)
    for heading in ("reversed", "kept", "open", "by, there", "by, here"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    drawn.add_column("clearest reversal at")
    for better, worse in dict.fromkeys((pair.better, pair.worse) for pair in found.reversed):
        theirs = [pair for pair in found.pairs if (pair.better, pair.worse) == (better, worse)]
        counts = (
            str(sum(pair.order is order for pair in theirs)) for order in (Order.REVERSED, Order.KEPT, Order.OPEN)
        )
        clearest = next(pair for pair in found.reversed if pair in theirs)
        by = (f"{_short(one.value, 3)} ±{_short(one.margin, 2)}{words}" for one in (clearest.there, clearest.here))
        drawn.add_row(better, worse, *counts, *by, describe(clearest.point))
    return drawn
