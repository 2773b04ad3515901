"""Routers that learn from answers: today's load balancers, each with a queue at every instance.

A learning router hears of every answer how long it took since the task was sent to its instance, as a proxy does, and
sees how many tasks it has outstanding at each.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from bisect import insort
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeVar

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from sim.clock import Clock
from sim.dispatching import Chooser, Numbers, QueueEach
from sim.kinds import Options
from sim.pool import Conditions
from sim.recorder import Recorder
from sim.routed import RoutedPool
from sim.streams import Stream
from sim.task import RUNNING, Task

Known = TypeVar("Known")
"""What a router knows of an instance."""


class Learner(Chooser, Protocol):
    """A chooser that hears of answers."""

    def heard(self, place: int, found: int, seconds: float, *, lost: bool) -> bool:
        """Take in that a task's answer is back from `place`, or that it was lost there.

        It was sent there `seconds` ago, when there were `found` tasks outstanding. Returns whether the tasks that wait
        there should join other queues.
        """
        ...

    def resize(self, places: int) -> None:
        """Take in that there are so many instances from now on: the last ones were removed, or new ones added."""
        ...


class Learning(QueueEach):
    """A queue discipline whose router learns."""

    def chooser(self, uniforms: Stream) -> Chooser | None:
        """Raise TypeError: a router that learns needs to hear of answers; see `learner`."""
        raise TypeError(f"'{self.name_in_yaml()}' needs to hear of answers")

    @abstractmethod
    def learner(self, uniforms: Stream, clock: Clock, places: int, sent: Callable[[int], None]) -> Learner:
        """Return the router for one pool of `places` instances; it tells `sent` of bytes that it sends by itself."""


class LearningPool(RoutedPool):
    """A pool whose router hears of its answers."""

    __slots__ = ()

    _chooser: Learner

    def __init__(
        self, clock: Clock, recorder: Recorder, label: int, instances: range, conditions: Conditions, learner: Learner
    ) -> None:
        super().__init__(clock, recorder, label, instances, conditions, learner)

    def connect(self, on_done: Callable[[Task], None], on_lost: Callable[[Task], None]) -> None:
        """Set the callbacks for answers and lost tasks, which the router hears of first."""

        def done(task: Task) -> None:
            self._hear(task, on_done, lost=False)

        def lost(task: Task) -> None:
            self._hear(task, on_lost, lost=True)

        super().connect(done, lost)

    def _hear(self, task: Task, then: Callable[[Task], None] | None, *, lost: bool) -> None:
        instance = task.instance
        seconds = self.clock.now - task.joined
        moves = self._chooser.heard(instance - self.instances.start, task.found, seconds, lost=lost)
        if then is not None:
            then(task)
        if moves:
            self._move(instance)

    def _lost_permanently(self, task: Task) -> None:
        lost = [one for one in task.members or (task,) if one.state == RUNNING]
        super()._lost_permanently(task)
        for one in lost:
            self._hear(one, None, lost=True)


def sampled(numbers: Numbers, d: int, places: int, avoid: Sequence[int]) -> list[int]:
    """Return up to `d` distinct places drawn at random, none of `avoid`."""
    drawn: list[int] = []
    wanted = min(d, places - len(set(avoid)))
    while len(drawn) < wanted:
        place = numbers.below(places)
        if place not in avoid and place not in drawn:
            drawn.append(place)
    return drawn


def fit(known: list[Known], places: int, new: Callable[[], Known]) -> None:
    """Give a list an item for each of so many places: drop the last ones, or add new ones."""
    del known[places:]
    known.extend(new() for _ in range(places - len(known)))


class PeakEwma(Learning):
    """The better of d instances drawn at random, by latency times outstanding tasks; the latency is a moving average
    that jumps to every peak.

    Source: Finagle's `PeakEwma` load balancer (twitter.github.io/finagle), also in Linkerd. A latency above the average
    becomes the average; others are averaged in with the weight 1 - exp(-t / decay), t after the last; while none comes,
    it decays to 0.
    """

    kind: Literal["peak_ewma"] = "peak_ewma"
    d: int = Field(default=2, ge=1)
    """Instances that are compared."""
    decay: PositiveFloat = 10.0
    """Seconds in which a latency's weight falls to 1/e."""

    def learner(self, uniforms: Stream, clock: Clock, places: int, sent: Callable[[int], None]) -> Learner:
        """Return a router that has heard nothing yet."""
        return _PeakEwma(Numbers(uniforms), clock, places, self)


