"""The trace, from the columns that the kernel leaves; `sim.recorder` makes the same of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from sim.cluster import Cluster
from sim.compiled import layout
from sim.compiled.arrays import Arrays
from sim.policies import Policy
from sim.policies.base import PoolPlan
from sim.recorder import UNANSWERED
from sim.schedule import ClosedSchedule, Schedule
from sim.trace import Batches, Queries, Role, Route, Tasks, Trace

NAMES = {"task_size": "size", "sent_at": "sent"}
"""Columns of the tasks whose names in the `WORLD` are others."""


def columns(arrays: Arrays) -> Iterator[str]:
    """Return the names of the columns of tasks that the kernel writes."""
    yield from layout.COLUMN_TYPES
    if arrays.get("gathers"):
        yield "together"


def trace(arrays: Arrays, cluster: Cluster, policy: Policy, schedule: Schedule, plans: Sequence[PoolPlan]) -> Trace:
    """Return what was simulated. Raises ValueError where a query has no reply."""
    network = cluster.network
    arrival = arrays["arrivals"] if isinstance(schedule, ClosedSchedule) else schedule.times
    queries = _queries(arrays, arrival)
    if np.any(queries.reply == UNANSWERED):
        raise ValueError("some queries have no reply")
    for name in columns(arrays):
        arrays.resize(name, arrays.get("ended"))
    sent = arrays["sent_bytes"]
    k, r = policy.group
    return Trace(
        queries=queries,
        batches=_batches(arrays, len(arrival), k),
        tasks=Tasks(
            **{NAMES.get(name, name): arrays[name] for name in layout.COLUMN_TYPES},
            together=arrays["together"] if arrays.get("gathers") else np.ones(arrays.get("ended"), np.int32),
        ),
        k=k,
        r=r,
        instances=sum(plan.instances for plan in plans),
        end=max(float(arrays.world["end"][0]), float(queries.reply.max())),
        bytes=sum(network.bytes_to(role) * int(sent[role]) for role in Role) + network.reply_bytes * int(sent[3]),
    )


def _queries(arrays: Arrays, arrival: NDArray[np.float64]) -> Queries:
    reply, route, used = arrays["reply"], arrays["route"], arrays["used"]
    if arrays.get("alone"):
        dispatch, batch = arrays["came"], np.arange(len(arrival), dtype=np.int32)
    else:
        count = arrays.get("batch_count")
        size = arrays["sizes"][:count]
        dispatch = np.repeat(arrays["dispatched"][:count], size)
        batch = np.repeat(np.arange(count, dtype=np.int32), size)
        reply, route, used = (np.repeat(of_batches[:count], size) for of_batches in (reply, route, used))
    if arrays.get("has_deadline"):
        late = arrays["defaults"] != UNANSWERED
        reply[late], route[late], used[late] = arrays["defaults"][late], Route.DEFAULT, 0
    return Queries(arrival=arrival, dispatch=dispatch, reply=reply, route=route, batch=batch, used=used)


def _batches(arrays: Arrays, queries: int, k: int) -> Batches:
    count = arrays.get("batch_count")
    if arrays.get("alone"):
        first, size = np.arange(queries, dtype=np.int64), np.ones(queries, np.int32)
    else:
        first, size = arrays["firsts"][:count].copy(), arrays["sizes"][:count].copy()
    group, slot = np.full(count, -1, np.int32), np.full(count, -1, np.int8)
    if arrays.get("coded_groups"):
        members = arrays["group_sizes"][: arrays.get("coded_groups")]
        group[:] = np.repeat(np.arange(len(members), dtype=np.int32), members)
        slot[:] = np.arange(count) - np.repeat(np.cumsum(members) - members, members)
    elif k:
        groups = count // k
        group[: groups * k].reshape(groups, k)[:] = np.arange(groups, dtype=np.int32)[:, None]
        slot[: groups * k].reshape(groups, k)[:] = np.arange(k, dtype=np.int8)
    return Batches(first=first, size=size, group=group, slot=slot)
