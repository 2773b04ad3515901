"""One row per policy and sweep point, with intervals, and the files that scripts read.

`summary.csv` and `summary.json` hold the same numbers: latencies in milliseconds, fractions between 0 and 1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from experiments.analysis import cost
from experiments.analysis.cost import Rule
from experiments.analysis.csv_text import as_csv
from experiments.analysis.outcome import COSTS, LATENCIES, NOT_WRITTEN_BY_US, Measured, Outcome, common
from experiments.analysis.quantiles import LEAST_CONTROLLED, MS, Latencies, difference
from experiments.analysis.statistics import Interval, paired, sectioning, wilson_clustered
from sim import atomic
from sim.errors import ParmError
from sim.trace import Route

FRACTIONS = ("unavailable", "accuracy_available", "accuracy_degraded", "accuracy_overall")
RATES = {"goodput": "", "goodput_per_instance": "instances", "goodput_per_price": "price"}
"""Queries per second answered well, and by which of `COSTS` that is divided."""
METRICS = (*LATENCIES, *FRACTIONS, *RATES)
"""Every metric that has an interval, in the order of the columns."""

WRONG = {"wrong": ("wrong", ""), "false_alarms": ("located", "found"), "misses": ("wrong", "found")}
"""Metrics of wrong answers, which have an interval too: what is counted, less what. Only runs with corruption have
them. False alarms are counted among right answers, misses among wrong ones."""

COMPARED = (*LATENCIES, "accuracy_overall", "goodput")
"""The metrics whose paired differences are written."""

NAMES = {"p999": "p99.9"}
"""Names of metrics in sentences, where they are others than in files."""

FORMAT = 1
"""Version of `summary.json`."""

FEW_DEGRADED = 100
"""Fewer unavailable predictions than this draw a note."""

LARGE_CUT = 0.03
"""A larger share of a trial's queries cut as warm-up draws a note."""

DEPENDENT = 30.0
"""A larger design effect at p99.9 draws a note: the intervals of such rows were measured to hold too seldom."""

FEW_IN_TAIL = 100
"""Fewer queries beyond a trial's percentile than this draw a note."""


@dataclass(frozen=True)
class Row:
    """One policy at one sweep point, over all its trials."""

    policy: str
    kind: str
    point: dict[str, Any]
    """The swept keys and their values here; empty without a sweep."""
    metrics: dict[str, Interval | None]
    """Each of `METRICS`, latencies in ms; None where there is nothing to measure (no model, nothing degraded). Each of
    `WRONG` too, in a run with wrong answers."""
    cost: dict[str, float]
    """Each of `COSTS`, averaged over the trials."""
    queries: int
    """Queries measured, all trials together."""
    trials: int
    routes: dict[str, int]
    """Queries by route, all trials together."""
    accuracy: dict[str, int] | None
    """Counts as in `Outcome.accuracy`, all trials together."""
    warmup: list[int]
    """Queries cut in each trial."""
    settled: bool
    """Whether the latency had no trend over the run in any trial."""
    notes: list[str]
    """What a reader should know before trusting the row; one sentence each."""
    equal_cost: str = "instances"
    """The rule by which policies are compared; a name in `cost.RULES`."""
    relative_cost: float = 1.0
    """The row's cost under that rule, as a multiple of that of the first policy at the same sweep point."""
    target: dict[str, float] = field(default_factory=dict)
    """Latencies with what they may be at most, in ms; empty where nothing is asked for."""
    target_met: str = ""
    """Whether all of them are kept, at 95% confidence: yes, no, or undecided; empty where nothing is asked for."""
    standing: str = ""
    """What is certain of the policy among the others at its sweep point, in words (`selection`); empty if unknown."""

    @property
    def point_key(self) -> str:
        """A text that is equal for rows at the same sweep point."""
        return point_key(self.point)


@dataclass(frozen=True)
class Difference:
    """A policy less the first policy at the same sweep point, paired by their common random numbers."""

    policy: str
    against: str
    point: dict[str, Any]
    metric: str
    difference: Interval
    """In ms for latencies, a fraction for accuracy."""
    relative: float
    """The difference as a percentage of the first policy's value; NaN where that is 0."""


def point_key(point: dict[str, Any]) -> str:
    """Return a text that is equal for equal sweep points, whatever the type of the swept values."""
    return json.dumps(point, sort_keys=True, default=str)


def rows(outcomes: Sequence[Outcome], equal_cost: Rule = "instances") -> list[Row]:
    """Summarise outcomes by policy and sweep point, in the order in which these first appear."""
    first: dict[str, float] = {}
    table = []
    for (where, _), trials in _cells(outcomes).items():
        row = _row(trials)
        spent = cost.of(row.cost, equal_cost)
        base = first.setdefault(where, spent)
        table.append(replace(row, equal_cost=equal_cost, relative_cost=spent / base if base else 1.0))
    return table


