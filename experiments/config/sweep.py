"""The `sweep` of an experiment: all combinations of values; the key `a, b` changes two options together.

The values of a key are a list of plain values, or a mapping from names to values of any form, such as lists of
stragglers; a sweep point then holds the name.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.analysis.outcome import Scalar
from experiments.config.keys import Key, get, locate

Values = Sequence[Any] | Mapping[str, Any]
"""What a key takes in turn: plain values, or values of any form by their names."""
Sweep = Mapping[str, Values]
_RANGE = ("from", "to", "steps", "scale")

MOST_POINTS = 10_000
"""Sweeps with more points are rejected as mistakes."""
SWEEPABLE = ("model", "workload", "cluster", "stragglers", "corruption", "policies", "services", "sharing")


def written_out(sweep: Any) -> Any:
    """Return a sweep in which ranges, `{from: 100, to: 400, steps: 7}`, are lists; `scale: log` spaces them by ratio.

    Raises ValueError for a range that cannot be one. What is no range is returned as it is.
    """
    if not isinstance(sweep, Mapping):
        return sweep
    return {key: _values(key, each) if _is_range(each) else each for key, each in sweep.items()}


def _is_range(given: Any) -> bool:
    return isinstance(given, Mapping) and any(name in _RANGE for name in given)


def _values(key: str, given: Mapping[str, Any]) -> list[int | float]:
    unknown = [name for name in given if name not in _RANGE]
    low, high, count, scale = given.get("from"), given.get("to"), given.get("steps"), given.get("scale", "linear")
    ends = [one for one in (low, high) if isinstance(one, int | float) and not isinstance(one, bool)]
    if unknown or len(ends) < 2 or not isinstance(count, int) or isinstance(count, bool):
        raise ValueError(f"'{key}': a range looks like {{from: 100, to: 400, steps: 7}}, and may have scale: log")
    if not 2 <= count <= MOST_POINTS or not all(map(math.isfinite, ends)):
        raise ValueError(f"'{key}': a range has 2 to {MOST_POINTS} steps between two finite numbers")
    if scale not in ("linear", "log"):
        raise ValueError(f"'{key}': the scale of a range is linear or log")
    first, last = ends
    if scale == "log" and min(ends) <= 0:
        raise ValueError(f"'{key}': a range with scale: log lies above 0")
    shares = [index / (count - 1) for index in range(count)]
    if scale == "log":
        found = [first * (last / first) ** share for share in shares]
    else:
        found = [first + (last - first) * share for share in shares]
    found = [first, *(float(f"{one:.6g}") for one in found[1:-1]), last]
    whole = all(isinstance(one, int) for one in ends) and all(float(one).is_integer() for one in found)
    return [int(one) for one in found] if whole else found


def keys(key: str, values: Values) -> list[str]:
    """Return the keys that one list changes: those between commas if its items are lists, else the one key."""
    together = any(isinstance(value, (list, tuple)) for value in values)
    return [part.strip() for part in key.split(",")] if together else [key]


def swept(sweep: Sweep) -> list[str]:
    """Return every key that is swept."""
    return [one for key, values in sweep.items() for one in keys(key, values)]


def steps(key: str, values: Values) -> list[dict[str, Scalar]]:
    """Return the values that each item of one list sets, as {key: value}, and {key: name} where values have names."""
    names = keys(key, values)
    return [dict(zip(names, _row(value), strict=True)) for value in values]


def points(sweep: Sweep) -> list[dict[str, Scalar]]:
    """Return the points in order, each as {key: value}; one empty point for an empty sweep."""
    lists = [steps(key, values) for key, values in sweep.items()]
    return [{key: value for step in chosen for key, value in step.items()} for chosen in itertools.product(*lists)]


def settings(sweep: Sweep, point: Mapping[str, Scalar]) -> dict[str, Any]:
    """Return what a point sets, as {key: value}: in place of a name, the value that has it."""
    found: dict[str, Any] = dict(point)
    for key, values in sweep.items():
        if isinstance(values, Mapping) and key in found:
            found[key] = values[found[key]]
    return found


def problems(sweep: Sweep, data: dict[str, Any]) -> Iterator[tuple[Key, str]]:
    """Yield mistakes in the keys and lists, given the experiment's data; values are not validated here."""
    taken: dict[str, str] = {}
    good = True
    for key, values in sweep.items():
        for problem in _of_list(data, key, values):
            good = False
            yield problem
        for one in dict.fromkeys(keys(key, values)):
            if taken.setdefault(one, key) != key:
                good = False
                yield ("sweep", key), f"'{one}' is already swept by '{taken[one]}'"
    if good and math.prod(len(values) for values in sweep.values()) > MOST_POINTS:
        yield ("sweep",), f"has more than {MOST_POINTS} points"


