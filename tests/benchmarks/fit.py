"""How near `parm fit` comes: python -m tests.benchmarks.fit [WORLD ...]. It takes some minutes for each world.

A log of a known cluster, of 200,000 answers, is fitted. Printed are the estimates, and each policy's p99.9 on the
fitted cluster over that on the true one, from two simulations of two million queries each; and, as a measure of noise,
the ratio of two such pairs of simulations of the true cluster.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from experiments.calibration.log.fit import Columns, fit
from experiments.config.schema import Experiment
from sim.simulation import simulate
from sim.streams import Streams
from tests import logs

PERIODS = {"kind": "slow_periods", "factor": 4, "mean_normal": 9.5, "mean_slow": 0.5}
VARIED = {**PERIODS, "factor": {"kind": "uniform", "low": 2, "high": 6}}
SPEEDS = {"kind": "heterogeneous", "factors": [1, 1.2, 0.9]}
WORLDS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "periods": ({"kind": "gamma", "mean": 0.025, "shape": 25}, [PERIODS]),
    "speeds": (
        {"kind": "lognormal", "mean": 0.025, "cv": 0.4},
        [SPEEDS, {"kind": "slow_periods", "factor": 3, "mean_normal": 20, "mean_slow": 1}],
    ),
    "sticky": (
        {"kind": "gamma", "mean": 0.025, "shape": 25},
        [{"kind": "sticky", "slowdown": 4, "probability": 0.05, "stickiness": 0.9}],
    ),
    "varied": ({"kind": "gamma", "mean": 0.025, "shape": 25}, [VARIED]),
}
POLICIES = [
    "none",
    {"kind": "hedged", "after_quantile": 0.95},
    "replication",
    {"kind": "coded", "k": 2, "parity_instances": "budget"},
]
ANSWERS, QUERIES = 200_000, 2_000_000


def tails(experiment: Experiment, seeds: tuple[int, ...]) -> dict[str, float]:
    """Return the p99.9 of each policy in seconds, the mean over the seeds."""
    found = {}
    plain = Experiment.model_validate(
        {**experiment.resolved(), "policies": POLICIES, "figures": []}, context=experiment.context
    )
    for policy in plain.policies:
        each = []
        for seed in seeds:
            streams = Streams(seed)
            schedule = plain.workload.arrivals.schedule(QUERIES, streams.generator("arrivals"))
            trace = simulate(plain.machines, policy, plain.stragglers, schedule, streams, engine="compiled")
            each.append(float(np.quantile(trace.queries.latency, 0.999)))
        found[policy.label] = float(np.mean(each))
    return found


def ratios(ours: dict[str, float], theirs: dict[str, float]) -> str:
    """Return the ratios in words."""
    return ", ".join(f"{name} {ours[name] / theirs[name]:.3f}" for name in ours)


def main(worlds: list[str]) -> None:
    """Print the comparison for these worlds."""
    for name in worlds or WORLDS:
        service, stragglers = WORLDS[name]
        cluster = {"instances": 12, "extra": 6, "service": service}
        known = logs.experiment(ANSWERS, 1, 270, cluster=cluster, stragglers=stragglers)
        true, again = tails(known, (11, 12)), tails(known, (21, 22))
        print(f"{name}: noise {ratios(again, true)}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            file = logs.write(known, Path(folder) / "log.csv")
            fitted = fit(file, None, Columns("seconds", time="start", arrival="arrival"))
            print("\n".join(f"  {line}" for line in fitted.lines))
            middle = {policy: (true[policy] + again[policy]) / 2 for policy in true}
            print(f"{name}: fitted over true {ratios(tails(fitted.experiment, (31, 32)), middle)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
