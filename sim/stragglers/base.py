"""Base class of straggler models, which are attached to a cluster for one simulation and affect its tasks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from sim.kinds import Kind
from sim.network import Network
from sim.streams import Streams
from sim.task import Task

ServiceModifier = Callable[[Task, int, float, float], float]
"""`modify(task, instance, start, seconds) -> seconds`: duration of a service of `seconds` that begins at `start`."""

Delay = Callable[[int, float, bool, float], float]
"""`delay(instance, when, outbound, seconds) -> seconds`: additional delay of a message on an instance's link, where
`seconds` is its propagation plus transmission time.

`outbound` tells whether the message leaves the instance. Times of one instance are almost increasing: the delay of a
reply is requested when its task starts.
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """The cluster of one simulation, to which straggler models are attached."""

    streams: Streams
    number: int
    """The model's index in the experiment's list; distinguishes models of the same kind."""
    pools: Sequence[tuple[int, int]]
    """Role and parity row of each instance's pool, one entry per launched instance."""
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
class Effect:
    """Effects of a straggler model on the tasks of one simulation."""

    modifier: ServiceModifier | None = None
    delay: Delay | None = None
    outages: Outages | None = None


class Straggler(Kind):
    """A cause of slow services, slow transfers or lost work."""

    family: ClassVar[str] = "straggler"

    @abstractmethod
    def attach(self, setting: Setting) -> Effect:
        """Return the model's effect on one simulation; equal settings give equal effects."""
