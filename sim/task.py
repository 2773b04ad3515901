"""The work that moves through the cluster: batches of queries, and the tasks that instances run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from sim.clock import Entry
from sim.trace import Route

OWN, RECONSTRUCTION, REPLICA, BACKUP = (
    int(route) for route in (Route.OWN, Route.RECONSTRUCTION, Route.REPLICA, Route.BACKUP)
)
"""Routes of replies as plain integers: looking up an enumeration's member each time is slow."""

QUEUED, RUNNING, ENDED = range(3)
"""States of a task; plain integers, since they are compared several times per task."""


class Owner(Protocol):
    """What a task belongs to: a batch or a coding group."""

    number: int
    """Its row in the trace."""
    first: int
    """Index of its draws in random streams: its first query, or the coding group."""
    size: int
    """Queries in each of its tasks."""


class Batch:
    """Queries `first .. first + size - 1`, dispatched and answered together (except for default answers)."""

    __slots__ = ("answered", "first", "number", "size", "state")

    def __init__(self, number: int, first: int, size: int) -> None:
        self.number = number
        self.first = first
        self.size = size
        self.answered = False
        """Whether every query of the batch has a reply."""
        self.state: Any = None
        """The policy's data for this batch."""


class Task(Entry):
    """One batch (or parity batch) for one instance of a pool. As an entry in the clock's heap it is its own end.

    A pool sets `queued` when the task is submitted, and `instance`, `sent`, `start` and `finish` when it is sent.
    `lane` is the pool to which it was submitted, where pools share instances, and `bundle` the batch in which it is
    served, where instances form batches. Where each instance has a queue, `joined` is when the task joined that
    of its instance, and `found` how many tasks were outstanding there.
    """

    __slots__ = (
        "attempt", "avoid", "bundle", "finish", "found", "instance", "joined", "lane", "owner", "queued", "sent",
        "start", "state",
    )  # fmt: skip

    queued: float
    instance: int
    sent: float
    start: float
    finish: float
    lane: Any
    joined: float
    found: int
    bundle: Bundle | None
    members: Sequence[Task] = ()
    """The tasks of a `Bundle`."""

    def __init__(self, owner: Any, attempt: int = 0) -> None:
        self.owner = owner
        self.attempt = attempt
        self.avoid: list[int] | None = None
        """Instances that have or had a copy of the same batch; one list shared by the copies, None without copies."""
        self.state = QUEUED


class Bundle(Task):
    """Tasks of one model that an instance took from its queue together: they start and end as one service."""

    __slots__ = ("members",)

    def __init__(self, members: Sequence[Task]) -> None:
        first = members[0]
        super().__init__(Batch(first.owner.number, first.owner.first, sum(one.owner.size for one in members)))
        self.attempt = first.attempt
        self.members = members
        for one in members:
            one.bundle = self
