"""Reads users' tables, CSV files or JSON lines: named columns as text, numbers or times."""

from __future__ import annotations

import codecs
import csv
import difflib
import gzip
import io
import json
import math
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Unit = Literal["s", "ms", "us", "ns"]
"""A unit of time in a file."""

UNITS: dict[str, float] = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
"""Seconds in each `Unit`."""

_DELIMITERS = ",\t;|"
_APPLE_DOUBLE = b"\x00\x05\x16\x07"
_LONE = re.compile("[\udc80-\udcff]")
_EXACT = 2.0**53
"""Whole numbers below it are exact as floats."""
_ISO = re.compile(
    r"(\d{4})[-/](\d\d)[-/](\d\d)[Tt ] ?(\d\d):(\d\d)(?::(\d\d)(?:[.,](\d+))?)? ?(Z|z|UTC|GMT|[+-]\d\d(?::?\d\d)?)?"
)


@dataclass(frozen=True)
class Table:
    """Some columns of a table in a file, as text."""

    path: Path
    header: tuple[str, ...]
    """Names of all columns in the file, whether requested or not."""
    lines: Sequence[int]
    """Line number of each row in the file, from 1; shape (rows,)."""
    columns: dict[str, list[str]]
    """The requested columns that exist, each with one text per row; a missing value is empty."""

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, row: int) -> str:
        """Return the location of a row, such as `line 3 of log.csv`."""
        return f"line {self.lines[row]} of {self.path}"

    def numbers(self, column: str, least: float = -math.inf, belongs: str = "a number") -> Floats:
        """Return a column as finite numbers, shape (rows,). Raises ValueError at the first invalid or too low one."""
        texts = self.columns[column]
        try:
            values = np.array([float(text) for text in texts])
        except ValueError:
            values = np.array([_number(text) for text in texts])
        if (bad := np.flatnonzero(~(np.isfinite(values) & (values >= least)))).size:
            raise ValueError(f"{self.where(bad[0])} has {_shown(texts[bad[0]])} where {belongs} belongs")
        return values

    def moments(self, column: str, unit: str) -> tuple[Decimal, Floats]:
        """Return a column's earliest time, exactly and in seconds, and each row's seconds after it; shape (rows,).

        A time is a number in `unit` with any number of digits, or an ISO 8601 date and time. Differences are taken
        before rounding to a float. Raises ValueError at the first invalid text, and if only some have a time zone.
        """
        texts = self.columns[column]
        if any(_ISO.fullmatch(text.strip()) for text in texts[:1]):
            exact, scale = self._dates(texts), Decimal(1)
        else:
            whole = all(text.isdecimal() for text in texts)
            values = np.array([float(text) for text in texts]) if whole else np.array([math.inf])
            if np.all(values < _EXACT):
                lowest = values.min()
                return Decimal(int(lowest)) * _scale(unit), (values - lowest) * UNITS[unit]
            exact, scale = self._decimals(texts), _scale(unit)
        first = min(exact)
        factor = float(scale)
        return first * scale, np.array([float(moment - first) * factor for moment in exact])

    def _decimals(self, texts: Sequence[str]) -> list[Decimal]:
        found = []
        for row, text in enumerate(texts):
            try:
                moment = Decimal(text.strip())
            except InvalidOperation:
                moment = Decimal("nan")
            if not moment.is_finite() or not math.isfinite(float(moment)):
                raise ValueError(
                    f"{self.where(row)} has {_shown(text)} where a time belongs: a number, or a date and time such as "
                    "2024-05-01T12:00:00.5Z"
                )
            found.append(moment)
        return found

    def _dates(self, texts: Sequence[str]) -> list[Decimal]:
        found = []
        zoned: bool | None = None
        for row, text in enumerate(texts):
            match = _ISO.fullmatch(text.strip())
            try:
                if match is None:
                    raise ValueError
                moment = _seconds_of(match)
            except ValueError:
                raise ValueError(
                    f"{self.where(row)} has {_shown(text)} where a date and time belongs, as in the rows before it"
                ) from None
            zone = match[8] is not None
            if zone != (zoned := zone if zoned is None else zoned):
                raise ValueError(
                    f"{self.where(row)} has {'a' if zone else 'no'} time zone, unlike the rows before it: give one in "
                    "all rows or in none"
                )
            found.append(moment)
        return found


