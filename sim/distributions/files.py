"""Recorded times in CSV files: reading a column, and drawing from it."""

from __future__ import annotations

import csv
import difflib
import math
from array import array
from functools import lru_cache
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import PrivateAttr, ValidationInfo, field_validator, model_validator

from sim.distributions.base import Distribution, Floats
from sim.kinds import find_file

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
"""Seconds in each unit of time that a file may use."""


def read_times(path: Path, column: str, unit: str = "s") -> array[float]:
    """Read one column of a CSV file with a header, as seconds, in the file's order.

    Raises ValueError where the file is not such a CSV, the column is missing or a value is not a finite number >= 0.
    """
    return _read_times(path, column, unit, path.stat().st_mtime_ns)


@lru_cache(maxsize=16)  # an experiment names the same file again for each of its cells
def _read_times(path: Path, column: str, unit: str, changed: int) -> array[float]:
    values = array("d")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            header = [name.strip() for name in next(rows, [])]
            if column not in header:
                near = difflib.get_close_matches(column, header, n=1)
                hint = f" (did you mean '{near[0]}'?)" if near else ""
                raise ValueError(f"{path} has no column '{column}'{hint}; it has {', '.join(header) or 'none'}")
            place = header.index(column)
            for row in rows:
                if row:
                    values.append(
                        _seconds(row[place] if place < len(row) else "", f"line {rows.line_num} of {path}", unit)
                    )
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV file: {error}") from error
    if not values:
        raise ValueError(f"{path} has a header but no rows")
    return values


def _seconds(text: str, where: str, unit: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"{where} has {text!r} where a time of at least 0 belongs")
    return value * UNITS[unit]


class Empirical(Distribution):
    """Recorded times, one column of a CSV file, drawn again with replacement."""

    kind: Literal["empirical"] = "empirical"
    file: Path
    """A CSV file with a header."""
    column: str
    """The column that holds the times."""
    unit: Literal["s", "ms", "us"] = "s"
    """The unit of the column."""

    _sorted: array[float] = PrivateAttr()

    @field_validator("file")
    @classmethod
    def _found(cls, file: Path, info: ValidationInfo) -> Path:
        return find_file(file.expanduser(), info.context).absolute()

    @model_validator(mode="after")
    def _read(self) -> Self:
        self._sorted = array("d", sorted(read_times(self.file, self.column, self.unit)))
        return self

    @property
    def values(self) -> Floats:
        """The recorded times in seconds, sorted, shape (recorded,)."""
        return np.frombuffer(self._sorted)

    def sample(self, generator: np.random.Generator, n: int) -> Floats:
        """Draw `n` of the recorded values with replacement, by the inverse CDF; shape (n,)."""
        values = self.values
        drawn: Floats = values[np.minimum((generator.random(n) * len(values)).astype(np.intp), len(values) - 1)]
        return drawn

    def mean(self) -> float:
        """Return the mean of the recorded values, in seconds."""
        return float(self.values.mean())

    def cdf(self, x: Floats) -> Floats:
        """Return the recorded share of values up to x, shape of x."""
        return np.searchsorted(self.values, x, side="right") / len(self.values)

    def quantiles(self, p: Floats) -> Floats:
        """Return recorded values, shape of p."""
        found: Floats = np.quantile(self.values, p, method="inverted_cdf")
        return found

    def mean_up_to(self, x: float) -> float:
        """Return E[X; X <= x]."""
        values = self.values
        return float(values[: np.searchsorted(values, x, side="right")].sum() / len(values))
