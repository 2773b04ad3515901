"""Base class of straggler models, which are attached to a cluster for one simulation and affect its tasks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from sim.kinds import Kind
from sim.network import Network
from sim.streams import Stream, Streams
from sim.task import Task

ServiceModifier = Callable[[Task, int, float, float], float]
"""`modify(task, instance, start, seconds) -> seconds`: duration of a service of `seconds` that begins at `start`."""

Delay = Callable[[int, float, bool, float], float]
"""`delay(instance, when, outbound, seconds) -> seconds`: additional delay of a message on an instance's link, where
`seconds` is its propagation plus transmission time.

`outbound` tells whether the message leaves the instance. Times of one instance are almost increasing: the delay of a
reply is requested when its task starts.
"""


UNUSED = (-1, 0)
"""Role and parity row of a machine that is launched and serves nothing."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The cluster of one simulation, to which straggler models are attached."""

    streams: Streams
    number: int
    """The model's index in the experiment's list; distinguishes models of the same kind."""
    pools: Sequence[tuple[int, int]]
    """Role and parity row of each instance's pool, one entry per launched instance; `UNUSED` for those without one."""
    network: Network


class Outages(Protocol):
    """Outages of instances. Successive calls for one instance have nondecreasing times."""

    detect: float
    retry: bool

    def down_until(self, instance: int, now: float) -> float:
        """Return the end of the outage at time `now`, or `now` if there is none."""
        ...

    def next_crash(self, instance: int, now: float) -> float:
        """Return the start of the first outage that ends after `now`."""
        ...


@dataclass(frozen=True, slots=True)
class Pieces:
    """Work is integrated over pieces of time: for each instance (end, factor), with increasing ends."""

    of_instance: Sequence[Iterable[tuple[float, float]]]


@dataclass(frozen=True, slots=True)
class Tenancy:
    """A second service on some instances, whose queries depend on our tasks (`sim.stragglers.tenants.Tenants`)."""

    arrivals: Sequence[Iterator[tuple[float, float]]]
    """Queries of each of its queues as (arrival, work): one queue for all of its instances, or one for each."""
    places: Sequence[int]
    """For each launched instance its number among those of the second service, or -1."""
    slowdown: float
    mutual: bool


@dataclass(frozen=True, slots=True)
class Chains:
    """Each instance multiplies the service times of its tasks, in the order of their starts, by these factors."""

    of_instance: Sequence[Iterator[float]]


@dataclass(frozen=True, slots=True)
class Factors:
    """Each instance multiplies all service times by a factor of its own."""

    of_instance: Sequence[float]


@dataclass(frozen=True, slots=True)
class Draws:
    """Each task's service time is multiplied by a draw, or the draw is added to it."""

    stream: Callable[[int, int, int], Stream]
    """Draws numbered as the service times are, by role and parity row of the instance's pool and by attempt."""
    adds: bool


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bulk flows cross the instances' links: a message shares its link with them and waits for each one's backlog."""

    pieces: Iterator[tuple[float, NDArray[np.int16], NDArray[np.float64]]]
    """(end, for each instance the flows in and out until then, and their lasting backlog in seconds), with ends that
    increase without bound; flows and backlog have the shape (instances, 2), and nobody may change them."""
    backlog: Sequence[tuple[Stream, Stream]] | None
    """For each instance the seconds that a flow's backlog takes, in and out, numbered in the order of the waits; None
    where it lasts."""
    latency: float
    """Seconds of each message that flows do not multiply."""


@dataclass(frozen=True, slots=True)
class Crashing:
    """Instances crash and are repaired."""

    of_instance: Sequence[Iterator[tuple[float, float]]]
    """For each instance (crash, repaired), which increase without bound."""
    detect: float
    retry: bool


Form = Pieces | Tenancy | Chains | Factors | Draws | Traffic | Crashing


@dataclass(frozen=True, slots=True)
class Effect:
    """Effects of a straggler model on the tasks of one simulation."""

    modifier: ServiceModifier | None = None
    delay: Delay | None = None
    outages: Outages | None = None
    form: Form | None = None
    """The same effect as data, for the compiled engine, which calls nothing for each task. Effects without it are
    simulated on SimPy."""


class Straggler(Kind):
    """A cause of slow services, slow transfers or lost work."""

    family: ClassVar[str] = "straggler"
    by_task: ClassVar[bool] = False
    """Whether every task meets it by itself, whatever its instance: each of several services then has its own draws."""

    @abstractmethod
    def attach(self, setting: Setting) -> Effect:
        """Return the model's effect on one simulation; equal settings give equal effects."""
