"""Runs one policy of the simulator in real time: arrivals and slowness are real, and worker processes run the tasks."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from backends.real.clock import RealClock
from backends.real.frontend import Payloads, Place, RealFrontend
from backends.real.pool import RealPool
from backends.real.workers import Workers
from sim.cluster import Cluster
from sim.dispatching import uniform
from sim.distributions.families import Deterministic
from sim.errors import ParmError
from sim.network import Network
from sim.policies import Policy
from sim.policies.base import PoolPlan
from sim.recorder import Recorder
from sim.schedule import OpenSchedule
from sim.stragglers import Straggler
from sim.stragglers.base import ServiceModifier, Setting
from sim.streams import Streams
from sim.task import Task
from sim.trace import Floats, Role, Trace

if TYPE_CHECKING:
    from backends.real.workers import Answer

LEAD = 0.05
"""Seconds before a run's time 0, in which everything is prepared."""
SPIN = 1e-4
"""Seconds before an arrival is due from which the frontend no longer sleeps: it would wake up late."""
FASTEST = 1 - 1e-6


@dataclass(frozen=True, slots=True)
class Round:
    """One task as the frontend saw it; times are seconds on the run's clock."""

    role: Role
    size: int
    sent: float
    begun: float
    """When the worker had it."""
    served: float
    """When the worker had the outputs."""
    ended: float
    """When it had done the competing work as well, and answered."""
    back: float
    """When the frontend handled the answer."""
    factor: float = 1.0
    """The slowdown that competing work was to cause."""


@dataclass(frozen=True, slots=True)
class RealRun:
    """The result of a real run."""

    trace: Trace
    """Of the same form as the simulator's."""
    rounds: list[Round]
    """Every task, in the order in which the answers came."""
    lateness: Floats
    """Seconds from each query's scheduled arrival to when the frontend handled it, shape (queries,)."""
    encodes: list[float]
    decodes: list[float]
    busy: float
    """Share of the time in which the frontend did not wait."""


@dataclass(frozen=True, slots=True)
class Machines:
    """The workers, and the models that they run."""

    workers: Workers
    models: dict[Place, int]
    """The number of each pool's model in the workers' service."""
    expected: dict[Role, float]
    """About how long a pass takes, in seconds: a slowdown is its average over this time."""


def drive(
    cluster: Cluster,
    policy: Policy,
    stragglers: Sequence[Straggler],
    schedule: OpenSchedule,
    streams: Streams,
    machines: Machines,
    payloads: Payloads,
) -> RealRun:
    """Run `policy` on real workers under the arrivals of `schedule`, in real time.

    Instance i is worker i. Stragglers are those of a simulation with the same `streams`: where they would make a
    service longer by a factor, the worker runs competing work. The cluster's service times, network, encoding and
    decoding are ignored, since they are real here. Latencies count from the scheduled arrivals, so that a
    frontend that falls behind cannot hide it.

    Raises ParmError where a worker dies or fails, and for stragglers that a real worker cannot have.
    """
    run = _Run(cluster, policy, stragglers, schedule, streams, machines, payloads)
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        run.serve()
    finally:
        if was_enabled:
            gc.enable()
    return run.result()


