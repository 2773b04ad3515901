"""How fast the simulator is, against peers measured in the same run: `make bench`, or `python -m tests.benchmarks`.

Each line is the median of several rounds in which all contenders take turns, in CPU seconds of one process, so that
what else the machine does falls on all of them alike.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from sim import compiled
from sim.cluster import Cluster
from sim.distributions.families import Exponential, Gamma
from sim.engines import Engine
from sim.policies import (
    ApproximateBackup,
    Coded,
    CodedNonsystematic,
    DefaultAnswer,
    EqualResources,
    Hedged,
    Policy,
    Replication,
    Tied,
    Uncoded,
)
from sim.policies.coded import LastResort
from sim.policies.hedged import Hedging
from sim.simulation import simulate
from sim.stragglers import SlowPeriods, Straggler
from sim.streams import Streams
from sim.trace import Trace
from tests.benchmarks import peers
from tests.worlds import poisson

ROUNDS = 5
MILLION = 1_000_000
FAST: Engine = "compiled"
FARM = Cluster(instances=10, service=Exponential(mean=peers.SERVICE))
PARM = Cluster(instances=12, extra=6, service=Gamma(mean=peers.SERVICE, shape=20))
SLOW = (SlowPeriods(mean_normal=9.0, mean_slow=1.0),)


def ours(
    cluster: Cluster,
    policy: Policy,
    stragglers: tuple[Straggler, ...],
    rate: float,
    queries: int,
    engine: Engine = "simpy",
) -> Trace:
    """Simulate, arrivals and the finished trace included."""
    streams = Streams(1)
    return simulate(cluster, policy, stragglers, poisson(rate, queries, streams), streams, engine=engine)


def race(contenders: dict[str, tuple[int, Callable[[int], object]]]) -> dict[str, float]:
    """Let contenders take turns on their number of queries; return each one's median queries per CPU second."""
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, (queries, run) in contenders.items():
            began = time.process_time()
            run(queries)
            speeds[name].append(queries / (time.process_time() - began))
    return {name: statistics.median(values) for name, values in speeds.items()}


def report(title: str, speeds: dict[str, float]) -> None:
    """Print each contender's speed and how many times faster the first one is."""
    first = next(iter(speeds.values()))
    print(f"\n{title}")
    for name, speed in speeds.items():
        print(f"  {name:<44}{speed:>12,.0f} queries/s{first / speed:>9.2f} x")


def report_engines(speeds: dict[str, float]) -> None:
    """Print the speed of each engine for each policy, and their ratio, from contenders named (policy, engine)."""
    print("\nEvery policy, 12 + 6 instances, slow periods, 270 queries/s: SimPy and compiled engine, queries/s")
    for name, speed in speeds.items():
        policy, _, engine = name.rpartition(", ")
        if engine == "simpy":
            fast = speeds[f"{policy}, compiled"]
            print(f"  {policy:<64}{speed:>10,.0f}{fast:>12,.0f}{fast / speed:>7.1f} x")


def memory_of_a_million() -> float:
    """Return the peak resident MiB of a fresh process that simulates a million queries and holds their trace."""
    program = (
        "import resource; from tests.benchmarks.__main__ import *; t = ours(PARM, Coded(k=2), SLOW, 270.0, 1_000_000);"
        "assert len(t.queries) == 1_000_000; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


def main() -> None:
    """Run every benchmark and print its table."""
    compiled.compile_kernel()
    fast = partial(ours, engine=FAST)
    peers.recursion_in_numba(10, servers=10, rate=400.0)
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}, {platform.machine()}"
    print(f"{versions}, one core, median of {ROUNDS}")
    peer = {"rate": 400.0, "servers": 10}
    report(
        "M/M/10 at load 0.8, no redundancy",
        race(
            {
                "parm, compiled, with its full trace": (
                    MILLION,
                    partial(fast, FARM, Uncoded(), (), 400.0),
                ),
                "parm, SimPy, with its full trace": (200_000, partial(ours, FARM, Uncoded(), (), 400.0)),
                "bare recursion in numba, latencies only": (MILLION, partial(peers.recursion_in_numba, **peer)),
                "plain SimPy, a process per request": (50_000, partial(peers.simpy_process_per_request, **peer)),
                "Ciw": (20_000, partial(peers.ciw_network, **peer)),
            }
        ),
    )
    peer = {"instances": 12, "parities": 6, "rate": 270.0}
    report(
        "Coded, k = 2, 12 + 6 instances, slow periods",
        race(
            {
                "parm, compiled, with its full trace": (
                    MILLION,
                    partial(fast, PARM, Coded(k=2), SLOW, 270.0),
                ),
                "parm, SimPy, with its full trace": (200_000, partial(ours, PARM, Coded(k=2), SLOW, 270.0)),
                "bare callback prototype, latencies only": (200_000, partial(peers.coded_callback_prototype, **peer)),
                "plain SimPy, processes": (30_000, partial(peers.coded_process_per_query, **peer)),
            }
        ),
    )
    policies: tuple[Policy, ...] = (
        EqualResources(),
        Replication(),
        Replication(cancel="all"),
        Hedged(cancel="all"),
        Hedged(after=0.05, budget=0.05),
        Tied(),
        DefaultAnswer(after=0.1),
        ApproximateBackup(),
        Coded(k=3),
        Coded(k=2, r=2),
        Coded(parity_pool="low_priority"),
        Coded(hedge=Hedging(), backup=LastResort()),
        CodedNonsystematic(k=4),
    )
    names = [f"{policy.kind} {policy.model_dump(exclude_defaults=True) or ''}" for policy in policies]  # type: ignore[attr-defined]
    engines: tuple[Engine, ...] = ("simpy", FAST)
    report_engines(
        race(
            {
                f"{name}, {engine}": (
                    100_000 if engine == "simpy" else MILLION,
                    partial(ours, PARM, policy, SLOW, 270.0, engine=engine),
                )
                for name, policy in zip(names, policies, strict=True)
                for engine in engines
            }
        ),
    )
    print(f"\nPeak memory of one million coded queries with their trace: {memory_of_a_million():,.0f} MiB")


if __name__ == "__main__":
    main()
