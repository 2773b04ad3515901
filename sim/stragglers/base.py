"""What every straggler model offers to the pools of instances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from sim.kinds import Kind
from sim.streams import Streams
from sim.work import Task

Bend = Callable[[Task, int, float, float], float]
"""`bend(task, instance, start, seconds) -> seconds`: how long a service of `seconds` takes when it begins at `start`."""


@dataclass(frozen=True, slots=True)
class Site:
    """What a straggler model is attached to: one pool of the cluster, in one simulation."""

    streams: Streams
    number: int
    """The straggler's place in the experiment's list, which keeps equal kinds apart."""
    role: int
    row: int


class Outages(Protocol):
    """When instances are down. Questions about one instance come with times that never decrease."""

    detect: float
    retry: bool

    def down_until(self, instance: int, now: float) -> float:
        """Return when the outage that covers `now` ends, or `now` itself where there is none."""
        ...

    def next_crash(self, instance: int, now: float) -> float:
        """Return when the first outage after `now` begins."""
        ...


class Straggler(Kind):
    """Something that makes services slow, or loses them."""

    family: ClassVar[str] = "straggler"

    def bend(self, site: Site) -> Bend | None:
        """Return what bends the service times of a pool, or None where nothing does."""
        del site
        return None

    def outages(self, site: Site) -> Outages | None:
        """Return when the pool's instances are down, or None where they never are."""
        del site
        return None
