"""Which policies no other dominates, in tail latency, overall accuracy and cost.

A dominates B where A is no worse in all three and better in at least one of them beyond the 95% interval of their
paired difference. Differences are paired trial by trial, since all policies meet the same random numbers. No worse is
what is no worse by its estimate, or worse by less than anyone cares (1% of the latency, 0.1 points of accuracy) and not
beyond the interval: two policies with the same model do not differ in accuracy because their warm-ups were cut
differently. Costs are the same as `cost.same` says. Where such allowances close a circle, none in it dominates another.

Among many pairs some are apart by chance. So it is also said which choices are dominated *surely*: by one that is no
worse beyond these allowances and better in something by bounds that hold for all pairs at once, at 95% confidence.

Choices are compared where they meet the same conditions: rows at the same values of the swept `workload`, `stragglers`
and `model` keys. Everything else that is swept, such as `cluster.extra` or `policies.coded.k`, is a choice, and what is
written beside a policy's name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from experiments.analysis import cost
from experiments.analysis.csv_text import as_csv
from experiments.analysis.estimates import gain, sample
from experiments.analysis.outcome import Outcome
from experiments.analysis.quantiles import CONFIDENCE
from experiments.analysis.selection import margin
from experiments.analysis.statistics import Interval
from experiments.analysis.summary import Row, point_key

CONDITIONS = ("workload", "stragglers", "corruption", "model")
"""Sections of the YAML that nobody chooses who runs the cluster."""
ACCURACY = "accuracy_overall"
NEGLIGIBLE_LATENCY = 0.01
"""Of the larger of the two latencies."""
NEGLIGIBLE_ACCURACY = 0.001


@dataclass
class Choice:
    """A policy with the options that are swept, under given conditions."""

    row: Row
    trials: Sequence[Outcome]
    """The row's outcomes, trial by trial."""
    untouched: bool = False
    """Whether the swept options change nothing for this policy, which is then there once."""
    dominated_by: list[Choice] = field(default_factory=list)
    """The choices that dominate it, in their order; empty on the frontier."""
    surely: bool = False
    """Whether it is certain, for all choices at once, that one dominates it."""

    @property
    def conditions(self) -> dict[str, Any]:
        """The swept keys that are not chosen, with their values."""
        return {key: value for key, value in self.row.point.items() if key.partition(".")[0] in CONDITIONS}

    @property
    def options(self) -> dict[str, Any]:
        """The swept keys that are chosen, with their values, if they change anything for the policy."""
        if self.untouched:
            return {}
        return {key: value for key, value in self.row.point.items() if key.partition(".")[0] not in CONDITIONS}

    @property
    def label(self) -> str:
        """The policy's name, and the swept options behind it."""
        options = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in self.options.items())
        return f"{self.row.policy}, {options}" if options else self.row.policy

    @property
    def spent(self) -> float:
        """What it cost under the experiment's rule."""
        return cost.of(self.row.cost, self.row.equal_cost)


def frontiers(rows: Sequence[Row], outcomes: Sequence[Outcome], metric: str = "p999") -> list[list[Choice]]:
    """Return the choices under each of the conditions, in the order of the rows, each told what dominates it.

    `metric` is the latency that counts. Without a model latency and cost alone decide.
    """
    cells: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        cells.setdefault((point_key(outcome.point), outcome.policy), []).append(outcome)
    groups: dict[str, list[Choice]] = {}
    for row in rows:
        trials = sorted(cells.get((row.point_key, row.policy), ()), key=lambda one: one.trial)
        if trials:
            choice = Choice(row, trials)
            groups.setdefault(point_key(choice.conditions), []).append(choice)
    found = [_once(group) for group in groups.values()]
    for group in found:
        above = np.array([[dominates(one, other, metric) for one in group] for other in group], dtype=bool)
        reach = above.copy()
        for via in range(len(group)):  # Warshall 1962
            reach |= np.outer(reach[:, via], reach[via])
        for choice, over, back in zip(group, above, reach.T, strict=True):
            choice.dominated_by = [group[index] for index in np.flatnonzero(over & ~back)]
        _be_sure(group, metric)
    return found