def _row(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else [value]


def _of_list(data: dict[str, Any], key: str, values: Values) -> Iterator[tuple[Key, str]]:
    at: Key = ("sweep", key)
    if isinstance(values, Mapping):
        if not values:
            yield at, "needs at least one value"
        yield from ((at, says) for says in _of_key(data, key))
        return
    names = keys(key, values)
    if len(set(names)) < len(names):
        yield at, "names a key twice"
    if not values:
        yield at, "needs at least one value"
    rows: list[Sequence[Any]] = []
    for index, value in enumerate(values):
        row = _row(value)
        if len(row) != len(names):
            yield (*at, index), f"must be a list of {len(names)} values, one for each of {', '.join(names)}"
        elif not all(isinstance(one, (bool, int, float, str)) for one in row):
            yield (*at, index), "must be a number, text, true or false"
        elif any(_same(row, other) for other in rows):
            yield (*at, index), f"{', '.join(str(one) for one in row)} is given twice"
        else:
            rows.append(row)
    for column, name in enumerate(names):
        yield from ((at, says) for says in _of_key(data, name, [row[column] for row in rows]))


def _same(row: Sequence[Any], other: Sequence[Any]) -> bool:
    return all(one == two and type(one) is type(two) for one, two in zip(row, other, strict=True))


def _of_key(data: dict[str, Any], key: str, values: Sequence[Any] = ()) -> Iterator[str]:
    """Yield why a key cannot take these plain values, or values of any form if there are none."""
    where = locate(data, key)
    if where is None:
        near = difflib.get_close_matches(key, _all_keys(data), n=1)
        yield f"there is no '{key}' to sweep" + (f"; did you mean '{near[0]}'?" if near else "")
    elif (
        where[0] not in SWEEPABLE
        or where == ("policies",)
        or where[-1] == "kind"
        or (where[0], where[-1]) == ("policies", "name")
    ):
        yield f"'{key}' cannot be swept; a sweep changes options under {', '.join(SWEEPABLE)}"
    elif where[0] == "services" and "target" in where:
        yield f"'{key}' cannot be swept: it is asked of results and changes none; another one needs no other run"
    elif _is_group(get(data, where)) and not all(isinstance(value, str) for value in values):
        yield f"'{key}' is not a single value; sweep one of its options"


def _names_of_policies(data: dict[str, Any]) -> list[Key]:
    """Return where the policies get their names, by which tables compare points."""
    return [("policies",), *(("policies", index, "name") for index in range(len(data["policies"])))]


def _is_group(value: Any) -> bool:
    """Return whether no number can replace a value: a list or a mapping; one with a `kind` may accept a number."""
    return isinstance(value, list) or (isinstance(value, dict) and "kind" not in value)


def _all_keys(data: Any, prefix: str = "") -> Iterator[str]:
    """Yield every path to a plain value below `data`, as written in a sweep."""
    items: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(data, dict):
        items = iter(data.items())
    elif isinstance(data, list):
        items = iter(enumerate(data))
    else:
        yield prefix
    for key, value in items:
        yield from _all_keys(value, f"{prefix}.{key}" if prefix else str(key))