class _PeakEwma:
    __slots__ = ("_clock", "_cost", "_d", "_decay", "_numbers", "_stamp")

    UNHEARD = 1e6
    """What an instance costs that has tasks outstanding and no answer yet: more than any latency."""

    def __init__(self, numbers: Numbers, clock: Clock, places: int, options: PeakEwma) -> None:
        self._numbers = numbers
        self._clock = clock
        self._d = options.d
        self._decay = options.decay
        self._cost = [0.0] * places
        self._stamp = [0.0] * places

    def choose(self, loads: Sequence[int], avoid: Sequence[int]) -> int:
        best, least = -1, math.inf
        for place in sampled(self._numbers, self._d, len(loads), avoid):
            cost = self._now(place)
            load = self.UNHEARD + loads[place] if cost == 0.0 and loads[place] else cost * (loads[place] + 1)
            if load < least:
                best, least = place, load
        return best

    def _now(self, place: int) -> float:
        cost = self._cost[place]
        return cost * math.exp((self._stamp[place] - self._clock.now) / self._decay) if cost else 0.0

    def heard(self, place: int, found: int, seconds: float, *, lost: bool) -> bool:
        now = self._clock.now
        weight = math.exp((self._stamp[place] - now) / self._decay)
        cost = self._cost[place]
        self._cost[place] = seconds if seconds > cost else cost * weight + seconds * (1 - weight)
        self._stamp[place] = now
        return False

    def resize(self, places: int) -> None:
        fit(self._cost, places, lambda: 0.0)
        fit(self._stamp, places, lambda: 0.0)


class Ejection(Options):
    """When instances get no more tasks for a while: Envoy's outlier detection by consecutive failures."""

    timeout: PositiveFloat
    """Seconds after which an answer counts as a failure, when it is back; a lost task is one too."""
    consecutive: PositiveInt = 5
    """Failures without a success between them that eject an instance."""
    interval: PositiveFloat = 10.0
    """Seconds between the sweeps in which instances come back."""
    base: PositiveFloat = 30.0
    """Seconds of an instance's first ejection; it grows by as much with each, and shrinks with each sweep that finds
    the instance well."""
    longest: PositiveFloat = 300.0
    """Seconds of the longest ejection."""
    most: float = Field(default=0.1, gt=0, le=1)
    """Share of the instances that may be ejected at once; one always may."""
    move: bool = False
    """Whether tasks that wait at an instance when it is ejected join other queues; else they stay, as Envoy's do."""

    def at_once(self, places: int) -> int:
        """Return how many of so many instances may be ejected at once."""
        return max(1, int(self.most * places))


class LeastRequest(Learning):
    """The instance with the fewest tasks outstanding of d drawn at random, without those that failed lately.

    Source: Envoy's `LEAST_REQUEST` load balancer with equal weights, and its outlier detection
    (envoyproxy.io, "Load balancing" and "Outlier detection").
    """

    kind: Literal["least_request"] = "least_request"
    d: int = Field(default=2, ge=1)
    """Instances that are compared."""
    ejection: Ejection | None = None
    """When an instance gets no tasks for a while; never where not given."""

    def learner(self, uniforms: Stream, clock: Clock, places: int, sent: Callable[[int], None]) -> Learner:
        """Return a router that has ejected nothing yet."""
        return _LeastRequest(Numbers(uniforms), clock, places, self)


