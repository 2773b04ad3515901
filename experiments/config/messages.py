"""Turns pydantic's errors into sentences, each with its key."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from experiments.config.keys import Key
from sim.kinds import Kind

_LIMITS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
    "multiple_of": ("a multiple of", "multiple_of"),
}
_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "decimal": "a number",
    "finite": "a finite number",
    "string": "text",
    "bool": "true or false",
    "tuple": "a list",
    "list": "a list",
    "set": "a list",
    "dict": "a mapping",
    "model": "a mapping of options",
    "path": "a path",
    "none": "left out",
}
"""The expected value in words, by the first word of pydantic's error type."""


def sentences(error: ValidationError, data: Any, model: type[BaseModel]) -> list[tuple[Key, str]]:
    """Return a (key, sentence) for each mistake that pydantic found in `data` as `model`, in the order found."""
    by_key: dict[Key, list[tuple[str, str]]] = {}
    for details in error.errors(include_url=False):
        key, owner = _walk(details["loc"], data, model)
        by_key.setdefault(key, []).append((details["type"], _sentence(details, key, owner)))
    hinted = {
        (*key[:-1], near)
        for key, found in by_key.items()
        if found[0][0] == "extra_forbidden" and (near := found[0][1].partition("did you mean '")[2].partition("'")[0])
    }
    said: list[tuple[Key, str]] = []
    for key, found in by_key.items():
        kinds = [kind for kind, _ in found]
        if kinds == ["missing"] and key in hinted:
            continue  # the misspelt key was reported already
        if kinds == ["too_short"] and any(other[: len(key)] == key and other != key for other in by_key):
            continue  # pydantic counts only the items that were valid
        said.append((key, _join([text for _, text in found])))
    return said


def fields_in_yaml(options: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of `options` by the names that YAML uses."""
    return {field.alias or name: field for name, field in options.model_fields.items()}


def shown(value: Any) -> str:
    """Return a value as a short piece of YAML."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = f"'{value}'" if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}...{text[-1]}"


def _walk(loc: tuple[str | int, ...], data: Any, model: Any) -> tuple[Key, type[BaseModel] | None]:
    """Strip pydantic's own marks from an error's location; return the key and the options class that it belongs to."""
    key: list[str | int] = []
    here: Any = model
    owner: type[BaseModel] | None = None
    for number, part in enumerate(loc):
        options = _options(here, data)
        last = number == len(loc) - 1
        if options is not None and isinstance(part, str):
            field = fields_in_yaml(options).get(part)
            if field is None and not (isinstance(data, dict) and part in data):
                continue  # a union's branch
            owner, here = options, None if field is None else field.annotation
        elif isinstance(part, str) and not (isinstance(data, dict) and (part in data or last)):
            continue
        else:
            owner, here = None, _element(here)
        key.append(part)
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            data = None
    return tuple(key), owner


def _branches(annotation: Any) -> Iterator[Any]:
    """Yield the types that an annotation allows, with unions split into their members."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _branches(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for branch in typing.get_args(annotation):
            yield from _branches(branch)
    else:
        yield annotation


def _options(annotation: Any, data: Any) -> type[BaseModel] | None:
    """Return the class whose options `data` gives, or None if the annotation is no class of options."""
    for branch in _branches(annotation):
        if isinstance(branch, type) and issubclass(branch, BaseModel):
            if issubclass(branch, Kind) and branch.name_in_yaml() is None:
                try:
                    given = branch.from_shorthand(data)
                except ValueError:
                    return branch
                kind = given.get("kind") if isinstance(given, dict) else None
                return branch.members().get(kind, branch) if isinstance(kind, str) else branch
            return branch
    return None


def _element(annotation: Any) -> Any:
    """Return the type of a list's items or of a mapping's values."""
    for branch in _branches(annotation):
        arguments = [a for a in typing.get_args(branch) if a is not Ellipsis]
        if arguments:
            return arguments[-1]
    return None


def _sentence(details: Any, key: Key, owner: type[BaseModel] | None) -> str:
    kind: str = details["type"]
    context = details.get("ctx", {})
    given = shown(details.get("input"))
    wanted = _WANTED.get(kind.partition("_")[0])
    message: str = details["msg"]
    if kind == "missing":
        message = "is missing"
    elif kind == "extra_forbidden":
        message = _unknown_key(str(key[-1]), owner)
    elif kind in _LIMITS:
        words, name = _LIMITS[kind]
        message = f"must be {words} {_number(context[name])}, but is {given}"
    elif kind in ("too_short", "too_long"):
        words, count = ("at least", "min_length") if kind == "too_short" else ("at most", "max_length")
        items = "item" if context[count] == 1 else "items"
        message = f"needs {words} {context[count]} {items}, but has {context['actual_length']}"
    elif kind == "literal_error":
        message = f"must be {context['expected']}, but is {given}"
    elif kind == "value_error":
        message = str(context["error"])
    elif wanted is not None:
        message = f"must be {wanted}, but is {given}"
    return message


def _unknown_key(key: str, owner: type[BaseModel] | None) -> str:
    names = [] if owner is None else [name for name in fields_in_yaml(owner) if name != "kind"]
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.7)
    if near:
        return f"unknown key; did you mean '{near[0]}'?"
    return f"unknown key; known keys are {', '.join(names)}" if names else "unknown key; there are no options here"


def _number(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _join(texts: list[str]) -> str:
    """Join the errors of a union's branches: `must be a whole number or 'budget', but is 'x'`."""
    texts = list(dict.fromkeys(texts))
    split = [text.partition(", but is ") for text in texts]
    if len(texts) > 1 and all(head.startswith("must be ") and tail for head, _, tail in split):
        return f"must be {' or '.join(head.removeprefix('must be ') for head, _, _ in split)}, but is {split[0][2]}"
    return "; or it ".join(texts)


def booleans_for_numbers(given: Any, resolved: Any, key: Key = ()) -> Iterator[tuple[Key, str]]:
    """Yield an error where `given` has true or false for a number: pydantic converts it silently."""
    if isinstance(given, bool) and isinstance(resolved, (int, float)) and not isinstance(resolved, bool):
        yield key, f"must be a number, but is {shown(given)}"
    elif isinstance(given, dict) and isinstance(resolved, dict):
        for name in given.keys() & resolved.keys():
            yield from booleans_for_numbers(given[name], resolved[name], (*key, name))
    elif isinstance(given, list) and isinstance(resolved, list):
        for index, (item, taken) in enumerate(zip(given, resolved, strict=False)):
            yield from booleans_for_numbers(item, taken, (*key, index))
