"""The work that moves through the cluster: batches of queries, and the tasks that instances run."""

from __future__ import annotations

from typing import Any, Protocol

from sim.clock import Entry
from sim.trace import Route

OWN, RECONSTRUCTION, REPLICA, BACKUP = (
    int(route) for route in (Route.OWN, Route.RECONSTRUCTION, Route.REPLICA, Route.BACKUP)
)
"""The routes of replies as plain numbers, since an enumeration's members take a look-up each time."""

QUEUED, RUNNING, ENDED = range(3)
"""The states of a task's life; plain numbers, since they are compared several times per task."""


class Owner(Protocol):
    """What a task is run for: a batch, or a coding group."""

    number: int
    """Its row in the trace."""
    first: int
    """What numbers its draws in random streams: its first query, or the coding group."""
    size: int
    """Queries in each of its tasks."""


class Batch:
    """Queries `first .. first + size - 1`, dispatched together and answered together (a default answer aside)."""

    __slots__ = ("answered", "first", "number", "size", "state")

    def __init__(self, number: int, first: int, size: int) -> None:
        self.number = number
        self.first = first
        self.size = size
        self.answered = False
        """Whether every query of the batch has its reply."""
        self.state: Any = None
        """What the policy remembers of this batch."""


class Task(Entry):
    """One batch (or parity batch) for one instance of one pool. In the clock's heap it stands for its own end.

    A pool sets `queued` when the task is submitted, and `instance`, `start` and `finish` when it is sent; where pools
    share their instances, `lane` is the one that it was submitted to.
    """

    __slots__ = ("attempt", "avoid", "finish", "instance", "lane", "owner", "queued", "start", "state")

    queued: float
    instance: int
    start: float
    finish: float
    lane: Any

    def __init__(self, owner: Any, attempt: int = 0) -> None:
        self.owner = owner
        self.attempt = attempt
        self.avoid: list[int] | None = None
        """Instances that hold or held a copy of the same work, shared among the copies; None where there are none."""
        self.state = QUEUED
