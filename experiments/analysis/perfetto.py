"""A trace as Chrome's Trace Event JSON, which https://ui.perfetto.dev and chrome://tracing open.

Each cell becomes two processes: its instances, one track each, and its queries, stacked so that none overlap. An arrow
leads from a query to the tasks of its batch, and from the last query of a coding group to the group's parity tasks.

A coded query is about 420 bytes of that, of which the keys that every event needs are more than half: it cannot be 200
without losing arrows. Packed it is 70, and Perfetto opens that, so it is what `parm trace` writes unless it is told.
"""

from __future__ import annotations

import gzip
import heapq
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from sim.trace import Floats, Ints, Role, Route, TaskStatus, Trace

MICRO = 1e6
"""Trace Event times are microseconds."""
AROUND = 1.0
"""The neighbourhood of a slow query begins and ends this many times the median latency before and after it."""
_ROUTES = [route.name.lower() for route in Route]
_ROLES = [role.name.lower() for role in Role]
_STATUSES = ["", " (cancelled)", " (lost)"]
_COLOURS = {Role.DEPLOYED: "", Role.PARITY: ',"cname":"yellow"', Role.BACKUP: ',"cname":"good"'}
_WASTED = ',"cname":"terrible"'
_NEVER = 0
"""Track of tasks that were cancelled before any instance took them."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """What is shown of one cell's trace."""

    title: str
    """Names the cell's processes."""
    trace: Trace
    windows: Sequence[tuple[float, float]] | None = None
    """Seconds of the trace's clock that are shown, none of them overlapping; None: all of it."""
    marked: frozenset[int] = frozenset()
    """Queries that stand out, such as the slowest."""


def slowest(trace: Trace, count: int, warmup: int = 0) -> Ints:
    """Return the numbers of the `count` queries of highest latency after the first `warmup`, the slowest first."""
    latency = trace.queries.latency[warmup:]
    count = min(count, len(latency))
    if count == 0:
        return np.empty(0, dtype=np.int64)
    chosen = np.argpartition(-latency, count - 1)[:count]
    return warmup + chosen[np.argsort(-latency[chosen], kind="stable")]


def neighbourhood(title: str, trace: Trace, queries: Iterable[int]) -> Excerpt:
    """Return the excerpt of a trace around some queries, from before they arrive until after their replies."""
    marked = sorted(queries)
    margin = AROUND * float(np.median(trace.queries.latency))
    windows: list[tuple[float, float]] = []
    for query in marked:
        since, until = float(trace.queries.arrival[query]) - margin, float(trace.queries.reply[query]) + margin
        if windows and since <= windows[-1][1]:
            windows[-1] = windows[-1][0], max(windows[-1][1], until)
        else:
            windows.append((since, until))
    return Excerpt(title, trace, windows, frozenset(marked))


def write(file: BinaryIO, excerpts: Sequence[Excerpt], *, compressed: bool) -> int:
    """Write the excerpts as one JSON document, gzip-compressed if asked (Perfetto reads both); return its events.

    The bytes depend on the excerpts alone.
    """
    if compressed:
        with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=4, mtime=0) as packed:
            return _write(packed, excerpts)
    return _write(file, excerpts)


def _write(file: BinaryIO | gzip.GzipFile, excerpts: Sequence[Excerpt]) -> int:
    count = 0
    file.write(b'{"displayTimeUnit":"ms","traceEvents":[')
    for number, excerpt in enumerate(excerpts):
        events = list(_events(excerpt, 2 * number + 1))
        file.write(((",\n" if count else "\n") + ",\n".join(events)).encode())
        count += len(events)
    file.write(b"\n]}\n")
    return count


def _events(excerpt: Excerpt, process: int) -> Iterator[str]:
    """Return the events of one excerpt; its instances are process `process`, its queries the one after it."""
    trace = excerpt.trace
    tasks = np.flatnonzero(_shown(excerpt, np.fmin(trace.tasks.start, trace.tasks.queued), trace.tasks.finish))
    queries = np.flatnonzero(_shown(excerpt, trace.queries.arrival, trace.queries.reply))
    yield _name("process_name", process, 0, f"{excerpt.title}: instances")
    yield _name("process_name", process + 1, 0, f"{excerpt.title}: queries")
    yield from _instances(trace, tasks, process)
    tracks = _stack(trace.queries.arrival[queries].tolist(), trace.queries.reply[queries].tolist())
    yield from _queries(excerpt, queries, tracks, process)
    yield from _tasks(trace, tasks, process)
    yield from _parity_flows(trace, tasks, dict(zip(queries.tolist(), tracks, strict=True)), process)


def _shown(excerpt: Excerpt, since: Floats, until: Floats) -> NDArray[np.bool_]:
    if excerpt.windows is None:
        return np.ones(len(since), dtype=np.bool_)
    chosen = np.zeros(len(since), dtype=np.bool_)
    for begin, end in excerpt.windows:
        chosen |= (since <= end) & (until >= begin)
    return chosen


def _name(what: str, process: int, track: int, name: str) -> str:
    return json.dumps({"ph": "M", "name": what, "pid": process, "tid": track, "args": {"name": name}})


