"""From measured rounds to the cluster that is simulated beside the real pool.

The measurement is a real run as well, of the same policy on the same workers, but of other queries at other times and
without slow periods: what is validated is never what the profile was taken from. One task in ten is slowed down by
chance, so that what a competing pass takes is measured too, and not assumed to be what a pass takes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from backends.real.cluster import RealRun, Round
from sim.cluster import Cluster
from sim.distributions import Distribution
from sim.distributions.families import Deterministic
from sim.distributions.profile import Profile
from sim.errors import ParmError
from sim.network import Network
from sim.stragglers import PerTask, Straggler
from sim.stragglers.base import Effect, Setting
from sim.task import Task
from sim.trace import Floats, Role

if TYPE_CHECKING:
    from sim.distributions.profile import ServiceProfile

FEWEST = 50
"""Least number of measured tasks per role."""
PROBES = PerTask(slowdown=Deterministic(value=4.0), probability=0.1)
"""Slows some tasks of a calibrating run."""


@dataclass(frozen=True, slots=True)
class Frontend:
    """What the frontend and the pipes take, in seconds; medians."""

    overhead: float
    """From a query's arrival to its task's being sent: taking it up, and making the task's inputs."""
    latency: float
    """Half of what a task takes besides the worker's own time: a pipe, one way, and waking up whoever reads it."""
    encode: float
    """A coding group; 0 where none was encoded."""
    decode: float
    """A reconstruction; 0 where there was none."""


_DISTURBED = 1.5


def frontend_times(runs: Sequence[RealRun]) -> Frontend:
    """Return what the frontend took in the calibrating runs."""
    pipes = [one.back - one.sent - (one.ended - one.begun) for run in runs for one in run.rounds]
    return Frontend(
        overhead=_median([late for run in runs for late in run.lateness]) + _median(_preparing(runs)),
        latency=_median(pipes) / 2,
        encode=_median([seconds for run in runs for seconds in run.encodes]),
        decode=_median([seconds for run in runs for seconds in run.decodes]),
    )


def _preparing(runs: Sequence[RealRun]) -> list[float]:
    """Return the seconds from each batch's dispatch to its task's being ready to be sent."""
    found: list[float] = []
    for run in runs:
        tasks, batches = run.trace.tasks, run.trace.batches
        own = (tasks.role == Role.DEPLOYED) & (tasks.attempt == 0)
        batch = tasks.owner[own]
        last = batches.first[batch] + batches.size[batch] - 1
        found += (tasks.queued[own] - run.trace.queries.dispatch[last]).tolist()
    return found


def _median(seconds: Sequence[float]) -> float:
    return max(0.0, float(np.median(seconds))) if seconds else 0.0


def service_profile(runs: Sequence[RealRun], latency: float, *, device: str, network: str, how: str) -> ServiceProfile:
    """Return the service times by role and batch size.

    A service is the whole time for which the instance was taken, from sending to the answer at the frontend, less a
    message of `latency` seconds each way: what is irregular about pipes and waking up stays in the distribution. Raises
    ParmError where a role has fewer than `FEWEST` tasks.
    """
    from sim.distributions.profile import Quantiles, RoleName, ServiceProfile

    names: dict[Role, RoleName] = {Role.DEPLOYED: "deployed", Role.PARITY: "parity", Role.BACKUP: "backup"}
    by_role: dict[Role, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in undisturbed(runs):
        by_role[one.role][one.size].append(max(one.back - one.sent - 2 * latency, 1e-6))
    roles: dict[RoleName, dict[int, Quantiles]] = {}
    for role, sizes in sorted(by_role.items()):
        count = sum(len(times) for times in sizes.values())
        if count < FEWEST:
            raise ParmError(
                f"only {count} tasks of the {names[role]} model were measured, but {FEWEST} are needed: "
                "give --calibrate more seconds."
            )
        most = max(len(times) for times in sizes.values())
        known = {size: np.asarray(times) for size, times in sorted(sizes.items()) if len(times) >= min(FEWEST, most)}
        roles[names[role]] = {size: Quantiles.of(times) for size, times in known.items()}
    return ServiceProfile(device=device, network=network, how=how, roles=roles)


def undisturbed(runs: Sequence[RealRun]) -> list[Round]:
    """Return the tasks of several runs with which nothing competed."""
    return [one for run in runs for one in run.rounds if one.factor < _DISTURBED]


def competing_passes(runs: Sequence[RealRun]) -> Floats:
    """Return what competing passes took, in seconds each, shape (disturbed tasks,): one task's are averaged.

    By the workers' clocks, and of the deployed model; empty where nothing was disturbed.
    """
    disturbed = [one for run in runs for one in run.rounds if one.factor >= _DISTURBED and one.role == Role.DEPLOYED]
    return np.array([(one.ended - one.served) / (one.factor - 1) for one in disturbed])


@dataclass(frozen=True)
class Competing:
    """A straggler as real workers have it: what it adds to a service are competing passes.

    A pass after a pass finds the model in the core's cache and is quicker than a first one; and the sum of several is
    not a multiple of one unlucky pass. So what is added is drawn from measured competing passes and is no share of the
    service that is slowed down.
    """

    of: Straggler
    """What slows down, and how much."""
    passes: Floats
    """Measured seconds of a competing pass, shape (n,); empty: a pass takes what the slowed service takes."""

    def as_straggler(self) -> Straggler:
        """Return this as what it stands in for; it has no name in YAML, which is all that it lacks."""
        return cast(Straggler, self)

    def attach(self, setting: Setting) -> Effect:
        """Add measured passes, as many as the straggler makes a service longer by."""
        modify = self.of.attach(setting).modifier
        if modify is None or not len(self.passes):
            return Effect(modifier=modify)
        draws = [
            setting.streams.stream(self._draw, "competing", setting.number, instance)
            for instance in range(len(setting.pools))
        ]
        drawn = [0] * len(draws)

        def compete(task: Task, instance: int, start: float, seconds: float) -> float:
            further = modify(task, instance, start, seconds) / seconds - 1
            if further <= 0:
                return seconds
            drawn[instance] += 1
            return seconds + further * draws[instance].at(drawn[instance] - 1)

        return Effect(modifier=compete)

    def _draw(self, generator: np.random.Generator, count: int) -> Floats:
        return generator.choice(self.passes, count)


def measured_cluster(cluster: Cluster, profile: Path, roles: Sequence[str], frontend: Frontend) -> Cluster:
    """Return the cluster with the profile's service times and the frontend's and the pipes' own."""
    drawn: dict[str, Distribution] = {
        role: Profile.model_validate({"kind": "profile", "file": profile.absolute(), "role": role}) for role in roles
    }
    return cluster.model_copy(
        update={
            "service": drawn["deployed"],
            "parity_service": drawn.get("parity"),
            "backup_service": drawn.get("backup"),
            "network": Network(latency=frontend.latency, overhead=frontend.overhead),
            "encode": Deterministic(value=frontend.encode),
            "decode": Deterministic(value=frontend.decode),
        }
    )
