"""What control variates and antithetic trials would save: `python -m tests.benchmarks.variance --trials 300`.

A control is a number of a trial whose mean is known beforehand. Regressing what each trial adds to a percentile on the
controls leaves 1 - R^2 of its variance, so that R^2 (adjusted for the number of controls) is the share of the queries
that are saved where trials are many. Antithetic trials come in pairs, of which one draws u where the other draws 1 - u.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
from collections.abc import Sequence

import numpy as np

from experiments.analysis.outcome import GRID
from experiments.analysis.quantiles import Latencies
from sim.cluster import Cluster
from sim.distributions.families import Exponential, Gamma
from sim.policies import Coded, EqualResources, Policy
from sim.simulation import simulate
from sim.stragglers import SlowPeriods, Straggler
from sim.streams import BLOCK, Streams
from sim.trace import Floats
from tests.benchmarks.intervals import outcomes
from tests.worlds import poisson

QUERIES, WARMUP, SEED = 20_000, 1_000, 91
METRICS = ("p50", "p99", "p999")
MM4 = Cluster(instances=4, extra=0, service=Exponential(mean=0.02))
FARM = Cluster(instances=12, extra=6, service=Gamma(mean=0.025, shape=25))
SLOW = SlowPeriods(factor=4, mean_normal=9.5, mean_slow=0.5)
WORLDS: dict[str, tuple[Cluster, Policy, tuple[Straggler, ...], float]] = {
    "M/M/4 at 0.5": (MM4, EqualResources(), (), 100.0),
    "M/M/4 at 0.8": (MM4, EqualResources(), (), 160.0),
    "equal resources, slow periods": (FARM, EqualResources(), (SLOW,), 300.0),
    "coded k=2, slow periods": (FARM, Coded(k=2), (SLOW,), 300.0),
}


def controls(cluster: Cluster, rate: float, slow: bool, arrival: Floats, trial: int) -> Floats:
    """Return a trial's mean gap between arrivals, its mean first service and share of slow time, by their means."""
    streams = Streams(SEED, trial)
    stream = streams.stream(cluster.service.sample, "service", 0, 0, 0)
    drawn = np.concatenate([stream.block(number) for number in range(-(-QUERIES // BLOCK))])[:QUERIES]
    found = [rate * float(arrival[-1]) / QUERIES - 1, float(drawn.mean()) / (cluster.service.mean() or 1) - 1]
    if slow:
        found.append(SLOW.slow_share(streams, 0, cluster.instances + cluster.extra, float(arrival[-1])) / 0.05 - 1)
    return np.array(found)


def saved(added: Floats, of: Floats) -> float:
    """Return the adjusted R^2 of a regression in percent; `of` has a row of controls for each trial."""
    design = np.column_stack([np.ones(len(added)), of])
    left = added - design @ np.linalg.lstsq(design, added, rcond=None)[0]
    count, free = design.shape
    return 100 * (1 - float(left @ left) / (count - free) / (float(added @ added) / (count - 1)))


def mm4(gaps: Floats, services: Floats) -> Floats:
    """Return the latencies of a queue with four servers."""
    free = [0.0] * 4
    arrival = np.cumsum(gaps)
    found = np.empty(len(gaps))
    for index, (at, service) in enumerate(zip(arrival.tolist(), services.tolist(), strict=True)):
        start = max(at, free[0])
        heapq.heapreplace(free, start + service)
        found[index] = start + service - at
    return found


def antithetic(load: float, pairs: int) -> list[float]:
    """Return in percent what antithetic trials save of the queries, for each percentile."""
    made: list[list[Floats]] = [[], []]
    for number in range(pairs):
        u = np.random.default_rng([SEED, number]).random((2, QUERIES))
        for side, draws in enumerate((u, 1 - u)):
            gaps, services = -np.log1p(-draws[0]) / (4 * load), -np.log1p(-draws[1])
            made[side].append(np.quantile(mm4(gaps, services)[WARMUP:], GRID))
    found = []
    for metric in METRICS:
        both = np.array(Latencies(outcomes(np.array(made[0] + made[1]))).sample(metric).deviations)
        one, other = both[:pairs], both[pairs:]
        found.append(-100 * float(np.mean(one * other)) / float(np.mean(both**2)))
    return found


def coverage(pool: Latencies, of: Floats, metric: str, replications: int) -> str:
    """Return how often intervals of 40 trials hold and how wide they are, with and without control variates.

    The pool is the world: its percentile is the truth, and the means of its controls are the known ones.
    """
    truth = pool.sample(metric).interval.value
    known = [
        dataclasses.replace(trial, controls={str(at): value for at, value in enumerate(each)})
        for trial, each in zip(pool.trials, (of - of.mean(axis=0)).tolist(), strict=True)
    ]
    generator = np.random.default_rng(replications)
    covered, widths = np.zeros(2), np.zeros(2)
    for _ in range(replications):
        chosen = generator.integers(0, len(known), 40)
        for which, every in enumerate((pool.trials, known)):
            found = Latencies([every[one] for one in chosen]).sample(metric).interval
            covered[which] += found.lo <= truth <= found.hi
            widths[which] += found.hi - found.lo
    share = 100 * covered / replications
    return f"covers {share[0]:.1f}%, with control variates {share[1]:.1f}%; width {widths[1] / widths[0]:.2f} of that"


def main() -> None:
    """Print a line for each world."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--coverage", type=int, default=0, help="macro-replications of 40 trials")
    given = parser.parse_args()
    kept: dict[str, dict[str, Floats]] = {}
    for name, (cluster, policy, stragglers, rate) in WORLDS.items():
        functions, of = [], []
        for trial in range(given.trials):
            streams = Streams(SEED, trial)
            schedule = poisson(rate, QUERIES, streams)
            trace = simulate(cluster, policy, stragglers, schedule, streams)
            functions.append(np.quantile(trace.queries.latency[WARMUP:], GRID))
            of.append(controls(cluster, rate, bool(stragglers), trace.queries.arrival, trial))
        trials = Latencies(outcomes(np.array(functions)))
        kept[name] = {metric: np.array(trials.sample(metric).deviations) for metric in METRICS}
        _say(name, kept[name], np.array(of))
        for metric in METRICS if given.coverage else ():
            print(f"{name}: {metric}: {coverage(trials, np.array(of), metric, given.coverage)}", flush=True)
    coded, equal = (kept[name] for name in list(WORLDS)[:1:-1])
    _say("coded less equal", {metric: coded[metric] - equal[metric] for metric in METRICS}, np.array(of))
    for load in (0.5, 0.8):
        written = ", ".join(
            f"{metric} {share:.0f}%" for metric, share in zip(METRICS, antithetic(load, 100), strict=True)
        )
        print(f"M/M/4 at {load}: antithetic trials save {written}", flush=True)


def _say(name: str, added: dict[str, Floats], of: Floats) -> None:
    names: Sequence[str] = ("arrivals", "services", "slow time")[: of.shape[1]]
    for metric, each in added.items():
        alone = ", ".join(f"{which} {saved(each, of[:, [at]]):.0f}%" for at, which in enumerate(names))
        print(f"{name}: {metric}: {alone}, together {saved(each, of):.0f}%", flush=True)


if __name__ == "__main__":
    main()
