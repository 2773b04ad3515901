"""Which part of a trace the timeline shows: a few coding groups around a reply that came by another way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.trace import Ints, Role, Route, Trace

WINDOW = 3.0
"""The reply chosen is one that came about this many median service times before the query's own answer."""


@dataclass(frozen=True)
class Scene:
    """The queries and tasks of a few neighbouring units: coding groups, or batches where there are none."""

    route: Route
    """How the query in the middle was answered."""
    query: int
    """That query's number."""
    own: int | None
    """Row of the task that would have answered it, if there was one; see `own_tasks`."""
    used: list[int]
    """Rows of the tasks whose answers made its reply."""
    unit: int
    """Its coding group, or its batch."""
    units: list[int]
    """The units shown, in the order of dispatch."""
    tasks: Ints
    """Rows of the units' tasks."""
    queries: Ints
    """The units' queries."""


def units_of_tasks(trace: Trace) -> Ints:
    """Return each task's coding group, or its batch where the policy is not coded; shape (tasks,)."""
    tasks = trace.tasks
    if not trace.k:
        return tasks.owner.astype(np.int64)
    is_parity = tasks.role == Role.PARITY
    batch = np.where(is_parity, 0, tasks.owner)
    return np.where(is_parity, tasks.owner, trace.batches.group[batch]).astype(np.int64)


def only_decoded(trace: Trace) -> bool:
    """Say whether every prediction is decoded, from answers to coded queries that the deployed model itself gave."""
    return bool(trace.k) and not np.any(trace.tasks.role == Role.DEPLOYED)


def own_tasks(trace: Trace) -> Ints:
    """Return for each batch the row of its first task, or -1; shape (batches,).

    Where every prediction is decoded, it is the last of the group's coded tasks to end: the one to be overtaken.
    """
    tasks, batches = trace.tasks, trace.batches
    if only_decoded(trace):
        ran = np.flatnonzero(tasks.instance >= 0)
        ran = ran[np.argsort(tasks.finish[ran], kind="stable")]
        last = np.full(int(batches.group.max(initial=0)) + 1, -1, dtype=np.int64)
        last[tasks.owner[ran]] = ran
        return last[batches.group]
    first = (tasks.role == Role.DEPLOYED) & (tasks.attempt == 0)
    own = np.full(len(batches), -1, dtype=np.int64)
    own[tasks.owner[first]] = np.flatnonzero(first)
    return own


def choose(trace: Trace, units: int) -> Scene | None:
    """Return the scene of `units` units around a telling reply, or None where every reply was the query's own."""
    for route in (Route.RECONSTRUCTION, Route.REPLICA, Route.BACKUP):
        candidates = np.flatnonzero(trace.queries.route == route)
        if route == Route.RECONSTRUCTION:
            candidates = candidates[trace.group[candidates] >= 0]
        if len(candidates):
            return about(trace, _telling(trace, candidates), units)
    return None


def _telling(trace: Trace, candidates: Ints) -> int:
    """Return the query whose reply came about `WINDOW` median service times before its own answer."""
    tasks, queries = trace.tasks, trace.queries
    own = own_tasks(trace)[queries.batch[candidates]]
    end = np.where(own >= 0, tasks.finish[own], np.nan)
    gain = np.nan_to_num(end - queries.reply[candidates], nan=-1.0)
    service = float(np.nanmedian(tasks.finish - tasks.start))
    return int(candidates[int(np.argmin(np.abs(gain - WINDOW * service)))])


def about(trace: Trace, query: int, units: int) -> Scene:
    """Return the scene of `units` units around a query, whatever the route of its reply."""
    queries = trace.queries
    batch, route = int(queries.batch[query]), Route(int(queries.route[query]))
    own = int(own_tasks(trace)[batch])
    unit_of_batch = trace.batches.group if trace.k else np.arange(len(trace.batches))
    unit = int(unit_of_batch[batch])
    last = int(unit_of_batch.max())
    low = max(0, min(unit - units // 2, last - units + 1))
    shown = list(range(low, min(low + units, last + 1))) if unit >= 0 else [unit]
    if unit < 0:  # the last queries of a run fill no coding group
        queries_shown = np.flatnonzero(queries.batch == batch)
        chosen = np.flatnonzero((trace.tasks.owner == batch) & (trace.tasks.role != Role.PARITY))
    else:
        queries_shown = np.flatnonzero(np.isin(unit_of_batch[queries.batch], shown))
        chosen = np.flatnonzero(np.isin(units_of_tasks(trace), shown))
    used = [own] * (own >= 0) if route == Route.OWN else _used(trace, query, route, chosen)
    return Scene(route, query, own if own >= 0 else None, used, unit, shown, chosen, queries_shown)


def _used(trace: Trace, query: int, route: Route, tasks: Ints) -> list[int]:
    """Return the rows, among `tasks`, of the answers that made a query's reply."""
    column, batch = trace.tasks, int(trace.queries.batch[query])
    back = [int(row) for row in tasks if column.back[row] <= trace.queries.reply[query]]
    if route == Route.RECONSTRUCTION:
        group, mask, k = int(trace.batches.group[batch]), int(trace.queries.used[query]), trace.k
        wanted: dict[int, int] = {}
        for row in back:
            if column.role[row] == Role.PARITY:
                bit = k + int(column.row[row]) if column.owner[row] == group else -1
            else:
                bit = (
                    int(trace.batches.slot[column.owner[row]])
                    if trace.batches.group[column.owner[row]] == group
                    else -1
                )
            if bit >= 0 and mask >> bit & 1:
                earlier = wanted.get(bit)
                wanted[bit] = row if earlier is None or column.back[row] < column.back[earlier] else earlier
        return sorted(wanted.values())
    if route == Route.DEFAULT:
        return []
    role = Role.BACKUP if route == Route.BACKUP else Role.DEPLOYED
    copies = [row for row in back if column.owner[row] == batch and column.role[row] == role]
    copies = [row for row in copies if route == Route.BACKUP or column.attempt[row] > 0]
    return sorted(copies, key=lambda row: float(column.back[row]))[-1:]
