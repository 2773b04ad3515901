"""The trace, from the columns that the kernel leaves; `sim.recorder` makes the same of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

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
    """Return the names of the columns of tasks that the kernel writes, all but those that are 1 throughout."""
    for name in layout.COLUMN_TYPES:
        if (name != "task_size" or not arrays.get("alone")) and (name != "together" or arrays.get("gathers")):
            yield name


def same(value: int, rows: int, kind: type[np.integer[Any]]) -> NDArray[Any]:
    """Return a column of one value throughout, which takes no memory."""
    return np.broadcast_to(kind(value), rows)


def trace(arrays: Arrays, cluster: Cluster, policy: Policy, schedule: Schedule, plans: Sequence[PoolPlan]) -> Trace:
    """Return what was simulated. Raises ValueError where a query has no reply."""
    network = cluster.network
    arrival = arrays["arrivals"] if isinstance(schedule, ClosedSchedule) else schedule.times
    count = len(arrival) if arrays.get("alone") else arrays.get("batch_count")
    if not arrays["answered"][:count].all():
        raise ValueError("some queries have no reply")
    queries = _queries(arrays, arrival)
    tasks = arrays.get("ended")
    for name in columns(arrays):
        arrays.resize(name, tasks)
    written = {NAMES.get(name, name): arrays[name] for name in columns(arrays)}
    sent = arrays["sent_bytes"]
    k, r = policy.group
    return Trace(
        queries=queries,
        batches=_batches(arrays, len(arrival), k),
        tasks=Tasks(**{"size": same(1, tasks, np.int32), "together": same(1, tasks, np.int32), **written}),
        k=k,
        r=r,
        instances=sum(plan.instances for plan in plans),
        end=max(float(arrays.world["end"][0]), float(queries.reply.max())),
        bytes=sum(network.bytes_to(role) * int(sent[role]) for role in Role)
        + network.reply_bytes * int(sent[3])
        + int(sent[4]),
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
    if arrays.get("alone"):
        count = queries
        first, size = np.arange(queries, dtype=np.int64), same(1, queries, np.int32)
    else:
        count = arrays.get("batch_count")
        first, size = arrays["firsts"][:count].copy(), arrays["sizes"][:count].copy()
    if not k:
        return Batches(first=first, size=size, group=same(-1, count, np.int32), slot=same(-1, count, np.int8))
    group, slot = np.full(count, -1, np.int32), np.full(count, -1, np.int8)
    if arrays.get("coded_groups"):
        members = arrays["group_sizes"][: arrays.get("coded_groups")]
        group[:] = np.repeat(np.arange(len(members), dtype=np.int32), members)
        slot[:] = np.arange(count) - np.repeat(np.cumsum(members) - members, members)
    else:
        groups = count // k
        group[: groups * k].reshape(groups, k)[:] = np.arange(groups, dtype=np.int32)[:, None]
        slot[: groups * k].reshape(groups, k)[:] = np.arange(k, dtype=np.int8)
    return Batches(first=first, size=size, group=group, slot=slot)
