"""When instances are added and removed during a run: the `scaler` of a cluster.

A scaler looks at each pool at certain moments and says how many instances it should have. What follows from that
(provisioning, cold starts, draining, what is paid) is in `sim.elastic`.

An instance that is added takes no tasks for the seconds of `provisioning` (a machine that boots, an image that is
pulled, a model that is loaded), and is slower at first if `cold` says so (caches, just-in-time compilation, memory that
is allocated with the first call). Measured: a virtual machine takes 20 to 200 s (Mao and Humphrey, "A performance study
on the VM startup time in the cloud", CLOUD 2012), a function of a serverless platform 0.2 to 4 s (Wang et al.,
"Peeking behind the curtains of serverless platforms", USENIX ATC 2018).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from bisect import bisect
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, pairwise
from typing import ClassVar, Literal, Protocol, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sim.distributions import Distribution
from sim.distributions.base import above_zero
from sim.kinds import Kind, Options

Part = Callable[[int], int]
"""From a number of the deployed model's instances to that of a pool: in proportion to both at the start, rounded up."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a scaler sees of a pool."""

    serving: int
    """Instances that take tasks."""
    starting: int
    """Instances that have been asked for and are not there yet."""
    utilisation: float
    """Share of the time since the last look for which those that serve were occupied."""
    tasks: int
    """Tasks that wait, or run on an instance that serves; a batch that runs is one."""
    least: int
    """The fewest instances that the pool may have."""
    most: int
    """The most."""


class Rule(Protocol):
    """Decides for one pool in one simulation."""

    def wanted(self, now: float, seen: Seen) -> int:
        """Return how many instances the pool should have, those that are starting included; `now` is in seconds."""
        ...


class Cold(Options):
    """How much slower the first tasks of an added instance are."""

    tasks: PositiveInt
    """Tasks that are slower; a batch is one."""
    factor: Distribution
    """Factor on their service times, drawn for each."""

    @field_validator("factor")
    @classmethod
    def _above_zero(cls, factor: Distribution) -> Distribution:
        return above_zero(factor)


class Scaler(Kind):
    """When instances are added and removed. Numbers of instances are those of the deployed model's pool; every other
    pool has a rule of its own, with numbers in proportion to its size at the start, rounded up."""

    family: ClassVar[str] = "scaler"
    provisioning: Distribution
    """Seconds from the moment when an instance is asked for until it takes tasks, drawn for each. It is paid from that
    moment on, until its last task ends after it was removed."""
    cold: Cold | None = None
    """How much slower an added instance is at first; not at all where not given."""

    @abstractmethod
    def bounds(self, start: int) -> tuple[int, int]:
        """Return the fewest and the most instances of a deployed pool that has `start` at first."""

    @abstractmethod
    def moments(self) -> Iterator[float]:
        """Yield the times at which the scaler looks, in seconds, increasing."""

    @abstractmethod
    def rule(self, start: int, part: Part) -> Rule:
        """Return the rule for one pool that has `start` instances at first."""


class Scheduled(Scaler):
    """As many instances as a schedule says, whatever the load."""

    kind: Literal["scheduled"] = "scheduled"
    steps: tuple[tuple[NonNegativeFloat, PositiveInt], ...] = Field(min_length=1)
    """Pairs of seconds and instances, such as `[[30, 24], [90, 12]]`: from 30 s on 24 are asked for."""

    @field_validator("steps")
    @classmethod
    def _in_order(cls, steps: tuple[tuple[float, int], ...]) -> tuple[tuple[float, int], ...]:
        times = [time for time, _ in steps]
        if any(later <= earlier for earlier, later in pairwise(times)):
            raise ValueError("the times of the steps must increase")
        return steps

    def bounds(self, start: int) -> tuple[int, int]:
        """Return the least and the greatest number of the schedule and the start."""
        counts = [start, *(instances for _, instances in self.steps)]
        return min(counts), max(counts)

    def moments(self) -> Iterator[float]:
        """Yield the times of the steps."""
        return iter([time for time, _ in self.steps])

    def rule(self, start: int, part: Part) -> Rule:
        """Return a rule that reads the schedule."""
        return _Scheduled(self, part)


class _Scheduled:
    def __init__(self, options: Scheduled, part: Part) -> None:
        self._times = [time for time, _ in options.steps]
        self._counts = [part(instances) for _, instances in options.steps]

    def wanted(self, now: float, seen: Seen) -> int:
        return self._counts[bisect(self._times, now) - 1]


class Reactive(Scaler):
    """Base of scalers that follow the load."""

    min_instances: PositiveInt = 1
    """Fewest instances that are left."""
    max_instances: PositiveInt
    """Most instances, those that are starting included."""
    period: PositiveFloat
    """Seconds between two looks."""

    @model_validator(mode="after")
    def _fewest_below_most(self) -> Self:
        if self.min_instances > self.max_instances:
            raise ValueError(f"min_instances: must be at most 'max_instances' ({self.max_instances})")
        return self

    def bounds(self, start: int) -> tuple[int, int]:
        """Return `min_instances` and `max_instances`."""
        return self.min_instances, self.max_instances

    def moments(self) -> Iterator[float]:
        """Yield the multiples of `period`."""
        return (number * self.period for number in count(1))


