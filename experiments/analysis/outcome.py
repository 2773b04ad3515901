"""Measurements of one cell, from its trace and its answers. Times are in seconds."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from experiments.analysis.statistics import sorted_quantiles
from experiments.analysis.warmup import has_trend
from sim.errors import ParmError
from sim.trace import UNAVAILABLE, Floats, Ints, Role, Route

if TYPE_CHECKING:
    from backends.answers import Answers
    from sim.trace import Trace

Scalar = bool | int | float | str
"""A swept value of an option."""

LATENCIES = ("mean", "p50", "p99", "p999", "gap")
"""The latency metrics, in the order in which every table has them; `gap` is p999 - p50."""

COSTS = ("instances", "price", "utilisation", "busy_seconds_per_query", "bytes_per_query")
"""Costs of a policy over the whole trace, including the warm-up."""

SECTIONS = 10
"""Consecutive parts of a run from which a single trial's interval is computed."""

SMALLEST_SECTION = 10
"""A run with fewer queries per section is not divided."""

NOT_WRITTEN_BY_US = (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError)
"""Errors of reading JSON that parm did not write: no JSON, nested too deeply, values of other types, huge numbers."""

TOLD = np.array([0.5, 0.99, 0.999])
"""Probabilities of the percentiles among `LATENCIES`."""

ROUNDING = 1e-9
"""A default answer comes at the deadline but for rounding, which is no lateness."""

_DEGRADED = np.isin(np.arange(len(Route)), UNAVAILABLE)
"""By route, whether it stands for an unavailable prediction."""

GRID = np.concatenate([np.linspace(0.0, 0.99, 200), 1.0 - np.logspace(-2, -5, 151)[1:], [1.0]])
"""Probabilities of the stored quantiles: linear in the body, logarithmic in the tail from 1% to 0.001%."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Latency and accuracy of consecutive queries."""

    queries: int
    """Queries counted here."""
    latency: dict[str, float]
    """Each of `LATENCIES`, in seconds."""
    routes: dict[str, int]
    """Queries answered by each route; the keys are the names of `Route` in lower case."""
    accuracy: dict[str, int] | None
    """Counts `available`, `degraded`, each with `_correct`, `_top5` and `_agrees`; None in a run without a model."""
    goodput: float | None = None
    """Queries per second that were answered in time and rightly (without a model: in time and not by default); None
    where there is no time limit, or all queries arrive at once."""
    wrong: dict[str, int] | None = None
    """Counts of the answers that replies were made from or chosen among: `used`, those that were `wrong`, those that
    were `located` (taken for wrong), and those that were both, `found`; None in a run without wrong answers."""

    @property
    def unavailable(self) -> int:
        """Queries answered by a reconstruction, a backup or a default answer."""
        return sum(self.routes[route.name.lower()] for route in UNAVAILABLE)