def _instances(trace: Trace, tasks: Ints, process: int) -> Iterator[str]:
    column = trace.tasks
    serves: dict[int, set[str]] = {}
    for instance, role in set(zip(column.instance[tasks].tolist(), column.role[tasks].tolist(), strict=True)):
        if instance >= 0:
            serves.setdefault(instance, set()).add(_ROLES[role])
    if np.any(column.instance[tasks] < 0):
        yield _name("thread_name", process, _NEVER, "cancelled before it started")
    for instance, roles in sorted(serves.items()):
        yield _name("thread_name", process, instance + 1, f"instance {instance} ({', '.join(sorted(roles))})")


def _stack(since: Sequence[float], until: Sequence[float]) -> list[int]:
    """Return a track for each interval, in order of their beginnings: the lowest that is free."""
    free: list[int] = []
    ends: list[tuple[float, int]] = []
    tracks: list[int] = []
    for begin, end in zip(since, until, strict=True):
        while ends and ends[0][0] <= begin:
            heapq.heappush(free, heapq.heappop(ends)[1])
        track = heapq.heappop(free) if free else len(ends)
        heapq.heappush(ends, (end, track))
        tracks.append(track)
    return tracks


def _queries(excerpt: Excerpt, queries: Ints, tracks: Sequence[int], process: int) -> Iterator[str]:
    """A slice per query, from its arrival to its reply."""
    column = excerpt.trace.queries
    rows = zip(
        queries.tolist(),
        tracks,
        _micro(column.arrival[queries]),
        _micro(column.reply[queries]),
        column.route[queries].tolist(),
        _flow(process, column.batch[queries]),
        strict=True,
    )
    for query, track, arrival, reply, route, flow in rows:
        mark = ',"cname":"bad"' if query in excerpt.marked else ""
        args = f',"args":{{"route":"{_ROUTES[route]}"}}' if route else ""
        yield (
            f'{{"ph":"X","pid":{process + 1},"tid":{track},"ts":{arrival},"dur":{reply - arrival:.3f},'
            f'"name":"query {query}"{mark},"bind_id":"{flow}","flow_out":true{args}}}'
        )


def _tasks(trace: Trace, tasks: Ints, process: int) -> Iterator[str]:
    """A slice per task that ran, and an instant per task that was cancelled before."""
    column = trace.tasks
    first = np.where(column.role[tasks] == Role.PARITY, 0, column.owner[tasks])
    rows = zip(
        column.owner[tasks].tolist(),
        column.role[tasks].tolist(),
        column.row[tasks].tolist(),
        column.attempt[tasks].tolist(),
        column.size[tasks].tolist(),
        column.instance[tasks].tolist(),
        _micro(column.queued[tasks]),
        _micro(np.nan_to_num(column.start[tasks])),
        _micro(column.finish[tasks]),
        column.fate[tasks].tolist(),
        trace.batches.first[first].tolist(),
        _flow(process, column.owner[tasks]),
        strict=True,
    )
    for owner, role, row, attempt, size, instance, queued, start, finish, status, begins, flow in rows:
        if role == Role.PARITY:
            name, link = f"parity {row} of group {owner}", ""
        else:
            name = f"query {begins}" if size == 1 else f"queries {begins}-{begins + size - 1}"
            link = f',"bind_id":"{flow}","flow_in":true'
            if role == Role.BACKUP:
                name += " (backup)"
        if attempt:
            name += f", copy {attempt + 1}"
        if instance < 0:
            yield f'{{"ph":"i","s":"t","pid":{process},"tid":{_NEVER},"ts":{finish},"name":"{name}"}}'
            continue
        colour = _COLOURS[Role(role)] if status == TaskStatus.DONE else _WASTED
        waited = start - queued
        args = f',"args":{{"waited_ms":{waited / 1000:.3f}}}' if waited > 0 else ""
        yield (
            f'{{"ph":"X","pid":{process},"tid":{instance + 1},"ts":{start},"dur":{finish - start:.3f},'
            f'"name":"{name}{_STATUSES[status]}"{colour}{link}{args}}}'
        )


def _parity_flows(trace: Trace, tasks: Ints, tracks: Mapping[int, int], process: int) -> Iterator[str]:
    """An arrow from the last query of each coding group to each of the group's parity tasks that ran.

    `tracks`: by query, those that are shown.
    """
    column = trace.tasks
    parity = tasks[(column.role[tasks] == Role.PARITY) & (column.instance[tasks] >= 0)]
    if not len(parity):
        return
    last = np.zeros(int(trace.batches.group.max()) + 1, dtype=np.int64)
    np.maximum.at(last, np.maximum(trace.batches.group, 0), trace.batches.first + trace.batches.size - 1)
    owners = last[column.owner[parity]]
    rows = zip(
        parity.tolist(),
        owners.tolist(),
        column.instance[parity].tolist(),
        _micro(trace.queries.dispatch[owners]),
        _micro(column.start[parity]),
        strict=True,
    )
    for task, query, instance, sent, start in rows:
        if query in tracks:
            flow = f'"cat":"parity","name":"parity","id":{process << 40 | task}'
            yield f'{{"ph":"s",{flow},"pid":{process + 1},"tid":{tracks[query]},"ts":{sent}}}'
            yield f'{{"ph":"f","bp":"e",{flow},"pid":{process},"tid":{instance + 1},"ts":{start}}}'


def _flow(process: int, batches: NDArray[np.int32]) -> list[str]:
    return [f"0x{process << 40 | batch:x}" for batch in batches.tolist()]


def _micro(seconds: Floats) -> list[float]:
    """Round to nanoseconds, so that neighbours that touch do not overlap."""
    micro: list[float] = np.round(seconds * MICRO, 3).tolist()
    return micro