class _LeastRequest:
    __slots__ = ("_back", "_clock", "_d", "_failures", "_numbers", "_out", "_rules", "_swept", "_times")

    def __init__(self, numbers: Numbers, clock: Clock, places: int, options: LeastRequest) -> None:
        self._numbers = numbers
        self._clock = clock
        self._d = options.d
        self._rules = options.ejection
        self._failures = [0] * places
        self._times = [0] * places
        """How often an instance was ejected lately."""
        self._back = [0.0] * places
        """When it may come back."""
        self._out: set[int] = set()
        self._swept = 0.0

    def choose(self, loads: Sequence[int], avoid: Sequence[int]) -> int:
        if self._rules is not None:
            self._sweep(self._rules)
            if self._out and len({*avoid, *self._out}) < len(loads):
                avoid = [*avoid, *self._out]
        best, least = -1, 1 << 62
        for place in sampled(self._numbers, self._d, len(loads), avoid):
            if loads[place] < least:
                best, least = place, loads[place]
        return best

    def _sweep(self, rules: Ejection) -> None:
        """Let instances come back as of the latest sweep that is due."""
        now = self._clock.now
        while self._swept + rules.interval <= now:
            self._swept += rules.interval
            for place, back in enumerate(self._back):
                if place in self._out:
                    if back <= self._swept:
                        self._out.discard(place)
                elif self._times[place]:
                    self._times[place] -= 1

    def heard(self, place: int, found: int, seconds: float, *, lost: bool) -> bool:
        rules = self._rules
        if rules is None:
            return False
        if not lost and seconds <= rules.timeout:
            self._failures[place] = 0
            return False
        self._failures[place] += 1
        if self._failures[place] < rules.consecutive or place in self._out:
            return False
        self._sweep(rules)
        if len(self._out) >= rules.at_once(len(self._failures)):
            return False
        self._failures[place] = 0
        self._times[place] += 1
        self._out.add(place)
        self._back[place] = self._clock.now + min(rules.base * self._times[place], rules.longest)
        return rules.move

    def resize(self, places: int) -> None:
        fit(self._failures, places, lambda: 0)
        fit(self._times, places, lambda: 0)
        fit(self._back, places, lambda: 0.0)
        self._out = {place for place in self._out if place < places}


