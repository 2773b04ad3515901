"""The result of a simulation: NumPy arrays with a row per query, per batch and per task.

Times are seconds on the simulated clock. Samples and answers are not part of it; they are joined by row number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Route(IntEnum):
    """Where a query's reply came from."""

    OWN = 0
    """The deployed model's answer to the query's first copy."""
    RECONSTRUCTION = 1
    """Decoded from the other answers of its coding group."""
    REPLICA = 2
    """The deployed model's answer to a later copy."""
    BACKUP = 3
    """A cheaper model's answer."""
    DEFAULT = 4
    """A default answer: no prediction came before the deadline."""


UNAVAILABLE = (Route.RECONSTRUCTION, Route.BACKUP, Route.DEFAULT)
"""Routes of an unavailable prediction: the reply is not the deployed model's answer."""


LARGEST_VOTE = 31
"""At most so many copies of a query vote, since two bits of `Queries.used` belong to each; one that has been lost and
repeated more often votes, but is not recorded."""


class Role(IntEnum):
    """Which model a pool of instances serves."""

    DEPLOYED = 0
    PARITY = 1
    BACKUP = 2


class TaskStatus(IntEnum):
    """How a task ended."""

    DONE = 0
    CANCELLED = 1
    """Removed from a queue (no start, no instance) or stopped while running."""
    LOST = 2
    """Its instance crashed while it ran."""


@dataclass(frozen=True, slots=True)
class Queries:
    """One row per query, in the order of arrival."""

    arrival: Floats
    dispatch: Floats
    """When the frontend sent the query's batch to its policy."""
    reply: Floats
    route: NDArray[np.uint8]
    """A `Route`."""
    batch: NDArray[np.int32]
    """Row of `Batches`."""
    used: Ints
    """The answers used by a reconstruction: bit i < k for slot i, bit k + j for parity row j. Those of a vote: bit j
    for copy j, where it was on the winning side, bit `LARGEST_VOTE` + j where it was not. Else 0."""

    def __len__(self) -> int:
        return len(self.arrival)

    @property
    def latency(self) -> Floats:
        """Reply minus arrival, in seconds, shape (queries,)."""
        return self.reply - self.arrival


@dataclass(frozen=True, slots=True)
class Batches:
    """One row per batch, in the order of dispatch. A batch holds consecutive queries `first .. first + size - 1`."""

    first: Ints
    size: NDArray[np.int32]
    group: NDArray[np.int32]
    """Coding group, or -1."""
    slot: NDArray[np.int8]
    """Position in the coding group, 0 .. k-1, or -1."""

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True, slots=True)
class Tasks:
    """One row per task that was submitted to a pool, in the order in which they ended."""

    owner: NDArray[np.int32]
    """Row of `Batches`; for a parity task its coding group."""
    role: NDArray[np.uint8]
    """A `Role`."""
    row: NDArray[np.int8]
    """Parity row, 0 .. r-1; 0 for other roles."""
    attempt: NDArray[np.int16]
    """0 for the first copy; replicas and retries count up."""
    size: NDArray[np.int32]
    """Queries in the task."""
    together: NDArray[np.int32]
    """Tasks that its instance served in one batch, itself included; 1 where each is served alone."""
    instance: NDArray[np.int32]
    """Instance that ran it, numbered across pools, or -1."""
    queued: Floats
    """When it was submitted to its pool."""
    sent: Floats
    """When it was sent to its instance, which is occupied from then on; NaN where it never was."""
    start: Floats
    """When its service began; NaN where it never did."""
    finish: Floats
    """When its service ended (done, stopped or lost), or when it was removed from the queue."""
    back: Floats
    """When its answer was back at the frontend; NaN where none came."""
    fate: NDArray[np.uint8]
    """A `TaskStatus`."""
    wrong: NDArray[np.uint8] | None = None
    """0 for a right answer, else 1 + the index of the `Corruption` that made it wrong; None without any."""

    def __len__(self) -> int:
        return len(self.owner)

    @property
    def occupied(self) -> Floats:
        """Seconds for which its instance was occupied, from `sent` to `back` (or `finish`), divided evenly among the
        tasks of a batch; NaN where it was never sent. Shape (tasks,)."""
        return (np.fmax(self.finish, self.back) - self.sent) / self.together


@dataclass(frozen=True, slots=True)
class Counts:
    """How many instances there were, where a scaler adds and removes them: one row per change in a pool, in the order
    of time, the first ones at time 0."""

    time: Floats
    """When the pool has had so many since."""
    role: NDArray[np.uint8]
    """The pool's `Role`."""
    row: NDArray[np.int8]
    """Its parity row."""
    paid: NDArray[np.int32]
    """Instances that are paid: asked for, taking tasks, or removed and not done with their last one."""
    serving: NDArray[np.int32]
    """Those that take tasks."""

    @classmethod
    def of(cls, columns: Mapping[str, Sequence[float]]) -> Counts:
        """Return columns by their names as arrays."""
        kinds = {"time": np.float64, "role": np.uint8, "row": np.int8, "paid": np.int32, "serving": np.int32}
        return cls(**{name: np.array(columns[name], dtype=kind) for name, kind in kinds.items()})

    def paid_on_average(self, since: float, until: float) -> dict[Role, float]:
        """Return the number of paid instances averaged over time, by role, all parity rows together."""
        found: dict[Role, float] = {}
        for role, row in sorted(set(zip(self.role.tolist(), self.row.tolist(), strict=True))):
            mine = (self.role == role) & (self.row == row)
            ends = np.clip(np.append(self.time[mine], np.inf), since, until)
            area = float(np.sum(np.diff(ends) * self.paid[mine]))
            found[Role(role)] = found.get(Role(role), 0.0) + area / (until - since)
        return found


@dataclass(frozen=True, slots=True)
class Trace:
    """Everything that happened in one simulation."""

    queries: Queries
    batches: Batches
    tasks: Tasks
    k: int
    """Coding group size, 0 without coding. A group that could not fill has fewer batches; its last one is repeated."""
    r: int
    """Parities per coding group; for a non-systematic code all coded queries."""
    instances: int
    """Instances in all pools; with a scaler those at the start."""
    end: float
    """When the last reply was sent or the last answer was back, whichever is later."""
    bytes: int
    """Bytes sent over the cluster's network, queries and replies."""
    counts: Counts | None = None
    """How many instances there were over time; None without a scaler."""

    def without_tasks(self) -> Trace:
        """Return the same without the rows of its tasks."""
        columns = {one.name: getattr(self.tasks, one.name) for one in fields(Tasks)}
        none: dict[str, Any] = {name: None if column is None else column[:0].copy() for name, column in columns.items()}
        return replace(self, tasks=Tasks(**none))

    @property
    def position(self) -> Ints:
        """Each query's position in its batch, 0 .. size-1; shape (queries,)."""
        return np.arange(len(self.queries), dtype=np.int64) - self.batches.first[self.queries.batch]

    @property
    def group(self) -> NDArray[np.int32]:
        """Each query's coding group or -1; shape (queries,)."""
        return self.batches.group[self.queries.batch]

    @property
    def slot(self) -> NDArray[np.int8]:
        """Each query's slot in its coding group or -1; shape (queries,)."""
        return self.batches.slot[self.queries.batch]

    @property
    def busy_seconds(self) -> float:
        """Seconds of service, summed over instances, wasted work included."""
        tasks = self.tasks
        return float(np.nansum((tasks.finish - tasks.start) / tasks.together))

    @property
    def occupied_seconds(self) -> float:
        """Seconds for which instances could take no other work, summed over instances: service and transfers."""
        return float(np.nansum(self.tasks.occupied))
