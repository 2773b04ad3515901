"""Pools whose instances are added and removed during a run, as the cluster's scaler says (`sim.scalers`).

Every pool with instances of its own is a `Fleet`: it has a place for each instance that there may be, of which the
first `serving` take tasks. An added instance takes the next place, and the one that was added last is removed first. It
finishes what it runs; tasks in its queue join other queues. If another is asked for before it is done, it stays.

Here the instances of a pool have consecutive numbers. Stragglers and the trace number the machines of the start as
without a scaler, and those that may be added after all of them: machine 3 is the same one with and without a scaler.

What a scaler schedules does not keep a simulation going: it ends when nothing else is scheduled.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from sim.clock import Call, Clock
from sim.cluster import MOST_INSTANCES, Cluster
from sim.dispatching import QueueEach
from sim.lanes import RoutedLane, SharedLane
from sim.policies import Policy
from sim.policies.base import PoolPlan
from sim.pool import Pool, SharedPool
from sim.routed import RoutedPool
from sim.routing import LearningPool
from sim.scalers import Rule, Scaler, Seen
from sim.stragglers.base import Delay, Effect, Outages, ServiceModifier
from sim.streams import Stream, Streams
from sim.task import QUEUED, Task
from sim.trace import Counts, Trace


def check(cluster: Cluster, policy: Policy) -> None:
    """Raise ValueError, in one sentence, if the cluster's scaler does not fit the policy."""
    if cluster.scaler is None:
        return
    if isinstance(cluster.queue, QueueEach) and cluster.queue.steal:
        raise ValueError("'steal' does not go with a scaler: leave it out")
    plans = policy.pools(cluster)
    start = plans[0].instances
    least, most = cluster.scaler.bounds(start)
    if not least <= start <= most:
        raise ValueError(
            f"the policy begins with {start} instances of the deployed model, but the scaler allows {least} to {most}"
        )
    if least < policy.apart:
        raise ValueError(
            f"{policy.apart} copies need as many instances, but the scaler may leave {least} of the deployed model"
        )
    total = sum(one.stop - one.start for one in _places(cluster.scaler, plans))
    if total > MOST_INSTANCES:
        raise ValueError(f"the scaler may ask for {total} instances in all, more than {MOST_INSTANCES}")


def spares(scaler: Scaler, plans: Sequence[PoolPlan]) -> list[PoolPlan]:
    """Return, for each pool with instances of its own, how many more the scaler may ask for, as a plan."""
    own = [plan for plan in plans if plan.instances]
    return [
        replace(plan, instances=len(places) - plan.instances)
        for plan, places in zip(own, _places(scaler, plans), strict=True)
    ]


