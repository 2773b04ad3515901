"""Simulated prediction serving: when, and by which route, each query is answered.

A cluster, a redundancy policy, causes of slowness, arrivals and a seed go in; one `Trace` comes out. Times are seconds.

>>> import numpy as np
>>> from sim import Cluster, Exponential, Hedged, OpenSchedule, PerTask, Streams, simulate
>>> streams = Streams(seed=1)  # the source of every random number: same seed, same trace
>>> cluster = Cluster(instances=8, extra=2, service=Exponential(mean=0.02))
>>> slow = PerTask(probability=0.02, slowdown=10)  # two services in a hundred take ten times as long
>>> arrivals = OpenSchedule.poisson(rate=200, queries=20_000, streams=streams)
>>> trace = simulate(cluster, Hedged(after=0.06), [slow], arrivals, streams)
>>> p99 = np.quantile(trace.queries.latency, 0.99)
>>> print(f"p99 {p99 * 1000:.0f} ms, {len(trace.tasks) / len(trace.queries) - 1:.1%} further copies")
p99 83 ms, 6.3% further copies

Other policies in place of `Hedged`, with the same `streams`, meet the same arrivals and service times, so that their
latencies can be compared query by query. `trace.queries`, `trace.batches` and `trace.tasks` are columns of arrays.

To read the source, start at `simulation.simulate`, then follow a query: `frontend` takes it and replies, `policies/`
decides what is submitted and which answer counts, `pool` runs tasks on instances, `clock` is the event loop.
`stragglers/` makes services slow, `streams` draws random numbers, `kinds` is the base of everything that YAML names.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.batching import Aimd, Batching, Fixed
    from sim.cluster import Cluster, Prices
    from sim.code import Code
    from sim.corruption import Corruption
    from sim.dispatching import BestOf, Discipline, IdleQueue, RandomQueue, RoundRobin, ShortestQueue, SingleQueue
    from sim.distributions import Distribution
    from sim.distributions.combined import Bimodal, Mixture, Scaled, Sum, Truncated
    from sim.distributions.families import (
        Deterministic,
        Erlang,
        Exponential,
        Gamma,
        Hyperexponential,
        ShiftedExponential,
        Uniform,
    )
    from sim.distributions.files import Empirical
    from sim.distributions.heavy import Lognormal, Pareto, Weibull
    from sim.distributions.profile import Profile
    from sim.errors import ParmError
    from sim.network import Network
    from sim.policies import (
        ApproximateBackup,
        Coded,
        CodedNonsystematic,
        DefaultAnswer,
        EqualResources,
        Hedged,
        PerService,
        Policy,
        Replication,
        Tied,
        Uncoded,
    )
    from sim.policies.base import Execution, PoolPlan
    from sim.policies.coded import LastResort
    from sim.policies.hedged import Hedging
    from sim.scalers import Cold, QueueLength, Scaler, Scheduled, Seen, TargetUtilisation
    from sim.schedule import ClosedSchedule, OpenSchedule, Schedule
    from sim.services import Service, simulate_services
    from sim.sharing import FirstCome, Priority, Separate, Sharing, Weighted
    from sim.simulation import check, simulate
    from sim.stragglers import (
        Crashes,
        Heterogeneous,
        Multitenancy,
        PerTask,
        Recorded,
        Replay,
        Shuffles,
        SlowPeriods,
        Sticky,
        Straggler,
    )
    from sim.streams import Streams
    from sim.task import Batch, Task
    from sim.trace import Batches, Counts, Queries, Role, Route, Tasks, TaskStatus, Trace

_MODULES = (
    "sim.errors", "sim.trace", "sim.streams", "sim.schedule", "sim.code", "sim.task", "sim.batching", "sim.dispatching",
    "sim.network", "sim.distributions", "sim.distributions.families", "sim.distributions.heavy",
    "sim.distributions.combined", "sim.distributions.files", "sim.distributions.profile", "sim.scalers",
    "sim.cluster", "sim.corruption", "sim.stragglers", "sim.policies", "sim.policies.base", "sim.policies.hedged",
    "sim.policies.coded", "sim.simulation", "sim.sharing", "sim.services",
)  # fmt: skip
"""Where the public names are, in the order of their cost."""

__all__ = [
    "Aimd",
    "ApproximateBackup",
    "Batch",
    "Batches",
    "Batching",
    "BestOf",
    "Bimodal",
    "ClosedSchedule",
    "Cluster",
    "Code",
    "Coded",
    "CodedNonsystematic",
    "Cold",
    "Corruption",
    "Counts",
    "Crashes",
    "DefaultAnswer",
    "Deterministic",
    "Discipline",
    "Distribution",
    "Empirical",
    "EqualResources",
    "Erlang",
    "Execution",
    "Exponential",
    "FirstCome",
    "Fixed",
    "Gamma",
    "Hedged",
    "Hedging",
    "Heterogeneous",
    "Hyperexponential",
    "IdleQueue",
    "LastResort",
    "Lognormal",
    "Mixture",
    "Multitenancy",
    "Network",
    "OpenSchedule",
    "Pareto",
    "ParmError",
    "PerService",
    "PerTask",
    "Policy",
    "PoolPlan",
    "Prices",
    "Priority",
    "Profile",
    "Queries",
    "QueueLength",
    "RandomQueue",
    "Recorded",
    "Replay",
    "Replication",
    "Role",
    "RoundRobin",
    "Route",
    "Scaled",
    "Scaler",
    "Schedule",
    "Scheduled",
    "Seen",
    "Separate",
    "Service",
    "Sharing",
    "ShiftedExponential",
    "ShortestQueue",
    "Shuffles",
    "SingleQueue",
    "SlowPeriods",
    "Sticky",
    "Straggler",
    "Streams",
    "Sum",
    "TargetUtilisation",
    "Task",
    "TaskStatus",
    "Tasks",
    "Tied",
    "Trace",
    "Truncated",
    "Uncoded",
    "Uniform",
    "Weibull",
    "Weighted",
    "check",
    "simulate",
    "simulate_services",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562), so that importing one module of `sim` does not import all."""
    if name in __all__:
        for module in map(import_module, _MODULES):
            if hasattr(module, name):
                globals()[name] = getattr(module, name)
                return globals()[name]
    raise AttributeError(f"module 'sim' has no attribute '{name}'")
