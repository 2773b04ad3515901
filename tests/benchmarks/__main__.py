"""How fast the simulator is, against peers measured in the same run: `make bench`, or `python -m tests.benchmarks`.

Each line is the median of several rounds in which all contenders of a case take turns, in CPU seconds of one process,
so that what else the machine does falls on all of them alike. `--out DIR` writes the table as `engines.json` too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from experiments.run.manifest import git_revision, versions
from sim import compiled
from sim.batching import Fixed
from sim.cluster import Cluster
from sim.dispatching import IdleQueue, RandomQueue, ShortestQueue
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
from sim.routing import Ejection, LeastRequest, PeakEwma, Prequal
from sim.simulation import simulate
from sim.stragglers import Crashes, SlowPeriods, Straggler
from sim.streams import Streams
from sim.trace import Trace
from tests.benchmarks import peers
from tests.worlds import poisson

SEED = 1
FEW = 100_000
MILLION = 1_000_000
MANY = 300_000
FAST: Engine = "compiled"
FARM = Cluster(instances=10, service=Exponential(mean=peers.SERVICE))
PARM = Cluster(instances=12, extra=6, service=Gamma(mean=peers.SERVICE, shape=20))
SLOW = (SlowPeriods(mean_normal=9.0, mean_slow=1.0),)
BATCHES = PARM.model_copy(update={"batching": Fixed(size=4)})

Run = Callable[[int], object]


def ours(
    cluster: Cluster,
    policy: Policy,
    stragglers: tuple[Straggler, ...],
    rate: float,
    queries: int,
    engine: Engine = "simpy",
) -> Trace:
    """Simulate, arrivals and the finished trace included."""
    streams = Streams(SEED)
    return simulate(cluster, policy, stragglers, poisson(rate, queries, streams), streams, engine=engine)


@dataclass(frozen=True, slots=True)
class Line:
    """One contender of a case."""

    case: str
    contender: str
    queries: int
    """Simulated in each round."""
    speed: float
    """Queries per CPU second, median of the rounds."""
    ratio: float
    """How many times as fast as our engine on SimPy, median of the rounds."""


def contenders(cluster: Cluster, policy: Policy, stragglers: tuple[Straggler, ...], rate: float) -> dict[str, Run]:
    """Return both engines; all others are compared with the first."""
    both: dict[str, Engine] = {"parm, SimPy": "simpy", "parm, compiled": FAST}
    return {name: partial(ours, cluster, policy, stragglers, rate, engine=engine) for name, engine in both.items()}


def cases() -> Iterator[tuple[str, dict[str, Run]]]:
    """Yield each case with its contenders."""
    peer = {"rate": 400.0, "servers": 10}
    yield (
        "none, M/M/10 at load 0.8",
        {
            **contenders(FARM, Uncoded(), (), 400.0),
            "bare recursion in numba, latencies only": partial(peers.recursion_in_numba, **peer),
            "plain SimPy, a process per request": partial(peers.simpy_process_per_request, **peer),
            "Ciw": partial(peers.ciw_network, **peer),
        },
    )
    peer = {"instances": 12, "parities": 6, "rate": 270.0}
    yield (
        "coded",
        {
            **contenders(PARM, Coded(k=2), SLOW, 270.0),
            "bare kernel in numba, latencies only": partial(peers.coded_kernel_in_numba, **peer),
            "bare callback prototype, latencies only": partial(peers.coded_callback_prototype, **peer),
            "plain SimPy, processes": partial(peers.coded_process_per_query, **peer),
        },
    )
    policies: tuple[Policy, ...] = (
        EqualResources(),
        Replication(),
        Replication(cancel="all"),
        Hedged(cancel="all"),
        Hedged(after=0.05, budget=0.05),
        Hedged(after=0.03, probability=0.3),
        Tied(),
        DefaultAnswer(after=0.1),
        ApproximateBackup(),
        Coded(k=3),
        Coded(k=2, r=2),
        Coded(k=3, r=2),
        Coded(parity_pool="low_priority"),
        Coded(hedge=Hedging(), backup=LastResort()),
        CodedNonsystematic(k=4),
    )
    for policy in policies:
        yield name_of(policy), contenders(PARM, policy, SLOW, 270.0)
    for policy in (EqualResources(), Replication(), Coded()):
        yield f"{name_of(policy)}, batches of up to 4 at instances", contenders(BATCHES, policy, SLOW, 600.0)
    crashes = (*SLOW, Crashes(mean_up=20.0, repair=Exponential(mean=1.0)))
    for queue in (ShortestQueue(), IdleQueue()):
        cluster = PARM.model_copy(update={"queue": queue})
        yield f"equal_resources, {queue.kind}, crashes", contenders(cluster, EqualResources(), crashes, 270.0)
    routers = (
        *(PeakEwma(), LeastRequest(ejection=Ejection(timeout=0.2, move=True)), Prequal()),
        *(RandomQueue(steal=True), Prequal(steal=True)),
    )
    for router in routers:
        cluster = PARM.model_copy(update={"queue": router})
        name = f"equal_resources, {router.kind}{', stealing' if router.steal else ''}"
        yield name, contenders(cluster, EqualResources(), SLOW, 270.0)


def name_of(policy: Policy) -> str:
    """Return the policy with its options."""
    options = policy.model_dump(exclude_defaults=True)
    return f"{policy.name_in_yaml()} {options}" if options else str(policy.name_in_yaml())


def race(case: str, runs: dict[str, Run], rounds: int) -> list[Line]:
    """Let contenders take turns."""
    sizes = {name: MANY if name in QUICK else FEW // 4 if "plain" in name or name == "Ciw" else FEW for name in runs}
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for name in QUICK & set(runs):
        runs[name](1000)  # numba compiles
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.process_time()
            run(sizes[name])
            speeds[name].append(sizes[name] / (time.process_time() - began))
    first = next(iter(speeds.values()))
    return [
        Line(
            case,
            name,
            sizes[name],
            statistics.median(values),
            statistics.median(one / other for one, other in zip(values, first, strict=True)),
        )
        for name, values in speeds.items()
    ]


QUICK = {"parm, compiled", "bare recursion in numba, latencies only", "bare kernel in numba, latencies only"}
"""Contenders that are given `MANY` queries."""


def coded_in_a_process(queries: int, engine: Engine) -> tuple[float, float]:
    """Return CPU seconds, and peak resident MiB, of a fresh process that simulates coded queries and holds their trace.

    The process has the kernel before the seconds count.
    """
    program = (
        "import re, time; from tests.benchmarks.__main__ import *; compiled.compile_kernel();"
        f"began = time.process_time(); t = ours(PARM, Coded(k=2), SLOW, 270.0, {queries}, {engine!r});"
        "seconds = time.process_time() - began;"  # the peak of `getrusage` would be that of this process, if higher
        r"print(seconds, int(re.search(r'VmHWM:\s+(\d+)', Path('/proc/self/status').read_text())[1]) / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    seconds, megabytes = map(float, done.stdout.split())
    return seconds, megabytes


def start_of_the_kernel(cache: Path | None) -> float:
    """Return CPU seconds of a fresh process until it has the kernel; NumPy, SciPy and our modules were imported before.

    With an empty folder as its `cache` it compiles; without one it loads what is on disk.
    """
    program = (
        "import time, scipy.linalg; from sim import compiled; import sim.simulation; began = time.process_time();"
        "compiled.compile_kernel(); print(time.process_time() - began)"
    )
    home = {} if cache is None else {"XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**os.environ, **home}
    )
    return float(done.stdout)


def main() -> None:
    """Run every benchmark, and print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="folder for engines.json")
    parser.add_argument("--only", default="", help="only cases with this in their names, and no memory or start-up")
    given = parser.parse_args()
    compiled.compile_kernel()
    print(
        f"Python {platform.python_version()}, NumPy {np.__version__}, {platform.machine()}, one core, "
        f"median of {given.rounds} rounds; each line's last number: times as fast as parm on SimPy"
    )
    lines: list[Line] = []
    for case, runs in cases():
        if given.only not in case:
            continue
        print(case)
        new = race(case, runs, given.rounds)
        lines += new
        for line in new:
            print(f"  {line.contender:<42}{line.speed:>12,.0f} queries/s{line.ratio:>8.2f} x", flush=True)
    if given.only:
        return
    memory = {queries: coded_in_a_process(queries, FAST) for queries in (MILLION, 10 * MILLION)}
    for queries, (seconds, megabytes) in memory.items():
        print(f"{queries:,} coded queries, compiled: {seconds:.1f} CPU seconds, {megabytes:,.0f} MiB with their trace")
    with tempfile.TemporaryDirectory() as folder:
        cold, cached = start_of_the_kernel(Path(folder)), start_of_the_kernel(None)
    print(f"the kernel: {cold:.1f} CPU seconds to compile, {cached:.2f} to load")
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        document = {
            "manifest": {
                "command": f"python -m tests.benchmarks --rounds {given.rounds}",
                "device": f"{platform.machine()}, one of {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}",
                "seed": SEED,
                "revision": git_revision(),
                "versions": versions(),
            },
            "lines": [asdict(line) for line in lines],
            "coded_in_a_process": [
                {"queries": queries, "cpu_seconds": seconds, "peak_mib": megabytes}
                for queries, (seconds, megabytes) in memory.items()
            ],
            "kernel": {"compile_cpu_seconds": cold, "load_cpu_seconds": cached},
        }
        (given.out / "engines.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