def read_table(path: Path, required: Sequence[str], optional: Iterable[str] = ()) -> Table:
    """Read named columns of a CSV file with a header, or of JSON lines.

    Text is UTF-8, UTF-16 or UTF-32, with or without a byte-order mark, otherwise Latin-1; gzip files are unpacked. The
    delimiter is the most frequent of comma, tab, semicolon and bar in the header. Spaces around names and values, and
    empty lines, are ignored.

    Raises ValueError with the file, and if possible the line, if it is no such table, lacks a required column or has no
    rows.
    """
    wanted = [*required, *optional]
    try:
        with _text(path) as text:
            first = next((line for line in text if line.strip()), "")
            text.seek(0)
            if first.lstrip().startswith("["):
                raise ValueError(f"{path} is a JSON list; write one object on each line (JSON lines)")
            rows = _json_rows(path, text) if first.lstrip().startswith("{") else _csv_rows(path, text)
            header, places = next(rows)[1], array("q")
            names = [name for name in dict.fromkeys(wanted) if name in header]
            for name in required:
                if name not in header:
                    raise ValueError(f"{path} has no column '{name}'{_hint(name, header)}; it has {_listed(header)}")
            for name in names:
                if header.count(name) > 1:
                    raise ValueError(f"{path} has two columns '{name}'")
            index = [header.index(name) for name in names]
            cells: list[list[str]] = [[] for _ in names]
            for line, row in rows:
                places.append(line)
                for column, at in zip(cells, index, strict=True):
                    column.append(row[at] if at < len(row) else "")
    except UnicodeError as error:
        raise ValueError(f"{path} is not text: {error}") from error
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not places:
        raise ValueError(f"{path} has a header but no rows")
    return Table(path, tuple(header), places, dict(zip(names, cells, strict=True)))


def read_times(path: Path, column: str, unit: str = "s") -> Floats:
    """Return one column of durations in seconds, shape (rows,), in the file's order; cached and therefore read-only.

    Raises ValueError as `read_table` does, and if a value is not a finite number >= 0.
    """
    return _read_times(path, column, unit, stamp(path))


def read_moments(path: Path, column: str, unit: str = "s") -> tuple[Decimal, Floats]:
    """Return a column's earliest time and each row's seconds after it, as `Table.moments` does."""
    return _read_moments(path, column, unit, stamp(path))


def stamp(path: Path) -> tuple[int, int]:
    """Return a key that changes when the file is rewritten. Raises ValueError if there is no file."""
    try:
        found = path.stat()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    return found.st_mtime_ns, found.st_size


def moment(text: str, unit: str) -> Decimal:
    """Return one time as `Table.moments` reads it, in seconds. Raises ValueError if it is invalid."""
    try:
        return Table(Path(), (), [1], {"": [text]}).moments("", unit)[0]
    except ValueError:
        raise ValueError(f"{_shown(text)} is no time: neither a number nor a date and time") from None


@lru_cache(maxsize=16)  # all cells of an experiment read the same file
def _read_times(path: Path, column: str, unit: str, _stamp: tuple[int, int]) -> Floats:
    table = read_table(path, [column])
    seconds: Floats = table.numbers(column, 0.0, "a time of at least 0") * UNITS[unit]
    seconds.flags.writeable = False
    return seconds


@lru_cache(maxsize=16)
def _read_moments(path: Path, column: str, unit: str, _stamp: tuple[int, int]) -> tuple[Decimal, Floats]:
    first, seconds = read_table(path, [column]).moments(column, unit)
    seconds.flags.writeable = False
    return first, seconds


