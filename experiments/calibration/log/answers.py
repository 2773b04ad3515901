"""Reads a log of answers: which host served each, from when to when."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from experiments.analysis.dependence import host_column, time_column
from sim.errors import ParmError
from sim.files import UNITS, Floats, Table, read_table
from sim.stragglers.replay import natural
from sim.trace import Ints

Mark = Literal["start", "end", "arrival"]
"""What a time in a log marks."""
LEAST = 500
"""Answers without which nothing is estimated."""
MISFITS = 0.01
"""Largest share of answers that may contradict one service at a time."""


@dataclass(frozen=True)
class Columns:
    """Where things are in a log."""

    latency: str = "latency"
    unit: str = "s"
    time: str | None = None
    """Default: the column that is named like a time."""
    time_unit: str = "s"
    """Unit of numbers in the columns of times."""
    mark: Mark = "start"
    host: str | None = None
    """Default: the column that is named like a host; without one all answers are of one host."""
    arrival: str | None = None
    """A further column, with the times of arrival."""


@dataclass(frozen=True)
class Answers:
    """A log's services, ordered by host and, within each, by their start."""

    file: Path
    columns: Columns
    """With the columns that were found."""
    hosts: tuple[str, ...]
    """Names in natural order."""
    host: Ints
    """Index of each answer's host; shape (n,)."""
    start: Floats
    """Seconds after the log's first time at which its service began; shape (n,)."""
    seconds: Floats
    """Duration of its service, above 0; shape (n,)."""
    arrival: Floats | None
    """Seconds after the same first time at which its query arrived, if the log has it; shape (n,)."""
    notes: tuple[str, ...]
    """What was taken for granted."""

    def __len__(self) -> int:
        return len(self.start)

    @property
    def counts(self) -> Ints:
        """Answers of each host; shape (hosts,)."""
        return np.bincount(self.host, minlength=len(self.hosts))

    @property
    def idle(self) -> Floats:
        """Seconds since the end of the host's service before; infinite at a host's first one; shape (n,)."""
        ends = np.concatenate([[0.0], (self.start + self.seconds)[:-1]])
        first = np.diff(self.host, prepend=-1) > 0
        found: Floats = np.where(first, np.inf, np.maximum(self.start - ends, 0.0))
        return found


def read_answers(file: Path, columns: Columns) -> Answers:
    """Read a log. Raises ParmError with a sentence where it is none, has too few answers, or contradicts the model."""
    for option, unit in (("--unit", columns.unit), ("--time-unit", columns.time_unit)):
        if unit not in UNITS:
            raise ParmError(f"{option} {unit}: must be one of {', '.join(UNITS)}.")
    try:
        return _read(file.expanduser(), columns)
    except ValueError as error:
        raise ParmError(f"{error}.") from error


def _read(file: Path, columns: Columns) -> Answers:
    header = read_table(file, [columns.latency]).header
    others = [name for name in header if name not in (columns.latency, columns.arrival)]
    time = columns.time or time_column(others, columns.mark)
    if time is None:
        raise ValueError(f"{file} has no column that is named like a time: name it with --time")
    host = columns.host or host_column(others)
    table = read_table(file, [name for name in (columns.latency, time, host, columns.arrival) if name is not None])
    if len(table) < LEAST:
        raise ValueError(f"{file} has {len(table)} answers; at least {LEAST} are needed")
    latency = table.numbers(columns.latency, 0.0, "a time of at least 0") * UNITS[columns.unit]
    if not latency.all():
        raise ValueError(f"{table.where(int(np.argmin(latency)))} has a '{columns.latency}' of 0; it must be above 0")
    first, moments = table.moments(time, columns.time_unit)
    names = sorted(set(table.columns[host]), key=natural) if host else [""]
    place = {name: index for index, name in enumerate(names)}
    hosts = np.array([place[name] for name in table.columns[host]]) if host else np.zeros(len(table), dtype=np.int64)
    notes = [] if host else ["no column is named like a host (name it with --host), so all answers are one host's"]
    if columns.mark == "arrival":
        order, start, seconds = _first_come_first_served(hosts, moments, latency)
        arrival: Floats | None = moments
        notes.append(
            "the latencies contain waiting: each service is taken to begin when its query arrived or its host's "
            "answer before ended, whichever was later"
        )
    else:
        start, seconds = (moments - latency if columns.mark == "end" else moments), latency
        order = np.lexsort((start, hosts))
        arrival = None
        if columns.arrival is not None:
            earliest, arrival = table.moments(columns.arrival, columns.time_unit)
            arrival = arrival + float(earliest - first)
        notes.append(f"'{columns.latency}' is taken to be the service at the host, from its start to its end")
    found = Answers(
        file,
        Columns(columns.latency, columns.unit, time, columns.time_unit, columns.mark, host, columns.arrival),
        tuple(names),
        hosts[order],
        start[order],
        seconds[order],
        None if arrival is None else arrival[order],
        tuple(notes),
    )
    _check(found, table)
    return found


def _first_come_first_served(hosts: Ints, arrival: Floats, latency: Floats) -> tuple[Ints, Floats, Floats]:
    """Return the answers' order by host and arrival, and the start and seconds of each one's service, shape (n,).

    Raises ValueError if hosts did not answer in the order of arrival.
    """
    ends = arrival + latency
    order = np.lexsort((arrival, hosts))
    before = np.concatenate([[-np.inf], ends[order][:-1]])
    before[np.diff(hosts[order], prepend=-1) > 0] = -np.inf
    start, seconds = np.empty_like(arrival), np.empty_like(arrival)
    start[order] = np.maximum(arrival[order], before)
    seconds[order] = ends[order] - start[order]
    wrong = seconds <= 0
    if wrong.mean() > MISFITS:
        raise ValueError(
            f"{wrong.mean():.1%} of the answers ended before an earlier query's answer of the same host: the hosts "
            "serve several at once, or not in the order of arrival, so services cannot be told from waiting; log the "
            "start and the duration of each service"
        )
    return order[~wrong[order]], start, seconds


def _check(answers: Answers, table: Table) -> None:
    """Raise ValueError where hosts would have served several queries at once, or queries arrive after their start."""
    ends = np.concatenate([[0.0], (answers.start + answers.seconds)[:-1]])
    same = np.diff(answers.host, prepend=-1) == 0
    slack = 0.05 * float(np.median(answers.seconds))
    overlap = same & (answers.start < ends - slack)
    if (share := float(overlap.mean())) > MISFITS:
        named = answers.columns.host is not None
        raise ValueError(
            f"{share:.1%} of the answers began while {'their' if named else 'the one'} host served another one, but a "
            "host serves one at a time here. If times are those of arrival, and latencies contain waiting, say "
            "'--at arrival'; if times are those of completion, '--at end'; are --unit and --time-unit right"
            f"{'' if named else '; and name the column of hosts with --host'}"
        )
    if answers.arrival is None:
        return
    if (late := float((answers.arrival > answers.start + slack).mean())) > MISFITS:
        raise ValueError(f"{late:.1%} of the answers began before their query arrived: are the columns the right ones")
    if (wait := float(np.median(answers.start - answers.arrival))) > float(np.ptp(answers.start)):
        raise ValueError(f"half of the queries waited {wait:.3g} s or longer: do arrivals and times have one clock")
