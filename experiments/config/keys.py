"""Dotted keys such as `policies.coded.k`, by which `sweep` and `--set` name an option."""

from __future__ import annotations

import re
from typing import Any

Key = tuple[str | int, ...]
"""Path to a value: a mapping's key or a list's index for each level."""


FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Valid names of run directories."""


def spell(key: Key) -> str:
    """Return the key as a user writes it."""
    return ".".join(str(part) for part in key)


def get(data: Any, key: Key) -> Any:
    """Return the value at `key`, which must exist."""
    for part in key:
        data = data[part]
    return data


def locate(data: Any, dotted: str) -> Key | None:
    """Return the path of the dotted key in `data`, or None if there is no such value.

    An item of a list is named by its index, or by its `name`, or by its `kind` if it has no `name`.
    """
    found: list[str | int] = []
    for part in dotted.split("."):
        step = _step(data, part)
        if step is None:
            return None
        found.append(step)
        data = data[step]
    return tuple(found)


def put(data: Any, dotted: str, value: Any) -> Key:
    """Set the value of the dotted key in `data` and return its path.

    Missing mappings on the path are created; the bare name of a kind becomes a mapping. Raises ValueError if a list on
    the path has no such item, or if a value on the path has no options.
    """
    parts = dotted.split(".")
    found: list[str | int] = []
    for number, part in enumerate(parts):
        step = _step(data, part)
        if step is None:
            if not isinstance(data, dict):
                raise ValueError(f"'{spell(tuple(found))}' has no item '{part}'")
            step = part
        found.append(step)
        if number == len(parts) - 1:
            data[step] = value
            break
        below = data.get(step) if isinstance(data, dict) else data[step]
        if below is None:
            below = {}
        elif isinstance(below, str):
            below = {"kind": below}
        elif not isinstance(below, (dict, list)):
            raise ValueError(f"'{spell(tuple(found))}' is {below}, which has no options")
        data[step] = below
        data = below
    return tuple(found)


def _step(data: Any, part: str) -> str | int | None:
    """Return the key or index that `part` means in `data`, or None."""
    if isinstance(data, dict):
        return part if part in data else None
    if not isinstance(data, list):
        return None
    if part.isdecimal():
        return int(part) if int(part) < len(data) else None
    for index, item in enumerate(data):
        if part == item or (isinstance(item, dict) and part == (item.get("name") or item.get("kind"))):
            return index
    return None