class TargetUtilisation(Reactive):
    """As many instances as bring utilisation to a target: Kubernetes' HorizontalPodAutoscaler.

    Source: kubernetes.io, "Horizontal Pod Autoscaling", and `replica_calculator.go`, whose defaults these are. The
    wanted number is ceil(instances x utilisation / target), with the utilisation of the instances that serve since the
    last look. If it is above the target while others are starting, these count as idle.
    """

    kind: Literal["target_utilisation"] = "target_utilisation"
    target: float = Field(default=0.8, gt=0, lt=1)
    """Share of the time for which instances should be occupied."""
    tolerance: NonNegativeFloat = 0.1
    """Nothing changes while utilisation / target is within this of 1."""
    period: PositiveFloat = 15.0
    """Seconds between two looks."""
    stabilisation: NonNegativeFloat = 300.0
    """Seconds for which fewer instances must have been enough before any is removed: the most that was wanted since
    counts."""
    stabilisation_up: NonNegativeFloat = 0.0
    """Seconds for which more instances must have been wanted before any is added: the fewest that were wanted since
    count."""
    up_factor: float = Field(default=2.0, ge=1)
    """At a look at most so many times as many instances as there are, or `up_instances` more if that is more."""
    up_instances: NonNegativeInt = 4
    """See `up_factor`."""

    def rule(self, start: int, part: Part) -> Rule:
        """Return a rule that has wanted `start` instances at time 0."""
        return _TargetUtilisation(self, start, part)


class _TargetUtilisation:
    def __init__(self, options: TargetUtilisation, start: int, part: Part) -> None:
        self._options = options
        self._more = part(options.up_instances) if options.up_instances else 0
        self._lately = deque([(0.0, start)])
        """What was wanted at the latest looks, before stabilisation."""
        self._kept = max(options.stabilisation, options.stabilisation_up)

    def wanted(self, now: float, seen: Seen) -> int:
        options, lately = self._options, self._lately
        current = seen.serving + seen.starting
        raw = self._raw(seen)
        lately.append((now, raw))
        while lately[0][0] <= now - self._kept and len(lately) > 1:
            lately.popleft()
        least = min(one for when, one in lately if when > now - options.stabilisation_up or when == now)
        most = max(one for when, one in lately if when > now - options.stabilisation or when == now)
        stable = min(max(current, least), most)
        return min(stable, max(math.floor(options.up_factor * current), current + self._more))

    def _raw(self, seen: Seen) -> int:
        options = self._options
        current = seen.serving + seen.starting
        ratio = seen.utilisation / options.target
        if seen.starting and ratio > 1:
            ratio *= seen.serving / current
            if ratio <= 1 + options.tolerance:
                return current
            return math.ceil(ratio * current)
        if abs(ratio - 1) <= options.tolerance:
            return current
        return math.ceil(ratio * seen.serving)


class QueueLength(Reactive):
    """One instance more where too many tasks wait and run for each, one fewer where too few do.

    The thresholds and the cool-down are those of simple scaling in Amazon EC2 Auto Scaling, the measure is the
    backlog per instance (docs.aws.amazon.com, "Simple scaling policies" and "Scaling policy based on Amazon SQS"),
    with the running tasks, as Knative's autoscaler counts them.
    """

    kind: Literal["queue_length"] = "queue_length"
    above: PositiveFloat
    """Tasks for each instance that serves, waiting or running, above which instances are added."""
    below: NonNegativeFloat
    """The same below which instances are removed."""
    add: PositiveInt = 1
    """Instances that are added at once."""
    remove: PositiveInt = 1
    """Instances that are removed at once."""
    period: PositiveFloat = 1.0
    """Seconds between two looks."""
    cooldown: NonNegativeFloat = 300.0
    """Seconds after a change for which nothing else changes."""

    @field_validator("below")
    @classmethod
    def _below_above(cls, below: float, info: ValidationInfo) -> float:
        above = info.data.get("above")
        if above is not None and below >= above:
            raise ValueError(f"must be less than 'above' ({above:g})")
        return below

    def rule(self, start: int, part: Part) -> Rule:
        """Return a rule that may change something at once."""
        return _QueueLength(self, part)


class _QueueLength:
    def __init__(self, options: QueueLength, part: Part) -> None:
        self._options = options
        self._add, self._remove = part(options.add), part(options.remove)
        self._rests_until = -math.inf

    def wanted(self, now: float, seen: Seen) -> int:
        options = self._options
        current = seen.serving + seen.starting
        each = seen.tasks / seen.serving
        change = self._add if each > options.above else -self._remove if each < options.below else 0
        wanted = max(seen.least, min(current + change, seen.most))
        if wanted == current or now < self._rests_until:
            return current
        self._rests_until = now + options.cooldown
        return wanted
