"""What a straggler model does: it is attached to a cluster for one simulation, and then has an effect on its tasks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from sim.kinds import Kind
from sim.network import Network
from sim.streams import Stream, Streams
from sim.task import Task

ServiceModifier = Callable[[Task, int, float, float], float]
"""`bend(task, instance, start, seconds) -> seconds`: how long a service of `seconds` takes that begins at `start`."""

Delay = Callable[[int, float, bool, float], float]
"""`delay(instance, when, outbound, seconds) -> seconds`: what is added to a message that takes `seconds`, propagation
and transmission, on an instance's link.

`outbound` says whether it leaves the instance. Messages of one instance come with times that never decrease by much:
a reply is asked for when its task starts.
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a straggler model is attached to: the cluster of one simulation."""

    streams: Streams
    number: int
    """The model's place in the experiment's list, which keeps equal kinds apart."""
    pools: Sequence[tuple[int, int]]
    """Role and parity row of the pool of each instance; as many as instances were launched."""
    network: Network


class Outages(Protocol):
    """When instances are down. Questions about one instance come with times that never decrease."""

    detect: float
    retry: bool

    def down_until(self, instance: int, now: float) -> float:
        """Return when the outage that covers `now` ends, or `now` itself where there is none."""
        ...

    def next_crash(self, instance: int, now: float) -> float:
        """Return when the first outage that ends after `now` begins."""
        ...


@dataclass(frozen=True, slots=True)
class Pieces:
    """Work is integrated over pieces of time: for each instance (end, factor), with increasing ends."""

    of_instance: Sequence[Iterator[tuple[float, float]]]


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

    pieces: Iterator[tuple[float, Sequence[tuple[int, int]]]]
    """(end, for each instance the flows in and out until then), with ends that increase without bound."""
    backlog: Sequence[tuple[Stream, Stream]]
    """For each instance the seconds that a flow's backlog takes, in and out, numbered in the order of the waits."""
    latency: float
    """Seconds of each message that flows do not multiply."""


@dataclass(frozen=True, slots=True)
class Crashing:
    """Instances crash and are repaired."""

    of_instance: Sequence[Iterator[tuple[float, float]]]
    """For each instance (crash, repaired), which increase without bound."""
    detect: float
    retry: bool


Form = Pieces | Chains | Factors | Draws | Traffic | Crashing


@dataclass(frozen=True, slots=True)
class Effect:
    """What a straggler model does to the tasks of one simulation."""

    modifier: ServiceModifier | None = None
    delay: Delay | None = None
    outages: Outages | None = None
    form: Form | None = None
    """The same effect as data, for the compiled engine, which calls nothing for each task. Effects without it are
    simulated on SimPy."""


class Straggler(Kind):
    """Something that makes services or transfers slow, or loses work."""

    family: ClassVar[str] = "straggler"

    @abstractmethod
    def attach(self, setting: Setting) -> Effect:
        """Return the model's effect on one simulation; equal settings give equal effects."""