class Prequal(Learning):
    """Probes some instances with every task, and chooses among the latest answers: hot or cold by the requests in
    flight there (RIF), then by latency.

    Source: Wydrowski, Kleinberg, Rumble, Archer, "Load is not what you should balance: Introducing Prequal", NSDI 2024,
    in its asynchronous mode. An instance answers a probe with its requests in flight and the median latency of tasks
    that found as many. Instances with more in flight than a quantile of those reported lately are hot. Of the cold ones
    that with the least latency is chosen, or if all are hot, the one with the fewest in flight.
    """

    kind: Literal["prequal"] = "prequal"
    probes: PositiveFloat = 3.0
    """Probes that each task sends, to instances drawn at random; a fraction is sent so often."""
    pool: int | None = Field(default=None, ge=2)
    """Probe answers that are kept; where not given the paper's 16, but no more than half of the instances, and two."""
    removed: NonNegativeFloat = 1.0
    """Probe answers that each task removes from the pool, in turn the worst and the oldest."""
    age: PositiveFloat = 1.0
    """Seconds after which a probe's answer is dropped."""
    hot: float = Field(default=0.84, ge=0, le=1)
    """Quantile of the reported requests in flight above which an instance is hot."""
    spare: PositiveFloat = 1.0
    """How much faster the pool fills than it is used up: the paper's delta, from which an answer's uses follow."""
    round_trip: NonNegativeFloat = 0.0005
    """Seconds until a probe's answer is back; it tells what was so when the probe was sent."""
    bytes_each: NonNegativeInt = 200
    """Bytes of a probe and its answer, which count in the network's bytes."""

    def learner(self, uniforms: Stream, clock: Clock, places: int, sent: Callable[[int], None]) -> Learner:
        """Return a router without probes."""
        return _Prequal(Numbers(uniforms), clock, places, self, sent)

    def kept(self, places: int) -> int:
        """Return how many probe answers are kept for so many instances."""
        return max(2, min(16, places // 2)) if self.pool is None else self.pool

    def uses(self, places: int) -> float:
        """Return how often a probe's answer may be used on average (the paper's b_reuse, equation 1)."""
        left = (1 - self.kept(places) / places) * self.probes - self.removed
        return max(1.0, (1 + self.spare) / left) if left > 0 else math.inf


class _Probe:
    __slots__ = ("latency", "left", "place", "ready", "rif")

    def __init__(self, place: int, ready: float, rif: int, latency: float, left: float) -> None:
        self.place = place
        self.ready = ready
        self.rif = rif
        self.latency = latency
        self.left = left


class _Prequal:
    __slots__ = (
        "_clock", "_due", "_kept", "_latest", "_medians", "_numbers", "_oldest_next", "_options", "_owed", "_pending",
        "_ready", "_seen", "_sent", "_sorted", "_uses",
    )  # fmt: skip

    LATEST = 32
    """Reported requests in flight from which the hot ones are told."""
    SEEN = 9
    """Latencies that an instance keeps for each number of requests in flight."""

    def __init__(
        self, numbers: Numbers, clock: Clock, places: int, options: Prequal, sent: Callable[[int], None]
    ) -> None:
        self._numbers = numbers
        self._clock = clock
        self._options = options
        self._sent = sent
        self._kept = options.kept(places)
        self._uses = options.uses(places)
        self._pending: deque[_Probe] = deque()
        self._ready: list[_Probe] = []
        """The pool of answers, the oldest first."""
        self._due = self._owed = 0.0
        self._oldest_next = False
        self._latest: deque[int] = deque()
        self._sorted: list[int] = []
        self._seen: list[dict[int, deque[float]]] = [{} for _ in range(places)]
        """Latest latencies at each instance, by the requests that were found."""
        self._medians: list[dict[int, float]] = [{} for _ in range(places)]
        """The median of each."""

    def choose(self, loads: Sequence[int], avoid: Sequence[int]) -> int:
        now, options = self._clock.now, self._options
        self._probe(loads, now)
        ready = self._ready
        while self._pending and self._pending[0].ready <= now:
            probe = self._pending.popleft()
            ready.append(probe)
            self._report(probe.rif)
        if len(ready) > self._kept:
            del ready[: len(ready) - self._kept]
        while ready and ready[0].ready < now - options.age:
            del ready[0]
        chosen = self._best(avoid)
        if chosen is None:
            place = sampled(self._numbers, 1, len(loads), avoid)[0]
        else:
            place = chosen.place
            chosen.rif += 1  # the task that is on its way there
            chosen.left -= 1
            if chosen.left <= 0:
                ready.remove(chosen)
        self._due += options.removed
        while self._due >= 1:
            self._due -= 1
            self._remove()
        return place

    def _probe(self, loads: Sequence[int], now: float) -> None:
        options = self._options
        self._owed += options.probes
        count = int(self._owed)
        self._owed -= count
        ready = now + options.round_trip
        places = sampled(self._numbers, count, len(loads), ())
        for place in places:
            whole = int(self._uses) if math.isfinite(self._uses) else 1 << 30
            part = self._uses - whole if math.isfinite(self._uses) else 0.0
            left = whole + (part > 0 and self._numbers.below(1 << 20) < part * (1 << 20))
            self._pending.append(_Probe(place, ready, loads[place], self._latency(place, loads[place]), left))
        self._sent(len(places) * options.bytes_each)

    def _latency(self, place: int, rif: int) -> float:
        """Return the median latency there of tasks that found `rif`, or the nearest number known, of two the lower; 0
        if none is."""
        medians = self._medians[place]
        if not medians:
            return 0.0
        median = medians.get(rif)
        return medians[min(medians, key=lambda one: (abs(one - rif), one))] if median is None else median

    def _report(self, rif: int) -> None:
        if len(self._latest) == self.LATEST:
            self._sorted.remove(self._latest.popleft())
        self._latest.append(rif)
        insort(self._sorted, rif)

    def _best(self, avoid: Sequence[int]) -> _Probe | None:
        """Return the best answer of at least two, hot or cold first."""
        ready = [probe for probe in self._ready if probe.place not in avoid] if avoid else self._ready
        if len(ready) < 2:
            return None
        limit = self._sorted[min(int(self._options.hot * len(self._sorted)), len(self._sorted) - 1)]
        best = None
        for probe in ready:
            if probe.rif <= limit and (best is None or probe.latency < best.latency):
                best = probe
        return min(ready, key=lambda probe: probe.rif) if best is None else best

    def _remove(self) -> None:
        """Remove in turn the oldest answer and the worst: the most in flight of the hot ones, else the slowest."""
        ready = self._ready
        if not ready:
            return
        if self._oldest_next:
            del ready[0]
        else:
            limit = self._sorted[min(int(self._options.hot * len(self._sorted)), len(self._sorted) - 1)]
            worst = max(ready, key=lambda probe: (probe.rif > limit, probe.rif if probe.rif > limit else probe.latency))
            ready.remove(worst)
        self._oldest_next = not self._oldest_next

    def heard(self, place: int, found: int, seconds: float, *, lost: bool) -> bool:
        if not lost:
            seen = self._seen[place].setdefault(found, deque(maxlen=self.SEEN))
            seen.append(seconds)
            self._medians[place][found] = sorted(seen)[len(seen) // 2]
        return False

    def resize(self, places: int) -> None:
        self._kept, self._uses = self._options.kept(places), self._options.uses(places)
        fit(self._seen, places, dict)
        fit(self._medians, places, dict)
        self._pending = deque(probe for probe in self._pending if probe.place < places)
        self._ready = [probe for probe in self._ready if probe.place < places]