class _Run:
    def __init__(
        self,
        cluster: Cluster,
        policy: Policy,
        stragglers: Sequence[Straggler],
        schedule: OpenSchedule,
        streams: Streams,
        machines: Machines,
        payloads: Payloads,
    ) -> None:
        nothing = Deterministic(value=0.0)
        self._cluster = cluster.model_copy(update={"network": Network(), "encode": nothing, "decode": nothing})
        self._schedule = schedule
        self._payloads = payloads
        self._machines = machines
        self._clock = RealClock()
        self._recorder = Recorder(len(schedule))
        self._rounds: list[Round] = []
        self._lateness = np.zeros(len(schedule))
        self._sent: dict[Task, tuple[float, float]] = {}
        self._waited = 0.0
        self._policy = policy
        plans = policy.pools(cluster)
        self._launched = sum(plan.instances for plan in plans)
        of_instance = [(int(plan.role), plan.row) for plan in plans for _ in range(plan.instances)]
        self._modifiers = attach(stragglers, Setting(streams, 0, of_instance, self._cluster.network))
        self._by_worker: list[tuple[Place, RealPool]] = []
        self._pools = [self._launch(plan, streams) for plan in plans]
        deadline = min((one for one in (cluster.deadline, policy.deadline) if one is not None), default=None)
        self._frontend = RealFrontend(
            self._clock, self._recorder, self._cluster, streams, self._pools, payloads, deadline
        )
        self._execution = policy.begin(self._frontend)
        self._frontend.serve(self._execution, None)

    def _launch(self, plan: PoolPlan, streams: Streams) -> RealPool:
        """Number the instances through the pools in their order, as the simulator does."""
        place = (plan.role, plan.row)
        first = len(self._by_worker)
        pool = RealPool(
            self._clock,
            self._recorder,
            self._recorder.label(*place),
            plan.served_by,
            range(first, first + plan.instances),
            self._cluster.queue.chooser(streams.stream(uniform, "routing", *place)),
            partial(self._payloads.prepare, place),
            partial(self._send, place),
        )
        self._by_worker += [(place, pool)] * plan.instances
        return pool

    def serve(self) -> None:
        """Handle arrivals, answers and timers until every query has arrived and no task is pending."""
        clock, frontend, arrivals = self._clock, self._frontend, self._schedule.times.tolist()
        total, query = len(arrivals), 0
        clock.start(LEAD)
        while True:
            due = min(arrivals[query] if query < total else math.inf, clock.due())
            if due == math.inf and not any(pool.pending for pool in self._pools):
                if not self._execution.flush():
                    return
                continue
            for answer in self._wait(due):
                self._take(answer)
            clock.advance(clock.tick())
            while query < total and arrivals[query] <= clock.tick():
                self._lateness[query] = clock.now - arrivals[query]
                frontend.arrive(query)
                query += 1

    def result(self) -> RealRun:
        """Return the result of the run."""
        k, r = self._policy.group
        trace = self._recorder.trace(
            self._schedule.times, overhead=0.0, k=k, r=r, instances=self._launched,
            query_bytes={role: self._cluster.network.bytes_to(role) for role in Role},
            reply_bytes=self._cluster.network.reply_bytes,
        )  # fmt: skip
        if not self._recorder.size:  # each query is a batch, and was dispatched when it was handled
            trace = replace(trace, queries=replace(trace.queries, dispatch=self._schedule.times + self._lateness))
        busy = 1 - self._waited / max(trace.end + LEAD, 1e-9)
        return RealRun(trace, self._rounds, self._lateness, self._payloads.encodes, self._payloads.decodes, busy)

    def _wait(self, due: float) -> list[Answer]:
        left = due - self._clock.tick()
        if left <= SPIN:
            return self._machines.workers.wait(0)
        answers = self._machines.workers.wait(None if left == math.inf else left - SPIN)
        began = self._clock.now
        self._waited += self._clock.tick() - began
        return answers

    def _take(self, answer: Answer) -> None:
        origin, clock = self._clock.origin, self._clock
        place, pool = self._by_worker[answer.worker]
        clock.tick()
        task = pool.answered(answer.worker, answer.begun - origin, answer.ended - origin)
        sent, factor = self._sent.pop(task)
        times = sent, task.start, answer.served - origin, task.finish, clock.now
        self._rounds.append(Round(place[0], task.owner.size, *times, factor))
        self._payloads.keep(place, task, answer.outputs)
        pool.release(task)

    def _send(self, place: Place, task: Task, instance: int) -> None:
        now = self._clock.now
        expected = seconds = self._machines.expected[place[0]]
        for modifier in self._modifiers:
            seconds = modifier(task, instance, max(now, 0.0), seconds)
        factor = seconds / expected
        if factor < FASTEST:
            raise ParmError(
                f"a straggler makes a service {factor:.2f} times as long, but no worker can be made faster."
            )
        self._sent[task] = now, factor
        self._machines.workers.send(instance, self._machines.models[place], max(factor, 1.0), self._payloads.take(task))


def attach(stragglers: Sequence[Straggler], setting: Setting) -> list[ServiceModifier]:
    """Return the stragglers' modifiers of service times. Raises ParmError for other effects, which are unsupported."""
    found: list[ServiceModifier] = []
    for number, straggler in enumerate(stragglers):
        effect = straggler.attach(replace(setting, number=number))
        if effect.delay is not None or effect.outages is not None:
            does = "delays messages" if effect.delay is not None else "takes machines down"
            raise ParmError(f"straggler '{straggler.name_in_yaml()}' {does}, which parm validate does not support.")
        if effect.modifier is not None:
            found.append(effect.modifier)
    return found