def differences(outcomes: Sequence[Outcome]) -> list[Difference]:
    """Compare each policy with the first one, at every sweep point where both have trials in common."""
    cells = _cells(outcomes)
    first: dict[str, Latencies] = {}
    found: list[Difference] = []
    for (where, _), theirs in cells.items():
        base = first.setdefault(where, Latencies(theirs))
        if base.trials is theirs:
            continue
        ours, others = _common(Latencies(theirs), base)
        for metric in COMPARED:
            difference, reference = _difference(ours, others, metric)
            if difference is None:
                continue
            relative = 100 * difference.value / reference if reference else math.nan
            found.append(
                Difference(theirs[0].policy, base.trials[0].policy, theirs[0].point, metric, difference, relative)
            )
    return found


def paired_difference(outcomes: Sequence[Outcome], ours: Row, base: Row, metric: str) -> Interval | None:
    """Return one row's metric less another's at the same sweep point, over the trials that both have.

    In ms for latencies, a fraction otherwise; None where there is nothing to compare.
    """
    cells = _cells(outcomes)
    mine, theirs = (cells.get((row.point_key, row.policy)) for row in (ours, base))
    if not mine or not theirs:
        return None
    one, other = _common(Latencies(mine), Latencies(theirs))
    return _difference(one, other, metric)[0]


def write(
    outcomes: Sequence[Outcome], folder: Path, equal_cost: Rule = "instances", table: Sequence[Row] | None = None
) -> list[Row]:
    """Write `summary.csv`, `summary.json` and `differences.csv` into `folder`, each at once or not at all.

    `table` has the rows, if they are there already. Returns them.
    """
    table = rows(outcomes, equal_cost) if table is None else [*table]
    written = records(table)
    atomic.write(folder / "summary.csv", as_csv(written[0] if written else ["policy"], map(dict.values, written)))
    header, compared = difference_table(differences(outcomes), table)
    atomic.write(folder / "differences.csv", as_csv(header, compared))
    document = {
        "format": FORMAT,
        "units": dict.fromkeys(LATENCIES, "ms")
        | dict.fromkeys(RATES, "1/s")
        | {"busy_seconds_per_query": "s", "bytes_per_query": "B"},
        "confidence": 0.95,
        "equal_cost": equal_cost,
        "rows": [_row_as_json(row) for row in table],
    }
    atomic.write(folder / "summary.json", json.dumps(document, indent=1, allow_nan=False, default=str) + "\n")
    return table


def read(folder: Path) -> list[Row]:
    """Read the rows of a run directory's `summary.json`; raises ParmError where there is none or it is damaged."""
    path = folder / "summary.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return [_row_from_json(fields) for fields in document["rows"]]
    except FileNotFoundError:
        raise ParmError(f"{folder} holds no summary.json: it is not the directory of a finished run") from None
    except (OSError, *NOT_WRITTEN_BY_US) as problem:
        says = " ".join(str(problem).split())
        raise ParmError(f"{path} cannot be read as the summary of a run: {says}") from problem


def _cells(outcomes: Sequence[Outcome]) -> dict[tuple[str, str], list[Outcome]]:
    cells: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        cells.setdefault((point_key(outcome.point), outcome.policy), []).append(outcome)
    for trials in cells.values():
        trials.sort(key=lambda outcome: outcome.trial)
    return cells


def _row(trials: list[Outcome]) -> Row:
    first = trials[0]
    parts: Sequence[Measured] = trials if len(trials) > 1 else first.blocks or trials
    latencies = Latencies(trials)
    metrics: dict[str, Interval | None] = {name: latencies.sample(name).interval for name in LATENCIES}
    for name in (*FRACTIONS, *(WRONG if first.wrong is not None else ())):
        counted = [_count(part, name) for part in parts]
        present = [pair for pair in counted if pair is not None and pair[1] > 0]
        metrics[name] = wilson_clustered([hit for hit, _ in present], [of for _, of in present]) if present else None
    for name in RATES:
        rates = [value(part, name, first) for part in parts]
        known = first.goodput is not None and not math.isnan(sum(rates))
        whole = float(np.mean([value(trial, name, trial) for trial in trials])) if known else math.nan
        metrics[name] = sectioning(whole, rates) if known else None
    return Row(
        policy=first.policy,
        kind=first.kind,
        point=first.point,
        metrics=metrics,
        cost={name: float(np.mean([trial.cost.get(name, math.nan) for trial in trials])) for name in COSTS},
        queries=sum(trial.queries for trial in trials),
        trials=len(trials),
        routes=_sum([trial.routes for trial in trials]),
        accuracy=None if first.accuracy is None else _sum([trial.accuracy or {} for trial in trials]),
        warmup=[trial.warmup for trial in trials],
        settled=all(trial.settled for trial in trials),
        notes=_notes(trials, latencies, with_blocks=bool(first.blocks)),
        target={name: MS * bound for name, bound in first.target.items()},
        target_met=_met(latencies, first.target),
    )


