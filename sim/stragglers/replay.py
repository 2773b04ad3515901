"""Replay of slowdowns recorded on real machines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from functools import lru_cache
from itertools import cycle
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import PrivateAttr, ValidationInfo, field_validator, model_validator

from sim.files import Unit, moment, read_table, stamp
from sim.kinds import find_file
from sim.stragglers.base import Effect, Setting, Straggler
from sim.stragglers.timeline import SHORTEST, effect_of

Pieces = list[tuple[float, float]]
"""(seconds, factor) of consecutive pieces of time."""


class Replay(Straggler):
    """Replay recorded slowdowns from a table with columns time, factor and, for several instances, instance."""

    kind: Literal["replay"] = "replay"
    file: Path
    """CSV file or JSON lines. Each factor holds until the instance's next row; the record repeats at its end. Recorded
    instances are assigned in natural order (2 before 10) to instances 0, 1, ..., cyclically if the cluster has more."""
    unit: Unit = "s"
    """Unit of numbers in column `time`; not used for dates."""
    aligned: bool = False
    """Whether all instances are replayed on the record's common clock, from its earliest time on; otherwise each starts
    at a random time of its record in each trial."""
    origin: int | float | str | None = None
    """With `aligned`: value of column `time` at simulated time 0; default: the record's earliest time."""

    _record: Record = PrivateAttr()

    @field_validator("file")
    @classmethod
    def _found(cls, file: Path, info: ValidationInfo) -> Path:
        return find_file(file, info.context)

    @model_validator(mode="after")
    def _read(self) -> Replay:
        self._record = read_record(self.file, self.unit)
        if self.origin is not None and not self.aligned:
            raise ValueError("origin: needs 'aligned: true'; without it each instance starts at a random time")
        self._skipped()
        return self

    @property
    def recorded(self) -> tuple[str, ...]:
        """Names of the recorded instances in the order of assignment; one empty name without that column."""
        return tuple(self._record.rows)

    @property
    def first(self) -> Decimal:
        """The record's earliest time, in seconds of its own clock."""
        return self._record.first

    def attach(self, setting: Setting) -> Effect:
        """Integrate services over the record."""
        instances = range(len(setting.pools))
        return effect_of([self._pieces(setting, instance) for instance in instances])

    def _skipped(self) -> float:
        """Return the seconds of the aligned record before time 0; negative if it begins later."""
        return 0.0 if self.origin is None else float(moment(str(self.origin), self.unit) - self._record.first)

    def _pieces(self, setting: Setting, instance: int) -> Iterator[tuple[float, float]]:
        """Yield (end, factor) from time 0 on."""
        names = self.recorded
        record = self._record
        if self.aligned:
            pieces = record.aligned(names[instance % len(names)])
            skip = self._skipped() % record.length
        else:
            pieces = record.alone(names[instance % len(names)])
            length = 0.0
            for seconds, _ in pieces:  # `sum` rounds differently from Python 3.12 on
                length += seconds
            skip = float(setting.streams.generator("replay", setting.number, instance).uniform(0.0, length))
        end = -skip
        for seconds, factor in cycle(pieces):
            end += seconds
            if end > 0.0:
                yield end, factor


class Record:
    """A recorded trace of one or more instances on one clock."""

    def __init__(self, first: Decimal, rows: dict[str, Pieces]) -> None:
        self.first = first
        """The earliest time in the file, in seconds."""
        self.rows = rows
        """For each recorded instance, in natural order, its (seconds after the earliest time, factor)."""
        self.length = max(pieces[-1][0] + _mean_gap(pieces) for pieces in rows.values())
        """Seconds from the earliest time to the end of the record that ends last."""

    def alone(self, name: str) -> Pieces:
        """Return an instance's record from its own first row; the last row lasts as long as the mean one."""
        rows = self.rows[name]
        times = [*(time for time, _ in rows), rows[-1][0] + _mean_gap(rows)]
        return [(times[i + 1] - times[i], factor) for i, (_, factor) in enumerate(rows)]

    def aligned(self, name: str) -> Pieces:
        """Return an instance's record from the earliest time of all to the end of all.

        Its last row holds to the end, and on to the instance's first row in the next repetition.
        """
        rows = self.rows[name]
        times = [*(time for time, _ in rows), self.length]
        pieces = [(times[i + 1] - times[i], factor) for i, (_, factor) in enumerate(rows)]
        return [(times[0], rows[-1][1]), *pieces] if times[0] > 0 else pieces


def read_record(file: Path, unit: str = "s") -> Record:
    """Read a recorded trace with columns `time`, `factor` and optionally `instance`.

    Raises ValueError with the line if the file is not such a record.
    """
    return _read_record(file, unit, stamp(file))


@lru_cache(maxsize=16)
def _read_record(file: Path, unit: str, _stamp: tuple[int, int]) -> Record:
    table = read_table(file, ["time", "factor"], ["instance"])
    factors = table.numbers("factor")
    if (low := np.flatnonzero(factors <= 0)).size:
        raise ValueError(f"{table.where(low[0])} has a factor of {factors[low[0]]:g}; it must be above 0")
    first, times = table.moments("time", unit)
    names = table.columns.get("instance", [""] * len(table))
    rows: dict[str, Pieces] = {}
    for row, (name, time, factor) in enumerate(zip(names, times.tolist(), factors.tolist(), strict=True)):
        known = rows.setdefault(name, [])
        if known and time <= known[-1][0]:
            raise ValueError(f"{table.where(row)}: times have to increase for each instance")
        known.append((time, factor))
    for name, known in rows.items():
        of = f" for instance '{name}'" if "instance" in table.columns else ""
        if len(known) < 2:
            raise ValueError(f"{file} needs at least two rows for each instance, but has one{of}")
        if _mean_gap(known) < SHORTEST:
            raise ValueError(
                f"{file} has times that are {_mean_gap(known):.3g} s apart on average{of}; at least {SHORTEST:g} s can "
                "be simulated: is 'unit' right?"
            )
    return Record(first, {name: rows[name] for name in sorted(rows, key=natural)})


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a key that sorts the numbers in names by value: `gpu2` before `gpu10`."""
    digits = (part.lstrip("0") if part[0] in "0123456789" else part for part in re.findall(r"[0-9]+|[^0-9]+", name))
    return tuple((0, len(part), part) if part[:1] in "123456789" or not part else (1, 0, part) for part in digits)


def _mean_gap(rows: Pieces) -> float:
    return (rows[-1][0] - rows[0][0]) / (len(rows) - 1)
