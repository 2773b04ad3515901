"""What a run says, in sentences: which policy is best at each sweep point, or which ones meet an objective."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from experiments.analysis import selection
from experiments.analysis.outcome import Outcome
from experiments.analysis.quantiles import CONFIDENCE
from experiments.analysis.statistics import Interval
from experiments.analysis.summary import Row, point_key
from experiments.figures.style import pair

TAIL = "p999"
"""The metric that decides where no objective is given."""


def conditions(row: Row) -> str:
    """Return a row's sweep point as it begins a sentence: `At arrival rate 300 queries/s`; "" without a sweep."""
    return "At " + ", ".join(pair(key, value) for key, value in row.point.items()) if row.point else ""


def best(rows: Sequence[Row], outcomes: Sequence[Outcome]) -> list[str]:
    """Return a sentence or two for each sweep point: the policy of lowest p99.9, by how much, and who ties with it."""
    return [_best(list(group), outcomes) for _, group in _points(rows)]


def objective(rows: Sequence[Row], slo: float, metric: str = TAIL) -> list[str]:
    """Return a sentence for each sweep point: which policies keep a latency of at most `slo` ms.

    A policy keeps it if its 95% interval lies below, misses it if the interval lies above, and is undecided otherwise.
    """
    return [_objective(list(group), slo, metric) for _, group in _points(rows)]


def _points(rows: Sequence[Row]) -> groupby[str, Row]:
    order = list(dict.fromkeys(row.point_key for row in rows))
    return groupby(sorted(rows, key=lambda row: order.index(row.point_key)), key=lambda row: row.point_key)


def _best(rows: Sequence[Row], outcomes: Sequence[Outcome]) -> str:
    known = [row for row in rows if not math.isnan(_value(row))]
    if not known:
        return _sentence(rows[0], "nothing was measured")
    lowest, first = min(known, key=_value), rows[0]
    there = [one for one in outcomes if point_key(one.point) == lowest.point_key]
    open_ = {mark.policy for _, marks in selection.verdicts(there) for mark in marks if mark.may_be_best}
    ties = [row for row in known if row is not lowest and row.policy in open_]
    text = f"{lowest.policy} has the lowest p99.9, {_with_margin(lowest.metrics[TAIL])}"
    if not ties and len(known) > 1:
        text += f" (at {CONFIDENCE:.0%} confidence)"
    if lowest is first:
        text += ": no other policy improves on it"
    elif first not in ties and _value(lowest) > 0:
        text += f", {_value(first) / _value(lowest):.1f} times lower than {first.policy} ({_value(first):.3g} ms)"
    if ties:
        text += f". The measurement cannot tell it apart from {_listed(ties)}, at {CONFIDENCE:.0%} confidence"
    overall, base = lowest.metrics["accuracy_overall"], first.metrics["accuracy_overall"]
    if lowest is not first and overall is not None and base is not None and not overall.overlaps(base):
        text += f". Its overall accuracy is {overall.value:.2%}, against {base.value:.2%}"
    return _sentence(rows[0], text)


def _objective(rows: Sequence[Row], slo: float, metric: str) -> str:
    meets: list[Row] = []
    misses: list[Row] = []
    undecided: list[Row] = []
    for row in rows:
        interval = row.metrics[metric]
        if interval is None or math.isnan(interval.value):
            continue
        low, high = (interval.lo, interval.hi) if not math.isnan(interval.lo) else (interval.value, interval.value)
        (meets if high <= slo else misses if low > slo else undecided).append(row)
    words = f"{_NAMES.get(metric, metric)} <= {slo:g} ms"
    parts = []
    if meets:
        parts.append(f"{_listed(meets)} {'meets' if len(meets) == 1 else 'meet'} {words}")
    if misses:
        parts.append(
            f"{_listed(misses)} {'does' if len(misses) == 1 else 'do'} not" + ("" if meets else f" meet {words}")
        )
    if undecided:
        parts.append(f"{_listed(undecided)} may or may not: the interval holds {slo:g} ms")
    return _sentence(rows[0], "; ".join(parts) or "nothing was measured")


_NAMES = {"p50": "the median", "p99": "p99", "p999": "p99.9", "mean": "the mean", "gap": "p99.9 - median"}


def _value(row: Row) -> float:
    interval = row.metrics[TAIL]
    return math.nan if interval is None else interval.value


def _with_margin(interval: Interval | None) -> str:
    if interval is None:
        return "unknown"
    margin = "" if math.isnan(interval.margin) else f" ±{interval.margin:.2g}"
    return f"{interval.value:.3g}{margin} ms"


def _listed(rows: Sequence[Row]) -> str:
    names = [row.policy for row in rows]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _sentence(row: Row, text: str) -> str:
    where = conditions(row)
    return f"{where}, {text}." if where else f"{text[0].upper()}{text[1:]}."
