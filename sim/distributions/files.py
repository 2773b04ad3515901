"""Reading recorded times from CSV files."""

from __future__ import annotations

import csv
import difflib
import math
from array import array
from functools import lru_cache
from pathlib import Path

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
"""Seconds in each unit of time that a file may use."""


def read_times(path: Path, column: str, unit: str = "s") -> array[float]:
    """Read one column of a CSV file with a header, as seconds, in the file's order.

    Raises ValueError where the file is not such a CSV, the column is missing or a value is not a finite number >= 0.
    """
    return _read_times(path, column, unit, path.stat().st_mtime_ns)


@lru_cache(maxsize=16)  # an experiment names the same file again for each of its cells
def _read_times(path: Path, column: str, unit: str, changed: int) -> array[float]:
    del changed
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
