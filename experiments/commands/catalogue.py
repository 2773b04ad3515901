"""The text of `parm list`: kinds and sections of the YAML with their options, and the columns of tables."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from experiments.accuracy.options import Known, StudiedCode, Study, Subject
from experiments.analysis import columns
from experiments.analysis.reference import Reference
from experiments.analysis.reversals import Reversals
from experiments.config.messages import fields_in_yaml, shown
from experiments.config.schema import Backup, Experiment, Model, Workload
from experiments.config.services import Service
from sim import recorded
from sim.cluster import Cluster, Prices
from sim.errors import ParmError
from sim.kinds import Kind, Options, about
from sim.network import Network as ClusterNetwork
from sim.policies.coded import LastResort
from sim.policies.hedged import Hedging
from sim.policies.replication import Vote
from sim.scalers import Cold

_SECTIONS: dict[str, type[Options]] = {
    "experiment": Experiment,
    "model": Model,
    "model.backup": Backup,
    "workload": Workload,
    "cluster": Cluster,
    "cluster.network": ClusterNetwork,
    "cluster.prices": Prices,
    "scaler.cold": Cold,
    "replication.vote": Vote,
    "coded.hedge": Hedging,
    "coded.backup": LastResort,
    "services": Service,
    "reference": Reference,
    "reversals": Reversals,
    "study": Study,
    "study.models": Subject,
    "study.codes": StudiedCode,
    "study.reference": Known,
}
"""Parts of the YAML that are not families of kinds."""
_WORDS: dict[Any, str] = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    Path: "path",
    Any: "anything",
}
FEW_SHARED = 4
"""Fewer options of a whole family than this are listed at each of its members."""
_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "min_length": "at least", "max_length": "at most"}


def families() -> dict[str, type[Kind]]:
    """Return every family of kinds that has members, by name, sorted."""
    found: dict[str, type[Kind]] = {}
    waiting: list[type[Kind]] = Kind.__subclasses__()
    while waiting:
        candidate = waiting.pop()
        waiting.extend(candidate.__subclasses__())
        if "family" in vars(candidate) and candidate.members():
            known = found.get(candidate.family)
            if known is None or issubclass(known, candidate):
                found[candidate.family] = candidate
    return dict(sorted(found.items()))


def catalogue(wanted: str | None = None) -> str:
    """Describe all families and sections, one of them, one kind, or the possible values of a key.

    Other names are those of records, whose card it is, and of columns and tables, as `columns.find` has them. Raises
    ParmError where there is nothing of that name.
    """
    known = families()
    if wanted is None:
        parts = [_section(name, options) for name, options in _SECTIONS.items()]
        return "\n\n".join([*parts, *(_family(name, family) for name, family in known.items()), _records()])
    name = wanted.replace("_", " ").replace("-", " ").lower()
    name = next((n for n in (*_SECTIONS, *known) if name in (n, f"{n}s", f"{n[:-1]}ies", f"{n}es")), name)
    if name in _SECTIONS and name not in known:
        return _section(name, _SECTIONS[name])
    if name in known:
        return _family(name, known[name])
    members = [
        _member(kind, member, family)
        for family, base in known.items()
        for kind, member in base.members().items()
        if kind == wanted
    ]
    if members:
        return "\n\n".join(members)
    family = _family_of_key(name.replace(" ", "_"))
    if family in known:
        return _family(family, known[family])
    if found := _card(wanted) if wanted in recorded.CARDS else columns.find(wanted):
        return found
    names = [*_SECTIONS, *known, *recorded.CARDS, *(kind for base in known.values() for kind in base.members())]
    names += [name for table in columns.TABLES for column in table.columns for name in (table.name, *column.names)]
    near = difflib.get_close_matches(name, names, n=1)
    raise ParmError(
        f"there is nothing called '{wanted}'{f' (did you mean {near[0]!r}?)' if near else ''}; "
        f"there are the families {', '.join(known)}, and 'column'."
    )


def _records() -> str:
    """Return a line for each record that comes with parm."""
    lines = [f"  {name}: {card.about}" for name, card in recorded.CARDS.items()]
    return "\n".join([f"RECORDS ({len(lines)}): arrivals and slowness of kind 'recorded', by name", *lines])


def _card(name: str) -> str:
    card = recorded.CARDS[name]
    where = "workload.arrivals" if name in recorded.ARRIVALS else "stragglers"
    return "\n".join(
        [
            f"{name}: {card.about}",
            f"    use: {where}, as {{kind: recorded, name: {name}}}",
            f"    source: {card.source}",
            f"    licence: {card.licence}",
            f"    what it cannot say: {card.limits}",
        ]
    )


def _family_of_key(key: str) -> str:
    """Return the family or type of a key such as `queue` or `cluster.queue`; empty if there is no such key."""
    section, _, option = key.rpartition(".")
    sections = [_SECTIONS[section]] if section in _SECTIONS else [] if section else _SECTIONS.values()
    fields = [found for options in sections if (found := fields_in_yaml(options).get(option)) is not None]
    return type_words(fields[0].annotation).removeprefix("list of ") if fields else ""


def meaning(options: type[BaseModel]) -> str:
    """Return the first line of a class's docstring."""
    return (options.__doc__ or "").strip().partition("\n")[0]