def _met(latencies: Latencies, target: Mapping[str, float]) -> str:
    """Say whether latencies are at most what is asked for, in seconds, at 95% confidence."""
    found = {name: latencies.sample(name).interval for name in target}
    if any(interval.lo > MS * target[name] for name, interval in found.items()):
        return "no"
    if all(interval.hi <= MS * target[name] for name, interval in found.items()):
        return "yes" if target else ""
    return "undecided"


def _notes(trials: list[Outcome], latencies: Latencies, with_blocks: bool) -> list[str]:
    notes = []
    unsettled = sum(not trial.settled for trial in trials)
    overloaded = {role: load for trial in trials for role, load in trial.load.items() if load > 1}
    if unsettled and overloaded:
        pools = " and ".join(f"{load:.2g} on the {role} pool" for role, load in overloaded.items())
        notes.append(f"unstable: offered load {pools}; latency grows as long as the run lasts")
    elif unsettled:
        notes.append(
            f"too short: latency still rises or falls from part to part in {unsettled} of {len(trials)} trials; "
            "run more queries"
        )
    cut = max(trial.warmup / (trial.warmup + trial.queries) for trial in trials)
    if cut > LARGE_CUT:
        notes.append(f"the first {cut:.0%} of the queries are warm-up and not counted")
    if len(trials) == 1 and with_blocks:
        notes.append("one trial only: its intervals come from ten consecutive parts of it")
    elif len(trials) == 1:
        notes.append("one trial only, too short for intervals of its latency")
    if all(trial.queries == trial.routes[Route.DEFAULT.name.lower()] for trial in trials):
        notes.append("every answer is a default: no prediction comes before the deadline")
    if trials[0].controls and len(trials) < LEAST_CONTROLLED:
        notes.append(f"control variates have no effect with fewer than {LEAST_CONTROLLED} trials")
    if trials[0].goodput is not None and trials[0].accuracy is None:
        notes.append("goodput counts answers in time, right or wrong: without a model nobody knows which are right")
    if max(trial.queries for trial in trials) == 1:
        notes.append("one query per trial: no percentiles, and no interval within a trial")
    else:
        notes.extend(_few_in_tail(trials))
        notes.extend(_dependent(latencies))
    degraded = sum(trial.unavailable for trial in trials)
    if trials[0].accuracy is not None and 0 < degraded < FEW_DEGRADED:
        notes.append(f"A_d rests on {degraded} unavailable prediction{'s' if degraded > 1 else ''}")
    return notes


def _few_in_tail(trials: list[Outcome]) -> list[str]:
    """Say of which percentiles a trial has so few queries beyond them that their intervals may be too narrow."""
    fewest = min(trial.queries for trial in trials)
    few = [name for one, name in ((100, "p99"), (1000, "p99.9")) if fewest < one * FEW_IN_TAIL]
    if not few:
        return []
    beyond = fewest / 1000
    return [
        f"{' and '.join(few)} rest{'s' if len(few) == 1 else ''} on few queries per trial ({beyond:.3g} beyond p99.9, "
        f"{FEW_IN_TAIL} or more are safe), so that intervals may be too narrow: run more queries"
    ]


def _dependent(latencies: Latencies) -> list[str]:
    """Say of p99.9 that few bad trials make it, which its interval covers too seldom."""
    if len(latencies.trials) < 3:
        return []
    times = latencies.design_effect(0.999)
    if times <= DEPENDENT:
        return []
    return [
        f"few of the trials make p99.9 (they differ as if there were {times:.0f} times fewer queries): its interval "
        "holds in about 9 of 10 cases, and the true p99.9 is rather higher"
    ]


def _count(part: Measured, name: str) -> tuple[int, int] | None:
    """Return (hits, total) of one of `FRACTIONS`, or None without a model."""
    if name == "unavailable":
        return part.unavailable, part.queries
    if name in WRONG:
        return None if part.wrong is None else _count_wrong(part.wrong, name)
    if part.accuracy is None:
        return None
    kinds = {"accuracy_available": ("available",), "accuracy_degraded": ("degraded",)}
    names = kinds.get(name, ("available", "degraded"))
    return sum(part.accuracy[f"{kind}_correct"] for kind in names), sum(part.accuracy[kind] for kind in names)


def _count_wrong(counts: dict[str, int], name: str) -> tuple[int, int]:
    among = {"wrong": counts["used"], "false_alarms": counts["used"] - counts["wrong"], "misses": counts["wrong"]}
    of, less = WRONG[name]
    return counts[of] - counts.get(less, 0), among[name]


