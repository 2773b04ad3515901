"""The names of percentiles: p50, p99.9, and without the point from p90 on: p999 is p99.9.

A name such as p100 could mean the 10.0th percentile or the maximum, so it is refused and never guessed at.
"""

from __future__ import annotations

import re
from decimal import Decimal

LOWEST, HIGHEST = Decimal(1), Decimal("99.999")
"""Between these percentiles the quantile function that is kept of a trial is fine enough."""
_NAME = re.compile(r"p([0-9]+)(?:\.([0-9]+))?")


def is_percentile(name: str) -> bool:
    """Say whether a name is `p` and a number, as that of a percentile is, be it one or not."""
    return _NAME.fullmatch(name.lower()) is not None


def canonical(name: str) -> str:
    """Return the one name that a percentile has in files: p50, p12.5, p999 for p99.9.

    Raises ValueError, with the nearest meaning, where the name is not that of a percentile or could mean several.
    """
    match = _NAME.fullmatch(name.lower())
    if match is None:
        raise ValueError(f"'{name}' is not a percentile, such as p50, p99 or p99.9")
    digits, decimals = match[1], match[2]
    if decimals is None and len(digits) != 2:
        if len(digits) < 3 or digits[0] != "9" or digits[-1] == "0":
            raise ValueError(f"'{name}' is not a percentile: {_nearest(digits)}")
        digits, decimals = digits[:2], digits[2:]
    percent = Decimal(f"{digits}.{decimals or 0}")
    if not LOWEST <= percent <= HIGHEST:
        raise ValueError(f"'{name}' is not a percentile that is kept: these go from p01 to p{HIGHEST}")
    decimals = (decimals or "").rstrip("0")
    return f"p{int(digits):02d}{'.' if decimals and percent < 90 else ''}{decimals}"


def known(name: object) -> object:
    """Return a percentile's one name, and anything else as it is. Raises ValueError for one that is none.

    It goes before a check against a list of metrics.
    """
    return canonical(name) if isinstance(name, str) and is_percentile(name) else name


def probability(name: str) -> float:
    """Return the share of the values that lie below a percentile: 0.999 for p999 and for p99.9. Raises ValueError."""
    return float(f"0.{canonical(name)[1:].replace('.', '')}")


def _nearest(digits: str) -> str:
    """Return what a percentile's refused digits may have been meant for."""
    number = int(digits)
    if number == 0:
        return "it would be the least value of all, and the lowest percentile is p01"
    if number < 10:
        return f"write p{number:02d} for the one above {number}% of all values, or p{number}0"
    if number == 100:
        return "it would be the largest value of all, which depends on how many there are; did you mean 'p99.9'?"
    meant = f"{str(number)[:2]}.{str(number)[2:]}".rstrip("0").rstrip(".")
    return f"{number}% is more than all; did you mean 'p{meant}'?"