def option_lines(options: type[BaseModel]) -> list[str]:
    """Return a line per option: its name, type, default and meaning."""
    lines = []
    for name, field in fields_in_yaml(options).items():
        if name == "kind":
            continue
        said = _about(options, name, field)
        lines.append(f"{name}: {_type(field)}{_default(field)}" + (f" - {said}" if said else ""))
    return lines


def _about(options: type[BaseModel], name: str, field: FieldInfo) -> str:
    """Return an option's description, from a base class if the class only changes the default."""
    own = next((own for own, one in options.model_fields.items() if name in (own, one.alias)), name)
    return " ".join((field.description or about(options, own)).split())


def type_words(annotation: Any) -> str:
    """Return an option's type in words, such as `list of number` or `single_queue | random`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in _WORDS:
        words = _WORDS[annotation]
    elif origin is typing.Annotated:
        words = _with_bounds(type_words(arguments[0]), arguments[1:])
    elif origin in (typing.Union, types.UnionType):
        words = " or ".join(dict.fromkeys(type_words(one) for one in arguments if one is not type(None)))
    elif origin is typing.Literal:
        words = " | ".join(str(argument) for argument in arguments)
    elif origin is dict:
        words = f"mapping of {type_words(arguments[0])} to {type_words(arguments[1])}"
    elif origin is tuple and Ellipsis not in arguments:
        words = f"list of {len(arguments)} ({', '.join(type_words(item) for item in arguments)})"
    elif origin in (tuple, list, set, frozenset):
        words = f"list of {type_words(arguments[0])}"
    elif isinstance(annotation, type) and issubclass(annotation, Kind):
        words = annotation.family
    elif annotation in _SECTIONS.values():
        words = next(name for name, section in _SECTIONS.items() if section is annotation)
    else:
        words = str(getattr(annotation, "__name__", annotation)).lower()
    return words


def _section(name: str, options: type[Options]) -> str:
    return "\n".join([f"{name.upper()}: {meaning(options)}", *(f"    {line}" for line in option_lines(options))])


def _family(name: str, family: type[Kind]) -> str:
    members = family.members()
    shared = [line for line in option_lines(family) if all(line in option_lines(one) for one in members.values())]
    shared = shared if len(shared) >= FEW_SHARED else []
    every = [f"  every {name}:", *(f"    {line}" for line in shared)] if shared else []
    parts = [_member(kind, member, apart_from=shared) for kind, member in members.items()]
    return "\n".join([f"{name.upper()} ({len(members)})", *every, *parts])


def _member(kind: str, member: type[Kind], family: str = "", apart_from: Sequence[str] = ()) -> str:
    title = f"  {kind}{f' ({family})' if family else ''}: {meaning(member)}"
    return "\n".join([title, *(f"    {line}" for line in option_lines(member) if line not in apart_from)])


def _type(field: FieldInfo) -> str:
    return _with_bounds(type_words(field.annotation), field.metadata)


def _with_bounds(words: str, metadata: Sequence[Any]) -> str:
    bounds = [f"{_BOUNDS[name]} {value:g}" for item in metadata for name, value in _bounds(item)]
    return f"{words} ({', '.join(bounds)})" if bounds else words


def _bounds(item: Any) -> Iterator[tuple[str, Any]]:
    for name in _BOUNDS:
        value = getattr(item, name, None)
        if isinstance(value, (int, float)):
            yield name, value


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined and field.default_factory is None:
        return ", required"
    default = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(default, Kind):
        given = default.model_dump(mode="json", exclude_defaults=True, serialize_as_any=True, by_alias=True)
        inside = ", ".join(f"{name}: {shown(value)}" for name, value in given.items() if name != "kind")
        return f", default {default.name_in_yaml()}" + (f" ({inside})" if inside else "")
    if default is None:
        return ", optional"
    if isinstance(default, BaseModel):
        return ", default as listed there"
    if isinstance(default, (tuple, list, dict)):
        return f", default {list(default) if default else 'none'}"
    return f", default {shown(default)}"