def value(part: Measured, metric: str, whole: Outcome | None = None) -> float:
    """Return one of `METRICS`, in ms, as a fraction or per second; NaN where there is nothing to measure.

    `whole` is the trial of which the part is, whose cost goodput may be divided by.
    """
    if metric in LATENCIES:
        return part.latency[metric] * MS
    if metric in RATES:
        whole = whole or (part if isinstance(part, Outcome) else None)
        if part.goodput is None or (whole is None and RATES[metric]):
            return math.nan
        return part.goodput / (whole.cost.get(RATES[metric], whole.cost["instances"]) if whole and RATES[metric] else 1)
    hits, total = _count(part, metric) or (0, 0)
    return hits / total if total else math.nan


def _common(one: Latencies, other: Latencies) -> tuple[Latencies, Latencies]:
    """Return both over the trials that both have."""
    mine, theirs = common(one.trials, other.trials)
    return (
        one if len(mine) == len(one.trials) else Latencies(mine),
        other if len(theirs) == len(other.trials) else Latencies(theirs),
    )


def _difference(ours: Latencies, base: Latencies, metric: str) -> tuple[Interval | None, float]:
    """Return ours - base and base's value, over the same trials; None where there is nothing to compare."""
    both = list(zip(ours.trials, base.trials, strict=True))
    if not both or any(math.isnan(value(part, metric)) for pair in both for part in pair):
        return None, math.nan
    if metric in LATENCIES:
        against = base.sample(metric)
        return difference(ours.sample(metric), against).interval, against.interval.value
    reference = float(np.mean([value(b, metric) for _, b in both]))
    if len(both) > 1:
        return paired([value(a, metric) for a, _ in both], [value(b, metric) for _, b in both]), reference
    (one, other) = both[0]
    sections = zip(one.blocks, other.blocks, strict=False)
    within = [value(a, metric) - value(b, metric) for a, b in sections]
    return sectioning(value(one, metric) - value(other, metric), within), reference


def _sum(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    return {name: sum(count[name] for count in counts) for name in counts[0]}


def records(table: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the lines of `summary.csv`, each by its columns; None where nothing was measured."""
    lines = []
    for row in table:
        record: dict[str, Any] = {"policy": row.policy} | row.point
        for name in (*METRICS, *(WRONG if any("wrong" in one.metrics for one in table) else ())):
            interval = row.metrics.get(name)
            ends = (None,) * 3 if interval is None else (interval.value, interval.lo, interval.hi)
            record |= dict(zip((name, f"{name}_lo", f"{name}_hi"), ends, strict=True))
        compared = {"relative_cost": row.relative_cost, "equal_cost": row.equal_cost}
        counts = {"queries": row.queries, "trials": row.trials, "standing": row.standing or None}
        asked = {"target": told(row.target), "target_met": row.target_met} if any(one.target for one in table) else {}
        lines.append(record | row.cost | compared | counts | asked)
    return lines


def told(target: Mapping[str, float]) -> str:
    """Return latencies that are asked for in words, such as `p99 <= 100 ms`."""
    return " and ".join(f"{NAMES.get(name, name)} <= {bound:g} ms" for name, bound in target.items())


def difference_table(found: Sequence[Difference], table: Sequence[Row]) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return the columns and the lines of `differences.csv`."""
    swept = table[0].point if table else {}
    rows = []
    for one in found:
        numbers = (one.difference.value, one.difference.lo, one.difference.hi, one.relative)
        rows.append((one.policy, one.against, *one.point.values(), one.metric, *numbers))
    return ["policy", "against", *swept, "metric", "difference", "lo", "hi", "relative_percent"], rows


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value


def _row_as_json(row: Row) -> dict[str, Any]:
    def ends(interval: Interval | None) -> dict[str, float | None] | None:
        if interval is None:
            return None
        return {"value": _finite(interval.value), "lo": _finite(interval.lo), "hi": _finite(interval.hi)}

    cost = {name: _finite(value) for name, value in row.cost.items()}
    return vars(row) | {"cost": cost, "metrics": {name: ends(interval) for name, interval in row.metrics.items()}}


def _row_from_json(fields: dict[str, Any]) -> Row:
    number: Callable[[float | None], float] = lambda value: math.nan if value is None else float(value)  # noqa: E731
    metrics = {
        name: None if ends is None else Interval(number(ends["value"]), number(ends["lo"]), number(ends["hi"]))
        for name, ends in fields["metrics"].items()
    }
    if metrics.keys() - set(WRONG) != set(METRICS) or fields["cost"].keys() != set(COSTS):
        raise ValueError("a row has other metrics or costs")
    cost = {name: number(value) for name, value in fields["cost"].items()}
    return TypeAdapter(Row).validate_python(fields | {"cost": cost, "metrics": metrics})