def _be_sure(group: Sequence[Choice], metric: str) -> None:
    """Find the choices that are dominated by bounds that hold for all pairs at once (Bonferroni)."""
    scales = _scales(metric, *group)
    level = 1 - (1 - CONFIDENCE) / max(1, len(group) * (len(group) - 1) * len(scales))
    kept = {(id(choice), name): sample(name, choice.trials) for choice in group for name, _ in scales}
    for choice in group:
        for one in choice.dominated_by:
            better = not cost.same(one.spent, choice.spent, one.row.equal_cost)
            worse = False
            for name, sign in scales:
                mine, other = kept[id(one), name], kept[id(choice), name]
                by = sign * (mine.interval.value - other.interval.value)
                room = margin(mine, other, level)
                worse |= not by - room >= -_negligible(one, choice, name)
                better |= by - room > 0
            choice.surely |= better and not worse


def _scales(metric: str, *choices: Choice) -> list[tuple[str, float]]:
    """Return what is compared, with the sign of what is better."""
    answers = all(choice.row.metrics[ACCURACY] is not None for choice in choices)
    return [(metric, -1.0), *([(ACCURACY, 1.0)] if answers else [])]


def _once(group: Sequence[Choice]) -> list[Choice]:
    """Leave out the repetitions of a policy for which the swept options made no difference."""
    kept: list[Choice] = []
    for policy in dict.fromkeys(choice.row.policy for choice in group):
        mine = [choice for choice in group if choice.row.policy == policy]
        results = {
            repr([choice.spent, *((one.trial, one.latency, one.routes, one.accuracy) for one in choice.trials)])
            for choice in mine
        }
        if len(mine) > 1 and len(results) == 1:
            mine = [replace(mine[0], untouched=True)]
        kept.extend(mine)
    return kept


def dominates(one: Choice, other: Choice, metric: str = "p999") -> bool:
    """Say whether `one` is no worse in everything and better in something, as the module's text has it."""
    if one is other:
        return False
    better = False
    if not cost.same(one.spent, other.spent, one.row.equal_cost):
        if one.spent > other.spent:
            return False
        better = True
    for name, sign in _scales(metric, one, other):
        by = gain(name, sign, one.trials, other.trials)
        if not by.value >= -_negligible(one, other, name) or by.hi < 0:
            return False
        better |= by.lo > 0
    return better


def _negligible(one: Choice, other: Choice, metric: str) -> float:
    """Return the difference that nobody cares about."""
    if metric == ACCURACY:
        return NEGLIGIBLE_ACCURACY
    return NEGLIGIBLE_LATENCY * max(
        interval.value for row in (one.row, other.row) if (interval := row.metrics[metric]) is not None
    )


def as_text(groups: Sequence[Sequence[Choice]], metric: str = "p999") -> str:
    """Return the table `frontier.csv`: a row per choice, whether it is on the frontier, and what dominates it."""
    records = []
    for group in groups:
        for choice in group:
            row = choice.row
            record: dict[str, Any] = {"policy": row.policy} | row.point
            for name in (metric, ACCURACY):
                record |= _ends(name, row.metrics[name])
            record |= {"cost": choice.spent, "cost_in": cost.RULES[row.equal_cost].column}
            record |= {"on_frontier": "no" if choice.surely else "undecided" if choice.dominated_by else "yes"}
            records.append(record | {"dominated_by": "; ".join(one.label for one in choice.dominated_by)})
    return as_csv(records[0] if records else ["policy"], map(dict.values, records))


def sentences(groups: Sequence[Sequence[Choice]]) -> list[str]:
    """Return, for each of the conditions, which choices no other dominates."""
    found = []
    for group in groups:
        where = describe(group[0].conditions)
        best = "; ".join(choice.label for choice in group if not choice.dominated_by)
        open_ = "; ".join(choice.label for choice in group if choice.dominated_by and not choice.surely)
        found.append(f"not dominated{f' at {where}' if where else ''}: {best}")
        if open_:
            found.append(f"dominated, but not surely at {CONFIDENCE:.0%} confidence for all at once: {open_}")
    return found


def describe(conditions: Mapping[str, Any]) -> str:
    """Return conditions in words, such as `rate = 200`."""
    return ", ".join(f"{key.rpartition('.')[2]} = {value}" for key, value in conditions.items())


def _ends(name: str, interval: Interval | None) -> dict[str, float]:
    one = interval or Interval(math.nan, math.nan, math.nan)
    return {name: one.value, f"{name}_lo": one.lo, f"{name}_hi": one.hi}
