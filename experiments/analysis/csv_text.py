"""The one writer of CSV files."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable


def as_csv(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a table as CSV: a header, lines that end in a line feed, None and NaN as empty cells."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(["" if _missing(value) else value for value in row] for row in rows)
    return text.getvalue()


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
