"""Records a simulation, in flat buffers while it runs and as a `Trace` at its end."""

from __future__ import annotations

import struct
from array import array
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sim.trace import Batches, Floats, Ints, Queries, Role, Route, Tasks, TaskStatus, Trace

Scalar = TypeVar("Scalar", bound=np.generic)

UNANSWERED = -1.0
"""Marks a missing reply."""

TASK = struct.Struct("<dddddiiiiHHB").pack
"""Packs a row of the tasks: four times faster than an append for each column."""

TASK_ROW = np.dtype(
    {
        "names": [
            "queued", "sent", "start", "finish", "back",
            "owner", "instance", "size", "together", "attempt", "label", "fate",
        ],
        "formats": ["<f8", "<f8", "<f8", "<f8", "<f8", "<i4", "<i4", "<i4", "<i4", "<u2", "<u2", "u1"],
    }
)  # fmt: skip


class Recorder:
    """Flat buffers: ten million queries take less than a GiB, where lists of floats would take several."""

    __slots__ = ("bytes_besides", "defaults", "dispatched", "groups", "reply", "route", "size", "tasks", "used")

    def __init__(self, queries: int) -> None:
        self.reply = array("d", [UNANSWERED]) * queries
        """When each batch was answered; there are no more batches than queries."""
        self.route = bytearray(queries)
        """`Route` of each batch."""
        self.used: dict[int, int] = {}
        """Answers that were used to decode, by batch."""
        self.defaults: dict[int, float] = {}
        """Time of the default answer, by query; it replaces its batch's reply."""
        self.size = array("i")
        """Queries of each batch; empty if each query is a batch, dispatched `overhead` after its arrival."""
        self.dispatched = array("d")
        """Time of dispatch of each batch; likewise."""
        self.groups = array("i")
        """Batches of each coding group; empty if all groups but an incomplete last one have k."""
        self.bytes_besides = 0
        """Bytes that were sent besides those of tasks."""
        self.tasks = bytearray()
        """Rows packed by `TASK`."""

    def besides(self, sent: int) -> None:
        """Count bytes that belong to no task."""
        self.bytes_besides += sent

    @staticmethod
    def label(role: Role, row: int) -> int:
        """Return the code of a pool's role and parity row in the rows of tasks."""
        return role | row << 8

    def trace(
        self,
        arrival: Floats,
        *,
        overhead: float,
        k: int,
        r: int,
        instances: int,
        query_bytes: dict[Role, int],
        reply_bytes: int,
    ) -> Trace:
        """Return the trace. `query_bytes` and `reply_bytes` are per query of a task.

        Raises ValueError where a query has no reply.
        """
        if self.size:
            size = np.frombuffer(self.size, dtype=np.int32)
            dispatched = np.frombuffer(self.dispatched, dtype=np.float64)
        else:
            size, dispatched = np.ones(len(arrival), dtype=np.int32), arrival + overhead
        batches = len(size)
        number = np.arange(batches)
        group, slot = self._groups(number, k)
        alone = batches == len(arrival)

        def of_queries(of_batches: NDArray[Scalar]) -> NDArray[Scalar]:
            return of_batches.copy() if alone else np.repeat(of_batches, size)

        reply = of_queries(np.frombuffer(self.reply, dtype=np.float64)[:batches])
        route = of_queries(np.frombuffer(self.route, dtype=np.uint8)[:batches])
        used = np.zeros(batches, dtype=np.int64)
        used[list(self.used.keys())] = list(self.used.values())
        used = of_queries(used)
        late = list(self.defaults.keys())
        reply[late], route[late], used[late] = list(self.defaults.values()), Route.DEFAULT, 0
        if np.any(reply == UNANSWERED):
            raise ValueError("some queries have no reply")
        tasks = self._tasks()
        begun = tasks.instance >= 0
        sent = sum(
            per_query * int(tasks.size[begun & (tasks.role == role)].sum()) for role, per_query in query_bytes.items()
        )
        returned = reply_bytes * int(tasks.size[tasks.fate == TaskStatus.DONE].sum())
        return Trace(
            queries=Queries(
                arrival=arrival,
                dispatch=of_queries(dispatched),
                reply=reply,
                route=route,
                batch=of_queries(number.astype(np.int32)),
                used=used,
            ),
            batches=Batches(
                first=np.cumsum(size, dtype=np.int64) - size,
                size=size,
                group=group.astype(np.int32),
                slot=slot.astype(np.int8),
            ),
            tasks=tasks,
            k=k,
            r=r,
            instances=instances,
            end=float(max(reply.max(), tasks.finish.max(initial=0.0), np.nanmax(tasks.back, initial=0.0))),
            bytes=sent + returned + self.bytes_besides,
        )

    def _groups(self, number: Ints, k: int) -> tuple[Ints, Ints]:
        """Return coding group and slot of the batches, -1 where they have none."""
        if self.groups:
            batches = np.frombuffer(self.groups, dtype=np.int32)
            group = np.repeat(np.arange(len(batches)), batches)
            return group, number - np.repeat(np.cumsum(batches) - batches, batches)
        coded = number < (len(number) // k * k if k else 0)
        return np.where(coded, number // max(k, 1), -1), np.where(coded, number % max(k, 1), -1)

    def _tasks(self) -> Tasks:
        rows = np.frombuffer(self.tasks, dtype=TASK_ROW)
        return Tasks(
            owner=rows["owner"].copy(),
            role=(rows["label"] & 0xFF).astype(np.uint8),
            row=(rows["label"] >> 8).astype(np.int8),
            attempt=rows["attempt"].astype(np.int16),
            size=rows["size"].copy(),
            together=rows["together"].copy(),
            instance=rows["instance"].copy(),
            queued=rows["queued"].copy(),
            sent=rows["sent"].copy(),
            start=rows["start"].copy(),
            finish=rows["finish"].copy(),
            back=rows["back"].copy(),
            fate=rows["fate"].copy(),
        )
