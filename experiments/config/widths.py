"""Widths: `5%` of a value, a time such as `2ms`, or a number for what is neither."""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import AfterValidator

_WIDTH = re.compile(r"([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*(%|s|ms|us)?")
MS = {"s": 1000.0, "ms": 1.0, "us": 0.001}
"""Milliseconds in each unit of time."""


def _width(text: str | float) -> str:
    """Check one width. Raises ValueError that says how to write it."""
    match = _WIDTH.fullmatch(str(text).strip())
    if match is None or not 0 < float(match[1]) < math.inf:
        raise ValueError(f"'{text}' is no width: write 5% of the value, or a time such as 2ms")
    if match[2] == "%" and float(match[1]) >= 100:
        raise ValueError(f"'{text}' must be below 100%")
    return str(text).strip()


Width = Annotated[str | float, AfterValidator(_width)]
"""`5%` of the value, a time such as `2ms`, or for what is no time a number such as 0.002."""


def parsed(width: str | float) -> tuple[float, str | None]:
    """Return the number and the unit of a width. Raises ValueError where it is none."""
    match = _WIDTH.fullmatch(_width(width))
    assert match is not None
    return float(match[1]), match[2]