@contextmanager
def _text(path: Path) -> Iterator[io.TextIOWrapper]:
    """Open a file as text in its detected encoding; gzip files are unpacked."""
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        binary = gzip.GzipFile(fileobj=raw) if packed else raw
        start = binary.read(4096)
        binary.seek(0)
        # A byte that is not UTF-8 is kept as a lone surrogate, which `_clean` turns into Latin-1.
        with io.TextIOWrapper(binary, _encoding(path, start), errors="surrogateescape", newline="") as text:
            yield text


def _encoding(path: Path, start: bytes) -> str:
    for mark, name in (
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if start.startswith(mark):
            return name
    if start.startswith(_APPLE_DOUBLE):
        raise ValueError(
            f"{path} is not a table but a metadata file of macOS (AppleDouble); name the file without '._'"
        )
    if b"\0" not in start:
        return "utf-8-sig"
    if b"\0" not in start[::2]:
        return "utf-16-le"
    if b"\0" not in start[1::2]:
        return "utf-16-be"
    raise ValueError(f"{path} is not text, so it is neither a CSV file nor JSON lines")


def _clean(text: str) -> str:
    text = text.strip()
    return text if text.isascii() else _LONE.sub(lambda byte: chr(ord(byte[0]) - 0xDC00), text)


def _csv_rows(path: Path, text: io.TextIOWrapper) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of the header and of every row."""
    first = next((line for line in text if line.strip()), "")
    text.seek(0)
    limit = csv.field_size_limit(2**31 - 1)  # a log may hold whole prompts
    try:
        rows = csv.reader(text, delimiter=max(_DELIMITERS, key=first.count), skipinitialspace=True)
        try:
            for row in rows:
                if row:
                    yield rows.line_num, [_clean(cell) for cell in row]
        except csv.Error as error:
            raise ValueError(f"line {rows.line_num} of {path} is not CSV: {error}") from error
    finally:
        csv.field_size_limit(limit)
    if not first:
        yield 0, []


def _json_rows(path: Path, text: io.TextIOWrapper) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of the first object's keys and of every object; numbers keep their digits."""
    header: list[str] | None = None
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)
        except (ValueError, RecursionError) as error:
            says = error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"
            raise ValueError(f"line {number} of {path} is not JSON: {says}") from error
        if not isinstance(found, dict):
            raise ValueError(f"line {number} of {path} is not a JSON object, as the lines before it are")
        if header is None:
            header = list(found)
            yield number, [_clean(name) for name in header]
        cells = (found.get(name) for name in header)
        yield (
            number,
            ["" if cell is None else _clean(cell if isinstance(cell, str) else json.dumps(cell)) for cell in cells],
        )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _scale(unit: str) -> Decimal:
    return Decimal(str(UNITS[unit]))


def _seconds_of(match: re.Match[str]) -> Decimal:
    """Return the seconds since 1970 of an ISO date and time. Raises ValueError for an invalid date."""
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    since = datetime(year, month, day, hour, minute, second, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    zone = (match[8] or "").replace(":", "")
    ahead = 0
    if zone[:1] in ("+", "-"):
        ahead = int(zone[0] + "1") * (int(zone[1:3]) * 3600 + int(zone[3:5] or 0) * 60)
    return Decimal(since // timedelta(seconds=1) - ahead) + Decimal(f"0.{match[7] or 0}")


def _hint(name: str, header: Sequence[str]) -> str:
    folded = {known.casefold(): known for known in header}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    return f" (did you mean '{folded[near[0]]}'?)" if near else ""


def _listed(header: Sequence[str]) -> str:
    return (
        ", ".join(_shown(name)[1:-1] for name in header[:20]) + (", ..." if len(header) > 20 else "")
        if header
        else "none"
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