@dataclass(frozen=True, kw_only=True)
class Outcome(Measured):
    """One policy at one sweep point in one trial, without its warm-up."""

    policy: str
    """The policy's name in tables: its `name`, or its kind."""
    kind: str
    """The policy's kind."""
    point: dict[str, Any]
    """The swept keys and their values here, in the order of the YAML; empty without a sweep."""
    trial: int
    warmup: int
    """Number of warm-up queries, which are not measured."""
    settled: bool
    """Whether the latency has no trend over the parts of the run; true if the run is too short to test."""
    load: dict[str, float] = field(default_factory=dict)
    """Offered load of each pool, by role: time for which its tasks occupied an instance, per instance and per second of
    the arrival period. At 1 or more the pool is unstable."""
    target: dict[str, float] = field(default_factory=dict)
    """Latencies with what they may be at most, in seconds; empty where nothing is asked for."""
    cost: dict[str, float]
    """Each of `COSTS`; without `utilisation` if the run takes no time."""
    quantiles: dict[str, list[float]]
    """`probabilities` (the `GRID`) and `seconds`: the latency's quantile function."""
    blocks: tuple[Measured, ...]
    """The same measurements in `SECTIONS` consecutive parts; empty for a run too short for that."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time spent on `simulating`, `predicting` and `writing`."""
    engine: dict[str, str] = field(default_factory=dict)
    """Which engine simulated, its `name`, and `why`."""
    passes: dict[str, int] = field(default_factory=dict)
    """Forward passes per role."""
    reused: dict[str, int] = field(default_factory=dict)
    """Predictions per role that had already been computed."""
    controls: dict[str, float] = field(default_factory=dict)
    """Control variates: relative deviations of what was drawn from its known mean, by name; empty if not asked for."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Digests of the files and the code that the cell was computed from, by name."""

    files: dict[str, str] = field(default_factory=dict)
    """Digests of the cell's trace files, by name."""

    def to_json(self) -> str:
        """Return the outcome as one line of JSON, with a checksum."""
        fields = vars(self) | {"blocks": [vars(block) for block in self.blocks]}
        text = json.dumps(fields, allow_nan=False)
        return f'{{"sha256": "{_checksum(text)}", {text[1:]}'

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the text that `to_json` wrote. Raises ParmError if it was changed or is something else."""
        try:
            fields = json.loads(text)
            if fields.pop("sha256") != _checksum(json.dumps(fields)):
                raise ValueError("its checksum is another")
            blocks = tuple(Measured(**block) for block in fields.pop("blocks"))
            return cls(**fields, blocks=blocks)
        except NOT_WRITTEN_BY_US as problem:
            raise ParmError(f"this is not the outcome of a cell: {problem}") from problem


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def common(*policies: Sequence[Outcome]) -> list[list[Outcome]]:
    """Return of each policy the trials that all of them have, in the order of the first."""
    by_trial = [{outcome.trial: outcome for outcome in trials} for trials in policies]
    kept = [trial for trial in by_trial[0] if all(trial in other for other in by_trial[1:])]
    return [[trials[trial] for trial in kept] for trials in by_trial]


def measure(
    trace: Trace,
    *,
    policy: str,
    kind: str,
    point: Mapping[str, Any],
    trial: int,
    warmup: int,
    seconds: Mapping[str, float],
    last_of_batch: bool = False,
    price: float | None = None,
    in_time: float | None = None,
    load: Mapping[str, float] | None = None,
    target: Mapping[str, float] | None = None,
) -> Outcome:
    """Measure a cell's trace; `with_answers` adds what a model's answers say.

    The first `warmup` queries are not counted. Percentiles are NumPy's `linear` ones of the others. With
    `last_of_batch` only the last query of each batch is counted. `price` is the total of all instances, each 1 by
    default; where a scaler changes their number, both are averages over the measured time. `in_time` is the latency in
    seconds up to which an answer counts for goodput. `load` is that of the pools where other services share them,
    `target` what latencies may be at most, in seconds. Raises ParmError if no query is left after the warm-up.
    """
    kept, *parts = _counted(trace, warmup, last_of_batch)
    if not len(kept):
        raise ParmError(f"a warm-up of {warmup} queries leaves none to measure in a run of {len(trace.queries)}")
    quantiles = sorted_quantiles(np.sort(trace.queries.latency[kept]), np.append(GRID, TOLD))
    blocks = tuple(_measured(trace, part, in_time) for part in parts)
    return Outcome(
        **vars(_measured(trace, kept, in_time, quantiles[len(GRID) :])),
        policy=policy,
        kind=kind,
        point=dict(point),
        trial=trial,
        warmup=warmup,
        settled=not has_trend([block.latency["mean"] for block in blocks]),
        load=offered([trace]) if load is None else dict(load),
        target=dict(target or {}),
        cost=_cost(trace, price, warmup),
        quantiles={"probabilities": GRID.tolist(), "seconds": quantiles[: len(GRID)].tolist()},
        blocks=blocks,
        seconds=dict(seconds),
    )


def with_answers(
    outcome: Outcome, trace: Trace, answers: Answers, *, last_of_batch: bool = False, in_time: float | None = None
) -> Outcome:
    """Return the outcome of a trace with what the answers that its clients received add; options as in `measure`."""
    kept, *parts = _counted(trace, outcome.warmup, last_of_batch)
    return replace(
        outcome,
        **_judged(trace, answers, kept, in_time),
        blocks=tuple(
            replace(block, **_judged(trace, answers, part, in_time))
            for block, part in zip(outcome.blocks, parts, strict=True)
        ),
        passes=dict(answers.passes),
        reused=dict(answers.reused),
    )


def _counted(trace: Trace, warmup: int, last_of_batch: bool) -> list[Ints]:
    """Return the queries that are measured, and the same in consecutive parts, if they are enough for that."""
    kept = trace.batches.first + trace.batches.size - 1 if last_of_batch else np.arange(len(trace.queries))
    kept = kept[kept >= warmup]
    if len(kept) < SECTIONS * SMALLEST_SECTION:
        return [kept]
    edges = np.linspace(0, len(kept), SECTIONS + 1).astype(int).tolist()
    return [kept, *(kept[first:last] for first, last in itertools.pairwise(edges))]


def _measured(trace: Trace, part: Ints, in_time: float | None, told: Floats | None = None) -> Measured:
    """Measure the queries `part`, of whose latencies `told` are the quantiles `TOLD`, if they are known."""
    latency = trace.queries.latency[part]
    if told is None:
        told = sorted_quantiles(np.sort(latency), TOLD)
    counts = np.bincount(trace.queries.route[part], minlength=len(Route))
    return Measured(
        queries=len(part),
        latency=_latencies(latency, told),
        routes={kind.name.lower(): int(counts[kind]) for kind in Route},
        accuracy=None,
        goodput=None if in_time is None else _goodput(trace, None, part, in_time),
    )


def _judged(trace: Trace, answers: Answers, part: Ints, in_time: float | None) -> dict[str, Any]:
    """Return what the answers to the queries `part` say: the fields of `Measured` that need a model."""
    degraded = _DEGRADED[trace.queries.route[part]]
    accuracy: dict[str, int] = {}
    for name, chosen in (("available", ~degraded), ("degraded", degraded)):
        accuracy[name] = int(np.count_nonzero(chosen))
        for what in ("correct", "top5", "agrees"):
            accuracy[f"{name}_{what}"] = int(np.count_nonzero(getattr(answers, what)[part] & chosen))
    goodput = None if in_time is None else _goodput(trace, answers, part, in_time)
    return {"accuracy": accuracy, "goodput": goodput, "wrong": _wrong(answers, part)}


def _wrong(answers: Answers, part: Ints) -> dict[str, int] | None:
    counts = answers.wrong
    if counts is None:
        return None
    return {name: int(getattr(counts, name)[part].sum()) for name in ("used", "wrong", "located", "found")}


def _goodput(trace: Trace, answers: Answers | None, part: Ints, in_time: float) -> float | None:
    """Return the share of the queries in `part` that were answered well, times the rate at which queries arrived."""
    queries, first, last = trace.queries, part[0], part[-1]
    seconds = float(queries.arrival[last] - queries.arrival[first])
    if seconds <= 0:
        return None
    right = queries.route[part] != Route.DEFAULT if answers is None else answers.correct[part]
    good = np.count_nonzero(right & (queries.latency[part] <= in_time * (1 + ROUNDING)))
    return good / len(part) * float(last - first) / seconds


def _latencies(latency: Floats, told: Floats) -> dict[str, float]:
    p50, p99, p999 = told.tolist()
    return {"mean": float(latency.mean()), "p50": p50, "p99": p99, "p999": p999, "gap": p999 - p50}


def offered(traces: Sequence[Trace]) -> dict[str, float]:
    """Return the offered load of each pool by all of some services together; empty if all queries arrive at once."""
    arrivals = [trace.queries.arrival[[0, -1]] for trace in traces]
    seconds = float(max(last for _, last in arrivals) - min(first for first, _ in arrivals))
    if seconds <= 0:
        return {}
    occupied, instance, of = (
        np.concatenate([getattr(trace.tasks, name) for trace in traces]) for name in ("occupied", "instance", "role")
    )
    load: dict[str, float] = {}
    for role in Role:
        mine = np.flatnonzero((of == role) & (instance >= 0))
        if len(mine):
            machines = float(np.count_nonzero(np.bincount(instance[mine])))
            if traces[0].counts is not None:  # one service alone has a scaler
                average = traces[0].counts.paid_on_average(*traces[0].queries.arrival[[0, -1]].tolist())
                machines = average.get(role, average[Role.DEPLOYED])
            load[role.name.lower()] = float(np.nansum(occupied[mine])) / (machines * seconds)
    return load


def instances(trace: Trace, warmup: int) -> dict[Role, float] | None:
    """Return the paid instances of each role, averaged from the arrival of the first query after the warm-up to the
    end; None without a scaler, or where the run takes no time."""
    if trace.counts is None or warmup >= len(trace.queries):
        return None
    since = float(trace.queries.arrival[warmup])
    return trace.counts.paid_on_average(since, trace.end) if since < trace.end else None


def _cost(trace: Trace, price: float | None, warmup: int) -> dict[str, float]:
    count = len(trace.queries)
    span = trace.end - float(trace.queries.arrival[0])
    scaled, whole = instances(trace, warmup), instances(trace, 0)
    launched = trace.instances if scaled is None else sum(scaled.values())
    paid = span * (trace.instances if whole is None else sum(whole.values()))
    cost = {
        "instances": launched,
        "price": launched if price is None else price,
        "utilisation": trace.occupied_seconds / paid if span > 0 else math.nan,
        "busy_seconds_per_query": trace.busy_seconds / count,
        "bytes_per_query": trace.bytes / count,
    }
    return {name: value for name, value in cost.items() if not math.isnan(value)}
