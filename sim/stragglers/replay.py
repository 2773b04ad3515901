"""Slowness as it was recorded on real machines."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Literal

from pydantic import PrivateAttr, ValidationInfo, field_validator, model_validator

from sim.kinds import find_file
from sim.stragglers.base import Effect, Setting, Straggler
from sim.stragglers.timeline import effect_of

Pieces = list[tuple[float, float]]


class Replay(Straggler):
    """Replay recorded slowdowns: a CSV with columns time (seconds), factor and, if there are several, instance."""

    kind: Literal["replay"] = "replay"
    file: Path
    """The CSV. Each row's factor holds until the instance's next row; the record is repeated when it ends."""
    aligned: bool = False
    """Whether all instances start at the record's beginning; otherwise each starts at a moment drawn for the trial."""

    _recorded: list[Pieces] = PrivateAttr(default_factory=list)

    @field_validator("file")
    @classmethod
    def _found(cls, file: Path, info: ValidationInfo) -> Path:
        return find_file(file, info.context)

    @model_validator(mode="after")
    def _read(self) -> Replay:
        self._recorded.extend(read_record(self.file))
        return self

    def attach(self, setting: Setting) -> Effect:
        """Integrate the work over the record."""
        instances = range(len(setting.pools))
        return effect_of([self._pieces(setting, instance) for instance in instances])

    def _pieces(self, setting: Setting, instance: int) -> Iterator[tuple[float, float]]:
        record = self._recorded[instance % len(self._recorded)]
        length = 0.0
        for seconds, _ in record:  # `sum` rounds differently from Python 3.12 on
            length += seconds
        skip = 0.0
        if not self.aligned:
            skip = float(setting.streams.generator("replay", setting.number, instance).uniform(0.0, length))
        end = -skip
        for seconds, factor in cycle(record):
            end += seconds
            if end > 0.0:
                yield end, factor


def read_record(file: Path) -> list[Pieces]:
    """Read a recorded trace: for each instance its pieces as (seconds, factor); the last piece lasts as the mean one.

    Raises ValueError, in one sentence with the line, where the file is not such a record.
    """
    rows: dict[str, list[tuple[float, float]]] = {}
    with file.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        if not {"time", "factor"} <= set(reader.fieldnames or ()):
            raise ValueError(
                f"{file} needs columns 'time' and 'factor', but has {', '.join(reader.fieldnames or ['none'])}"
            )
        for row in reader:
            where = f"{file}, line {reader.line_num}"
            try:
                time, factor = float(row["time"]), float(row["factor"])
            except (TypeError, ValueError):
                raise ValueError(f"{where}: 'time' and 'factor' have to be numbers") from None
            if not (math.isfinite(time) and math.isfinite(factor) and factor > 0):
                raise ValueError(f"{where}: 'time' has to be finite and 'factor' above zero")
            record = rows.setdefault(row.get("instance") or "", [])
            if record and time <= record[-1][0]:
                raise ValueError(f"{where}: times have to increase for each instance")
            record.append((time, factor))
    if not rows or min(len(record) for record in rows.values()) < 2:
        raise ValueError(f"{file} needs at least two rows for each instance")
    return [_durations(rows[instance]) for instance in sorted(rows)]


def _durations(record: list[tuple[float, float]]) -> Pieces:
    times = [time for time, _ in record]
    times.append(times[-1] + (times[-1] - times[0]) / (len(times) - 1))
    return [(times[i + 1] - times[i], factor) for i, (_, factor) in enumerate(record)]