def _part(plan: PoolPlan, plans: Sequence[PoolPlan]) -> Callable[[int], int]:
    return lambda count: -(-count * plan.instances // plans[0].instances)


def _places(scaler: Scaler, plans: Sequence[PoolPlan]) -> list[range]:
    """Return the numbers of each pool's places, consecutive over all pools that have instances of their own."""
    _, most = scaler.bounds(plans[0].instances)
    found: list[range] = []
    first = 0
    for plan in plans:
        if plan.instances:
            found.append(range(first, first + _part(plan, plans)(most)))
            first = found[-1].stop
    return found


class Scaling:
    """The scaler of one simulation, with the fleets of all its pools."""

    def __init__(self, scaler: Scaler, plans: Sequence[PoolPlan], streams: Streams, clock: Clock) -> None:
        self.scaler = scaler
        self.streams = streams
        self.clock = clock
        self._log: list[tuple[float, int, int, int, int]] = []
        self._pending = 0
        """Entries in the clock's heap that belong to the scaler."""
        own = [plan for plan in plans if plan.instances]
        places = _places(scaler, plans)
        self._machines: list[int] = []
        """The number in the trace of each instance."""
        begun, spare = 0, sum(plan.instances for plan in own)
        for plan, each in zip(own, places, strict=True):
            more = len(each) - plan.instances
            self._machines += [*range(begun, begun + plan.instances), *range(spare, spare + more)]
            begun, spare = begun + plan.instances, spare + more
        self.fleets: list[Fleet] = []
        """One for each pool with instances of its own, in the order of the plans."""
        start = plans[0].instances
        least, _ = scaler.bounds(start)
        for plan, each in zip(own, places, strict=True):
            part = _part(plan, plans)
            self.fleets.append(Fleet(self, plan, each, scaler.rule(plan.instances, part), part(least)))
        self._moments: Iterator[float] = scaler.moments()
        self._await()

    def fleet_of(self, plan: PoolPlan) -> Fleet:
        """Return the fleet of a pool's instances: the first one's where it has none of its own."""
        key = int(plan.role), plan.row
        return next((fleet for fleet in self.fleets if fleet.key == key), self.fleets[0])

    def sized(self, plans: Sequence[PoolPlan]) -> list[PoolPlan]:
        """Return the plans with all places that there may be."""
        return [
            replace(plan, instances=len(self.fleet_of(plan).instances)) if plan.instances else plan for plan in plans
        ]

    def machine(self, instance: int) -> int:
        """Return the number of an instance in the trace, which stragglers know it by."""
        return self._machines[instance]

    def at(self, time: float, callback: Callable[[Call], None]) -> Call:
        """Schedule a call of the scaler's own at `time`, in seconds; it is not waited for at the end."""
        self._pending += 1
        entry = Call(self._began, None)
        entry.callbacks = (self._began, callback)
        self.clock.at(time, entry)
        return entry

    def _began(self, _: Call) -> None:
        self._pending -= 1

    def _await(self) -> None:
        """Schedule the next look, if there is one."""
        moment = next(self._moments, None)
        if moment is not None:
            self.at(moment, self._look)

    def _look(self, _: Call) -> None:
        for fleet in self.fleets:
            fleet.look()
        self._await()

    def note(self, fleet: Fleet) -> None:
        """Record how many instances a fleet has from now on."""
        self._log.append((self.clock.now, *fleet.key, fleet.paid, fleet.serving))

    def drain(self) -> None:
        """Run the clock until nothing but the scaler's own entries remain."""
        heap = self.clock.heap
        while len(heap) > self._pending:
            self.clock.advance(heap[0][0])

    def translated(self, effects: Sequence[Effect]) -> list[Effect]:
        """Return stragglers' effects for instances as they are numbered here."""
        machines = self._machines
        if machines == list(range(len(machines))):
            return list(effects)
        return [
            Effect(
                None if effect.modifier is None else _modifier(effect.modifier, machines),
                None if effect.delay is None else _delay(effect.delay, machines),
                None if effect.outages is None else _Outages(effect.outages, machines),
            )
            for effect in effects
        ]

    def told(self, trace: Trace) -> Trace:
        """Return the trace with machines' numbers, and with how many instances there were."""
        tasks = trace.tasks
        ran = tasks.instance >= 0
        instance = tasks.instance.copy()
        instance[ran] = np.array(self._machines, dtype=instance.dtype)[instance[ran]]
        until = [row for row in self._log if row[0] <= trace.end]
        names = ("time", "role", "row", "paid", "serving")
        counts = Counts.of(dict(zip(names, zip(*until, strict=True), strict=True)))
        return replace(trace, tasks=replace(tasks, instance=instance), counts=counts)


def _modifier(modify: ServiceModifier, machines: Sequence[int]) -> ServiceModifier:
    return lambda task, instance, start, seconds: modify(task, machines[instance], start, seconds)


def _delay(delay: Delay, machines: Sequence[int]) -> Delay:
    return lambda instance, when, outbound, seconds: delay(machines[instance], when, outbound, seconds)


class _Outages:
    """Outages of machines, for instances as they are numbered here."""

    __slots__ = ("_machines", "_outages", "detect", "retry")

    def __init__(self, outages: Outages, machines: Sequence[int]) -> None:
        self.detect = outages.detect
        self.retry = outages.retry
        self._outages = outages
        self._machines = machines

    def down_until(self, instance: int, now: float) -> float:
        return self._outages.down_until(self._machines[instance], now)

    def next_crash(self, instance: int, now: float) -> float:
        return self._outages.next_crash(self._machines[instance], now)


class Fleet:
    """The instances of one pool, or of the lanes that share them."""

    __slots__ = (
        "_area", "_cold", "_cold_tasks", "_delays", "_drawn", "_factors", "_least", "_leaving", "_occupied", "_offered",
        "_pools", "_rule", "_running", "_scaling", "_since", "_starting", "_starts", "clock", "instances", "key",
        "serving",
    )  # fmt: skip

    def __init__(self, scaling: Scaling, plan: PoolPlan, instances: range, rule: Rule, least: int) -> None:
        """`instances` are its places, as many as there may be; `plan` says how many there are at first."""
        scaler, streams = scaling.scaler, scaling.streams
        self._scaling = scaling
        self.clock = scaling.clock
        self.key = int(plan.role), plan.row
        """Role and parity row of its pool."""
        self.instances = instances
        self.serving = plan.instances
        """How many take tasks: the first so many places."""
        self._pools: list[ScaledPool] = []
        """Its pool, or all lanes."""
        self._least = least
        self._rule = rule
        self._delays = streams.stream(scaler.provisioning.sample, "provisioning", *self.key)
        self._starts = 0
        """Instances that were ever asked for."""
        self._starting: list[Call] = []
        self._leaving: set[int] = set()
        """Removed instances that are not done."""
        self._running = [False] * len(instances)
        self._occupied = 0
        """Of those that serve, how many run a task."""
        self._since = self._area = self._offered = 0.0
        """The seconds since the last look, summed over instances that were occupied, and over those that served."""
        cold = scaler.cold
        self._cold = [0] * len(instances)
        """Tasks of each place that are still slower."""
        self._cold_tasks = 0 if cold is None else cold.tasks
        self._drawn = [0] * len(instances)
        self._factors: list[Stream] = []
        if cold is not None:
            self._factors = [streams.stream(cold.factor.sample, "cold", scaling.machine(one)) for one in instances]
        scaling.note(self)

    @property
    def paid(self) -> int:
        """Instances that are paid: asked for, serving, or not done with their last task."""
        return self.serving + len(self._starting) + len(self._leaving)

    def absent(self, instance: int) -> bool:
        """Return whether an instance takes no tasks."""
        return instance - self.instances.start >= self.serving

    def take(self, pool: ScaledPool) -> None:
        """Connect the pool of these instances, or one of the lanes."""
        self._pools.append(pool)
        pool.fleet = self
        pool.join()

    def begin(self, task: Task, instance: int, start: float, seconds: float) -> float:
        """Note that a service begins; return its seconds, more where the instance is cold (a `ServiceModifier`)."""
        place = instance - self.instances.start
        self._running[place] = True
        if place < self.serving:
            self._pass()
            self._occupied += 1
        if self._cold[place]:
            self._cold[place] -= 1
            seconds *= self._factors[place].at(self._drawn[place])
            self._drawn[place] += 1
        return seconds

    def ended(self, instance: int) -> None:
        """Note that what an instance ran is over."""
        place = instance - self.instances.start
        self._running[place] = False
        if place < self.serving:
            self._pass()
            self._occupied -= 1

    def gone(self, instance: int) -> None:
        """Note that a removed instance is done."""
        self._leaving.discard(instance)
        self._scaling.note(self)

    def look(self) -> None:
        """Let the rule decide."""
        self._pass()
        utilisation = self._area / self._offered if self._offered else 0.0
        self._area = self._offered = 0.0
        queues = {id(queue): queue for pool in self._pools for queue in pool.backlog()}.values()
        queued = sum(task.state == QUEUED for task in chain.from_iterable(queues))
        least, most = self._least, len(self.instances)
        seen = Seen(self.serving, len(self._starting), utilisation, self._occupied + queued, least, most)
        self._ask(max(least, min(self._rule.wanted(self.clock.now, seen), most)))

    def _pass(self) -> None:
        """Add up the time since the last change."""
        passed = self.clock.now - self._since
        self._area += self._occupied * passed
        self._offered += self.serving * passed
        self._since = self.clock.now

    def _ask(self, wanted: int) -> None:
        """Add or remove instances until as many as wanted serve or are starting."""
        for _ in range(self.serving + len(self._starting), wanted):
            if not self._starting and self.instances.start + self.serving in self._leaving:
                self._add()
            else:
                seconds = self._delays.at(self._starts)
                self._starts += 1
                self._starting.append(self._scaling.at(self.clock.now + seconds, self._ready))
                self._scaling.note(self)
        for _ in range(wanted, self.serving + len(self._starting)):
            if self._starting:
                self._starting.pop()
                self._scaling.note(self)
            else:
                self._remove()

    def _ready(self, call: Call) -> None:
        if call in self._starting:  # it is still wanted
            self._starting.remove(call)
            self._add()

    def _add(self) -> None:
        """Let the next place take tasks."""
        self._pass()
        place = self.serving
        instance = self.instances.start + place
        fresh = instance not in self._leaving
        self._leaving.discard(instance)
        self.serving += 1
        self._occupied += self._running[place]
        if fresh:
            self._cold[place] = self._cold_tasks
        self._pools[0].admit(instance, fresh=fresh)
        self._scaling.note(self)

    def _remove(self) -> None:
        """Let the last place take no more tasks."""
        self._pass()
        self.serving -= 1
        place = self.serving
        instance = self.instances.start + place
        self._occupied -= self._running[place]
        self._leaving.add(instance)
        if self._pools[0].dismiss(instance):
            self._leaving.discard(instance)
        self._scaling.note(self)


class ScaledPool(Pool):
    """Base of pools whose instances are those of a fleet."""

    fleet: Fleet

    @property
    def serving(self) -> int:
        """Instances that take tasks now."""
        return self.fleet.serving

    @abstractmethod
    def join(self) -> None:
        """Called when the fleet is set, of which some instances take no tasks yet."""

    @abstractmethod
    def admit(self, instance: int, *, fresh: bool) -> None:
        """Let an added instance take tasks; one that is not `fresh` was removed and has not been done since."""

    @abstractmethod
    def dismiss(self, instance: int) -> bool:
        """Let an instance take no further tasks; return whether it is done."""

    @abstractmethod
    def backlog(self) -> Sequence[deque[Task]]:
        """Return all queues."""


class _Shared(ScaledPool, SharedPool):
    def join(self) -> None:
        while self._waiting and self.fleet.absent(self._waiting[-1]):
            self._waiting.pop()

    def admit(self, instance: int, *, fresh: bool) -> None:
        if fresh:
            self._idle(instance)

    def dismiss(self, instance: int) -> bool:
        if instance not in self._waiting:  # it runs a task, or is down until `_idle` is called at its repair
            return False
        self._waiting.remove(instance)
        return True

    def backlog(self) -> Sequence[deque[Task]]:
        return [self._queue]

    def _released(self, instance: int) -> None:
        self.fleet.ended(instance)
        self._idle(instance)

    def _idle(self, instance: int) -> None:
        if self.fleet.absent(instance):
            self.fleet.gone(instance)
        else:
            super()._idle(instance)


class _Routed(ScaledPool, RoutedPool):
    """Absent instances are like those whose failure has been detected, except that their running task is not lost."""

    def join(self) -> None:
        self._failed.update(range(self.fleet.serving, len(self.instances)))
        if not isinstance(self._chooser, _Present):  # lanes have one for all
            self._chooser = _Present(self._chooser, self.fleet)

    def admit(self, instance: int, *, fresh: bool) -> None:
        place = instance - self.instances.start
        self._resized()
        self._failed.discard(place)
        if fresh:
            self._free[place] = False
            self._idle(instance)
        for other in sorted(self._failed):  # tasks that had nowhere to go
            self._move(self.instances.start + other)

    def dismiss(self, instance: int) -> bool:
        place = instance - self.instances.start
        self._resized()
        self._failed.add(place)
        self._move(instance)
        return self._free[place] and not self._waits_at(instance)

    def backlog(self) -> Sequence[deque[Task]]:
        return self._queues

    def _resized(self) -> None:
        """Called when another number of instances takes tasks."""

    def _waits_at(self, instance: int) -> bool:
        return any(task.state == QUEUED for task in chain.from_iterable(self._queues_at(instance)))

    def _repaired(self, call: Call) -> None:
        if self.fleet.absent(call.item):
            self._idle(call.item)
        else:
            super()._repaired(call)

    def _released(self, instance: int) -> None:
        self.fleet.ended(instance)
        super()._released(instance)

    def _idle(self, instance: int) -> None:
        if self.fleet.absent(instance) and not self._waits_at(instance):
            self.fleet.gone(instance)
        else:
            super()._idle(instance)


class _Present:
    """A chooser among the instances that take tasks."""

    __slots__ = ("_chooser", "_fleet")

    def __init__(self, chooser: Any, fleet: Fleet) -> None:
        self._chooser: Any = chooser
        self._fleet = fleet

    def choose(self, loads: Sequence[int], avoid: Sequence[int]) -> int:
        serving = self._fleet.serving
        place: int = self._chooser.choose(loads[:serving], [one for one in avoid if one < serving] if avoid else avoid)
        return place

    def heard(self, place: int, found: int, seconds: float, *, lost: bool) -> bool:
        if place >= self._fleet.serving:
            return False
        moves: bool = self._chooser.heard(place, found, seconds, lost=lost)
        return moves

    def resize(self, places: int) -> None:
        self._chooser.resize(places)


class ScaledShared(_Shared):
    """A pool with one queue."""


class ScaledRouted(_Routed):
    """A pool with a queue for each instance."""


class ScaledLearning(_Routed, LearningPool):
    """A pool whose router hears of its answers, and of how many instances there are."""

    def _resized(self) -> None:
        self._chooser.resize(self.fleet.serving)


class ScaledSharedLane(_Shared, SharedLane):
    """A lane of a pool with one queue for each rank."""


class ScaledRoutedLane(_Routed, RoutedLane):
    """A lane of a pool in which each instance has a queue for each rank."""
