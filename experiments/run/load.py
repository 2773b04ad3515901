"""Checks before a run: the offered load of every pool, and warnings about probable mistakes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import TYPE_CHECKING

from experiments.analysis import dependence
from sim.files import read_moments
from sim.policies import ApproximateBackup, CodedNonsystematic, Policy, Replication
from sim.stragglers import Multitenancy
from sim.stragglers import Replay as RecordedSlowness
from sim.trace import Role
from workloads.arrivals import Replay as RecordedArrivals

if TYPE_CHECKING:
    from experiments.config.schema import Experiment
    from sim.cluster import Cluster

LONG = 3600.0
"""Service times and interarrival times of this many seconds or more are probably in the wrong unit."""
SHORT = 1e-7
"""Interarrival times of this many seconds or less are probably in the wrong unit."""
NAMED = 16
"""Most recorded instances that are listed one by one."""


def offered_loads(cluster: Cluster, policy: Policy, rate: float) -> dict[str, float]:
    """Return the offered load of each pool under a policy, by the pool's name, at `rate` queries per second.

    The load is tasks per second times the mean time that a task occupies an instance (service without slowdowns plus
    both transfers, in the largest batches), divided by the number of instances. It counts tasks that are certain: one
    for each query and copies that are never cancelled, but no hedges, retries or fallbacks. A load of 1 or more is
    unstable. Pools with unknown mean service time are omitted.
    """
    loads: dict[str, float] = {}
    first = ""
    k, _ = policy.group
    network, batching = cluster.network, cluster.batching
    size = int(getattr(batching, "size", 0) or getattr(batching, "max_size", 1))  # full batches give the lowest load
    instances: dict[str, int] = {}
    for plan in policy.pools(cluster):
        row = f" {plan.row}" if plan.role is Role.PARITY and plan.row else ""
        name = f"{plan.role.name.lower()}{row}"
        if plan.instances:
            first = first or name
            instances[name] = plan.instances
        else:
            name = first
        mean = cluster.service_of(plan.served_by, size).mean()
        if mean is not None:
            held = (
                mean + network.seconds(network.bytes_to(plan.role), size) + network.seconds(network.reply_bytes, size)
            )
            loads[name] = loads.get(name, 0.0) + _tasks(policy, plan.role, k) * rate * held / size / instances[name]
    return loads


def _tasks(policy: Policy, role: Role, k: int) -> float:
    """Return the number of tasks per query that are certain to be sent to a pool."""
    if role is Role.PARITY:
        return 1 / k
    if role is Role.BACKUP:
        return float(isinstance(policy, ApproximateBackup) and policy.cancel == "nothing")
    if isinstance(policy, CodedNonsystematic):
        return 0.0
    return float(policy.copies if isinstance(policy, Replication) and policy.cancel == "nothing" else 1)


def lines(points: Iterable[tuple[Experiment, Policy]]) -> Iterator[str]:
    """Yield the offered load of each pool over the points of a sweep, and whether it is stable."""
    found: dict[str, list[float]] = {}
    for experiment, policy in points:
        for pool, load in _of_all_services(experiment, policy).items():
            found.setdefault(pool, []).append(load)
    for pool, loads in found.items():
        low, high = min(loads), max(loads)
        spread = f"{high:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
        yield f"offered load of the {pool} pool {spread}" + (" (unstable: must be below 1)" if high >= 1 else "")


def _of_all_services(experiment: Experiment, policy: Policy) -> dict[str, float]:
    """Return the offered load of each pool, by all services together where they share it."""
    shared = bool(experiment.service) and experiment.whole.sharing.together
    total: dict[str, float] = {}
    for one, its in [(view, view.policies[0]) for view in experiment.whole.views] if shared else [(experiment, policy)]:
        rate = one.workload.arrivals.mean_rate()
        for pool, load in ({} if rate is None else offered_loads(one.machines, its, rate)).items():
            name = pool if shared or not one.service else f"{pool} ({one.service})"
            total[name] = total.get(name, 0.0) + load
    return total


def assignments(experiment: Experiment) -> Iterator[str]:
    """Yield the assignment of recorded instances to the instances of the cluster."""
    for index, straggler in enumerate(experiment.stragglers):
        if isinstance(straggler, RecordedSlowness) and len(straggler.recorded) > 1:
            names = straggler.recorded
            said = ", ".join(f"{number} is '{name}'" for number, name in enumerate(names[:NAMED]))
            more = f", and so on to '{names[-1]}'" if len(names) > NAMED else ""
            yield f"stragglers.{index}: {len(names)} recorded instances: {said}{more}"


def questions(experiment: Experiment) -> Iterator[str]:
    """Yield a sentence for each option that is probably a mistake."""
    yield from dict.fromkeys(says for view in experiment.views for says in _questions(view))


def _questions(experiment: Experiment) -> Iterator[str]:
    cluster, arrivals = experiment.cluster, experiment.workload.arrivals
    for name in ("service", "parity_service", "backup_service"):
        service = getattr(cluster, name)
        median = None if service is None else service.quantile(0.5)
        if median is not None and median >= LONG:
            yield f"cluster.{name}: its median is {median / 3600:.3g} hours: is the unit right?"
    if isinstance(arrivals, RecordedArrivals) and (rate := arrivals.mean_rate()) is not None:
        if 1 / rate >= LONG:
            yield f"workload.arrivals: queries are {1 / rate / 3600:.3g} hours apart on average: is the unit right?"
        elif 1 / rate <= SHORT:
            yield f"workload.arrivals: queries are {1 / rate:.3g} s apart on average: is the unit right?"
    for index, straggler in enumerate(experiment.stragglers):
        if isinstance(straggler, Multitenancy) and (load := straggler.load) is not None and load >= 1:
            yield (
                f"stragglers.{index}: the second service's load is {load:.3g} on each of its instances, which keeps "
                "them slow permanently (unstable: must be below 1)"
            )
        if isinstance(straggler, RecordedSlowness) and straggler.aligned and isinstance(arrivals, RecordedArrivals):
            yield from _clocks(index, straggler, arrivals)
    yield from dependence.warnings(cluster, "cluster")
    for index, straggler in enumerate(experiment.stragglers):
        yield from dependence.warnings(straggler, f"stragglers.{index}")


def _clocks(index: int, slowness: RecordedSlowness, arrivals: RecordedArrivals) -> Iterator[str]:
    """Warn if recorded slowness and recorded arrivals, each shifted to begin at time 0, may share one clock."""
    if slowness.origin is not None or arrivals.origin is not None:
        return
    apart = read_moments(arrivals.file, arrivals.column, arrivals.unit)[0] - slowness.first
    if apart != 0:
        yield (
            f"stragglers.{index}: recorded arrivals begin {_apart(apart)} recorded slowness, and both begin at time 0 "
            "here: give both the same 'origin' if they share one clock"
        )


def _apart(seconds: Decimal) -> str:
    return f"{abs(float(seconds)):.6g} s {'after' if seconds > 0 else 'before'}"
