"""How often a "95%" interval holds the true percentile: `python -m tests.benchmarks.intervals --trials 800`.

A pool of independent trials of each world is simulated once and kept in a folder, so that an interrupted call goes on.
The truth is the pool's own percentile: a macro-replication draws n of its trials with replacement, which are then
independent trials of exactly that world. Student's t over the trials' own percentiles is measured beside ours.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from experiments.analysis.outcome import GRID, Outcome
from experiments.analysis.quantiles import MS, Latencies, difference
from experiments.analysis.statistics import Interval, paired, student_t
from experiments.config.precision import Precision
from sim.cluster import Cluster
from sim.distributions.families import Exponential, Gamma
from sim.engines import Engine
from sim.policies import Coded, EqualResources, Policy, Replication
from sim.simulation import simulate
from sim.stragglers import SlowPeriods, Straggler
from sim.streams import Streams
from sim.trace import Floats
from tests.outcomes import outcome
from tests.worlds import poisson

QUERIES, WARMUP, SEED = 30_000, 1_500, 77
METRICS = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
SIZES = (3, 5, 10, 20)
MM10 = Cluster(instances=10, extra=0, service=Exponential(mean=0.02))
FARM = Cluster(instances=12, extra=6, service=Gamma(mean=0.025, shape=25))
SLOW = (SlowPeriods(factor=4, mean_normal=9.5, mean_slow=0.5),)
RARE = (SlowPeriods(factor=6, mean_normal=400, mean_slow=2),)
WORLDS: dict[str, tuple[Cluster, Policy, tuple[Straggler, ...], float]] = {
    "mm10": (MM10, EqualResources(), (), 400.0),
    "equal_slow": (FARM, EqualResources(), SLOW, 300.0),
    "coded_slow": (FARM, Coded(k=2), SLOW, 300.0),
    "repl_hi": (FARM, Replication(), SLOW, 300.0),
    "rare": (FARM, EqualResources(), RARE, 300.0),
}
STOPPED = (
    ("mm10", "p50", "1%"),
    ("mm10", "p99", "1%"),
    ("equal_slow", "p99", "1.5%"),
    ("coded_slow", "p99", "1%"),
    ("coded_slow", "p999", "5%"),
    ("rare", "p999", "10%"),
)
"""What a `precision` asks for."""
PAIRS = (("coded_slow", "equal_slow"), ("repl_hi", "equal_slow"))
"""Worlds that share their random numbers trial by trial."""


def pool(name: str, trials: int, folder: Path, engine: Engine = "auto") -> Floats:
    """Return quantile functions in seconds, shape (trials, len(GRID)); simulate the trials that are missing."""
    kept = folder / f"{name}.npy"
    found = list(np.load(kept)) if kept.is_file() else []
    cluster, policy, stragglers, rate = WORLDS[name]
    for trial in range(len(found), trials):
        streams = Streams(SEED, trial)
        trace = simulate(cluster, policy, stragglers, poisson(rate, QUERIES, streams), streams, engine=engine)
        found.append(np.quantile(trace.queries.latency[WARMUP:], GRID))
        if len(found) % 20 == 0 or len(found) == trials:
            folder.mkdir(parents=True, exist_ok=True)
            np.save(kept, np.array(found))
    return np.array(found[:trials])


def outcomes(functions: Floats) -> list[Outcome]:
    """Return trials with these quantile functions."""
    plain = outcome("world", 0, model=False, queries=100)
    return [
        dataclasses.replace(
            plain,
            trial=number,
            queries=QUERIES - WARMUP,
            quantiles={"probabilities": GRID, "seconds": seconds},
        )
        for number, seconds in enumerate(functions)
    ]


class Count:
    """How often intervals miss the truth on either side, and how wide they are."""

    def __init__(self, truth: float, scale: float) -> None:
        self.truth, self.scale = truth, scale
        self.above = self.below = 0
        self.widths: list[float] = []

    def add(self, interval: Interval) -> None:
        """Count one interval."""
        self.above += self.truth < interval.lo
        self.below += self.truth > interval.hi
        self.widths.append((interval.hi - interval.lo) / self.scale)

    def result(self) -> dict[str, float]:
        """Return percentages: of intervals that cover, that lie above or below the truth, and the median width."""
        each = 100 / len(self.widths)
        return {
            "covers": round(100 - each * (self.above + self.below), 1),
            "above": round(each * self.above, 1),
            "below": round(each * self.below, 1),
            "width": round(100 * float(np.median(self.widths)), 2),
        }


def coverage(
    mine: Sequence[Outcome], other: Sequence[Outcome] | None, metric: str, size: int, replications: int
) -> dict[str, dict[str, float]]:
    """Return the coverage of a percentile over `size` trials, or of its difference from `other`, by method.

    With 0 replications every trial is used once: the macro-replications are disjoint groups of them.
    """
    generator = np.random.default_rng([size, *metric.encode()])
    base = MS * Latencies(mine).quantile(METRICS[metric])
    truth = base if other is None else base - MS * Latencies(other).quantile(METRICS[metric])
    ours, usual = Count(truth, base), Count(truth, base)

    def own(trials: Sequence[Outcome]) -> list[float]:
        return [MS * float(np.interp(METRICS[metric], GRID, trial.quantiles["seconds"])) for trial in trials]

    for number in range(replications or len(mine) // size):
        drawn = generator.integers(0, len(mine), size) if replications else number * size + np.arange(size)
        chosen = [int(one) for one in drawn]
        first = [mine[one] for one in chosen]
        if other is None:
            ours.add(Latencies(first).sample(metric).interval)
            usual.add(student_t(own(first)))
        else:
            second = [other[one] for one in chosen]
            ours.add(difference(Latencies(first).sample(metric), Latencies(second).sample(metric)).interval)
            usual.add(paired(own(first), own(second)))
    return {"ours": ours.result(), "students_t": usual.result()}


def sequential(name: str, metric: str, width: str, world: Sequence[Outcome], replications: int) -> dict[str, float]:
    """Return how often the interval covers where a `precision` of `width` stopped, and what that took."""
    generator = np.random.default_rng([*name.encode(), *metric.encode()])
    truth = MS * Latencies(world).quantile(METRICS[metric])
    precision = Precision.model_validate({metric: width, "max_trials": 200})
    counts, covers, close = [], 0, 0
    for _ in range(replications):
        chosen, count, more = generator.integers(0, len(world), precision.max_trials), 0, precision.first(1)
        while more > count:
            count = more
            interval = Latencies([world[one] for one in chosen[:count]]).sample(metric).interval
            row: Any = SimpleNamespace(policy=name, point={}, metrics={metric: interval})
            more = precision.more([row], count, precision.max_trials)
        counts.append(count)
        covers += interval.lo <= truth <= interval.hi
        close += abs(interval.value / truth - 1) <= float(width.rstrip("%")) / 100
    shares = {"covers": 100 * covers / replications, "error_within": 100 * close / replications}
    return shares | {"median_trials": float(np.median(counts)), "most_trials": max(counts)}


def main() -> None:
    """Print a line for each world, percentile and number of trials; lines that were computed before are kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=40, help="trials in each pool")
    parser.add_argument("--replications", type=int, default=200, help="0: disjoint groups of the trials")
    parser.add_argument("--worlds", nargs="*", default=list(WORLDS))
    parser.add_argument("--out", type=Path, default=Path("runs/intervals"))
    parser.add_argument("--engine", choices=["auto", "simpy", "compiled"], default="auto")
    given = parser.parse_args()
    kept = given.out / f"coverage-{given.trials}-{given.replications}.json"
    found = json.loads(kept.read_text()) if kept.is_file() else {}
    pools = {name: outcomes(pool(name, given.trials, given.out, given.engine)) for name in given.worlds}
    cases = [(name, None) for name in pools] + [pair for pair in PAIRS if set(pair) <= set(pools)]
    for name, other in cases:
        for metric in METRICS:
            for size in SIZES:
                case = f"{name}{f' - {other}' if other else ''} {metric} n={size}"
                if case not in found:
                    against = pools[other] if other else None
                    found[case] = coverage(pools[name], against, metric, size, given.replications)
                    kept.write_text(json.dumps(found, indent=1) + "\n")
                print(case, found[case], flush=True)
    for name, metric, width in STOPPED if given.replications else ():
        case = f"{name} {metric} stopped at {width}"
        if name in pools:
            if case not in found:
                found[case] = sequential(name, metric, width, pools[name], given.replications)
                kept.write_text(json.dumps(found, indent=1) + "\n")
            print(case, found[case], flush=True)


if __name__ == "__main__":
    main()
