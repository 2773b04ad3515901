"""Reads a YAML file into an `Experiment`; all mistakes are reported at once, each with its line."""

from __future__ import annotations

import copy
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from backends import profiles
from backends.blame import blamed
from experiments.config.keys import Key, put, spell
from sim.errors import ParmError

if TYPE_CHECKING:
    from experiments.config.schema import Experiment
    from sim.kinds import Options

MOST_BYTES = 4 * 2**20
MOST_VALUES = 200_000
"""Limit on the values in a file with aliases expanded: a few nested aliases can expand to billions."""
DEEPEST = 50
_TAG = "tag:yaml.org,2002:"
_SCALARS: dict[str, Callable[[str], Any]] = {
    "bool": lambda text: text.lower() == "true",
    "null": lambda _: None,
    "int": lambda text: int(text.replace("_", "")),
    "float": lambda text: float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan")),
    "str": str,
}


class _Yaml(yaml.SafeLoader):
    """Resolves plain scalars as YAML 1.2 does: `1e5` is a number, `on` and `2024-01-01` are text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("int", r"[-+]?[0-9][0-9_]*", "-+0123456789"),
    ("float", r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", "-+.0123456789"),
    ("merge", r"<<", "<"),
):
    _Yaml.add_implicit_resolver(
        f"{_TAG}{_tag}", re.compile(rf"^(?:{_pattern})$"), [*_first, *([""] if _tag == "null" else [])]
    )


@dataclass
class Source:
    """A file's plain data, with the line of each value."""

    path: Path
    data: Any = None
    places: dict[Key, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def place(self, key: Key) -> str:
        """Return the file and line, or the `--set`, of the value at `key` or of the closest value that contains it."""
        while key and key not in self.places:
            key = key[:-1]
        return self.places.get(key, str(self.path))

    def complain(self, key: Key, says: str) -> None:
        """Record a problem with the value at `key`."""
        self.problems.append(f"{self.place(key)}: {spell(key) + ': ' if key else ''}{says}")


_SORTS = {
    "experiment": ("an experiment", "run"),
    "bundle": ("a bundle of experiments", "run"),
    "study": ("a study of accuracy", "accuracy"),
    "calibration": ("a calibration", "calibrate"),
}
"""For each type of file its name in messages and the verb that runs it."""
AnyOptions = TypeVar("AnyOptions", bound="Options")


def load(path: Path, overrides: Sequence[str] = (), plugins: Sequence[str] = ()) -> Experiment:
    """Import the plugins, then read the experiment at `path` with `--set` overrides `a.b=value`.

    Raises ParmError with one line per problem, which names the file and line.
    """
    from experiments.config.schema import Experiment

    return load_as(Experiment, path, overrides, plugins)


def load_as(
    schema: type[AnyOptions], path: Path, overrides: Sequence[str] = (), plugins: Sequence[str] = ()
) -> AnyOptions:
    """Read the options of `schema` as `load` reads an experiment, and raise as it does."""
    source = read(path)
    for override in overrides:
        _override(source, override)
    refuse(source)
    found_sort, wanted = sort_of(source.data), sort_of(schema.model_fields)
    if found_sort is not None and found_sort != wanted:
        what, verb = _SORTS[found_sort]
        raise ParmError(f"{path}: this is {what}; run it with 'parm {verb} {path}'.")
    if wanted == "experiment":
        plugins = _remember(source, plugins)
    import_plugins(plugins, path.parent)
    return _checked(schema, source, [path.parent.resolve()])


def _remember(source: Source, plugins: Sequence[str]) -> list[str]:
    """Return the plugins that a source and its reader name, and write all of them into the source's data."""
    named = source.data.get("plugins", ()) if isinstance(source.data, dict) else ()
    if not isinstance(named, list | tuple) or not all(isinstance(one, str) for one in named):
        return [*plugins]  # which the schema will refuse
    every = list(dict.fromkeys([*named, *plugins]))
    if every:
        source.data["plugins"] = every
    return every


def load_any(
    source: Mapping[str, Any] | str | Path, overrides: Mapping[str, Any], plugins: Sequence[str] = ()
) -> Experiment:
    """Read an experiment as `load` does, from a YAML file or from plain data, with overrides by dotted key."""
    from experiments.config.schema import Experiment

    given = [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
    if not isinstance(source, Mapping):
        return load(Path(source), given, plugins)
    plain = Source(Path("experiment"), copy.deepcopy(dict(source)))
    import_plugins(_remember(plain, plugins), Path.cwd())
    for override in given:
        _override(plain, override)
    refuse(plain)
    return _checked(Experiment, plain, [])


def validated(schema: type[AnyOptions], data: Mapping[str, Any], name: str) -> AnyOptions:
    """Return options from plain data; messages call the data `name`. Raises ParmError as `load` does."""
    return _checked(schema, Source(Path(name), dict(data)), [])


def _checked(schema: type[AnyOptions], source: Source, folders: Sequence[Path]) -> AnyOptions:
    """Validate a source's data. Relative paths are searched in `folders`, the working directory and parm's profiles."""
    from pydantic import ValidationError

    from experiments.config.messages import booleans_for_numbers, sentences

    try:
        found = schema.model_validate(
            copy.deepcopy(source.data), context={"paths": [*folders, Path.cwd(), profiles.FOLDER]}
        )
    except ValidationError as error:
        for key, says in sentences(error, source.data, schema):
            source.complain(key, says)
    else:
        for key, says in booleans_for_numbers(source.data, found.resolved()):
            source.complain(key, says)
    refuse(source)
    return found


def sort_of(keys: Any) -> str | None:
    """Return the type of the file that has these keys at its top level, such as "study"; None if unknown."""
    if not isinstance(keys, dict):
        return None
    if "study" in keys:
        return "study"
    if "experiments" in keys:
        return "bundle"
    if "experiment" in keys and not keys.keys().isdisjoint(("free", "targets")):
        return "calibration"
    return None if keys.keys().isdisjoint(("workload", "cluster", "policies")) else "experiment"


def read(path: Path) -> Source:
    """Read a YAML file as plain data with the line of every value; problems with values are recorded in the result.

    Raises ParmError if the file cannot be read or is not YAML.
    """
    try:
        if path.is_dir():
            raise ParmError(f"{path}: this is a folder; name the experiment's YAML file in it.")
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise ParmError(f"{path}: there is no such file.") from error
    except OSError as error:
        raise ParmError(f"{path}: cannot be read: {error.strerror or error}.") from error
    if len(raw) > MOST_BYTES:
        raise ParmError(f"{path}: is larger than {MOST_BYTES // 2**20} MiB.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ParmError(f"{path}:{line}: is not UTF-8 text.") from error
    source = Source(path)
    try:
        root = yaml.compose(text, Loader=_Yaml)
        if root is None or (root.value == "" and root.tag.endswith(":null")):
            raise ParmError(f"{path}: is empty; an experiment needs name, workload, cluster and policies.")
        source.data = _Builder(source).build(root, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f":{mark.line + 1}" if mark else ""
        raise ParmError(f"{path}{at}: is not YAML: {error.problem or error.context}.") from error
    except yaml.YAMLError as error:
        raise ParmError(f"{path}: is not YAML: {' '.join(str(error).split())}.") from error
    except RecursionError as error:
        raise ParmError(f"{path}: the values are nested too deeply.") from error
    if not isinstance(source.data, dict):
        source.complain((), "must be a mapping with name, workload, cluster and policies.")
    return source


class _Builder:
    """Builds plain data from YAML nodes and records the line of each."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.values = 0

    def build(self, node: yaml.Node, key: Key) -> Any:
        """Return the plain data below `node`. Raises ParmError if it is too large or nested too deeply."""
        self.values += 1
        self.source.places.setdefault(key, self._line(node))
        if self.values > MOST_VALUES:
            raise ParmError(f"{self._line(node)}: more than {MOST_VALUES} values, with aliases expanded.")
        if len(key) > DEEPEST:
            raise ParmError(f"{self._line(node)}: nested more than {DEEPEST} levels deep.")
        if not isinstance(node, yaml.ScalarNode) and node.tag not in (f"{_TAG}map", f"{_TAG}seq"):
            self.source.complain(key, f"has the tag {node.tag}, which is not supported.")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*key, index)) for index, item in enumerate(node.value)]
        try:
            return _SCALARS[node.tag.removeprefix(_TAG)](node.value)
        except (KeyError, ValueError):
            self.source.complain(key, f"'{node.value}' cannot be read as {node.tag.removeprefix(_TAG)}.")
            return None

    def _mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        data: dict[str, Any] = {}
        seen: dict[str, str] = {}
        for name, value in node.value:
            if name.tag == _TAG + "merge":
                continue
            if not isinstance(name, yaml.ScalarNode):
                self.source.problems.append(f"{self._line(name)}: a key must be plain text.")
                continue
            part: str = name.value
            if part in seen:
                line = seen[part].rpartition(":")[2]
                self.source.problems.append(
                    f"{self._line(name)}: {spell((*key, part))}: given twice, first on line {line}."
                )
                continue
            seen[part] = self._line(name)
            self.source.places[(*key, part)] = self._line(name)
            data[part] = self.build(value, (*key, part))
        for merged in self._merged(node):
            for part, value in self._mapping(merged, key).items():
                data.setdefault(part, value)
        return data

    def _merged(self, node: yaml.MappingNode) -> Iterator[yaml.MappingNode]:
        """Yield the mappings that `<<` merges in."""
        for name, value in node.value:
            if name.tag == _TAG + "merge":
                for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    self.values += 1
                    if isinstance(part, yaml.MappingNode) and self.values <= MOST_VALUES and part is not node:
                        yield part
                    else:
                        self.source.problems.append(f"{self._line(name)}: '<<' can only merge mappings.")

    def _line(self, node: yaml.Node) -> str:
        return f"{self.source.path}:{node.start_mark.line + 1}"


def _override(source: Source, override: str) -> None:
    """Apply one `a.b=value`; the value is YAML."""
    dotted, equals, text = override.partition("=")
    dotted = dotted.strip()
    if not equals or not all(dotted.split(".")):
        source.problems.append(f"--set {override}: must have the form key.subkey=value.")
        return
    given = Source(Path("--set"))
    try:
        node = yaml.compose(text, Loader=_Yaml)
        value = None if node is None else _Builder(given).build(node, ())
    except yaml.YAMLError:
        source.problems.append(f"--set {override}: '{text}' is not YAML.")
        return
    try:
        key = put(source.data, dotted, value) if isinstance(source.data, dict) else ()
    except ValueError as error:
        source.problems.append(f"--set {override}: {error}.")
        return
    for old in [old for old in source.places if old[: len(key)] == key]:
        del source.places[old]
    for length in range(1, len(key) + 1):  # includes mappings that `put` created
        source.places.setdefault(key[:length], f"--set {override}")
    source.problems.extend(given.problems)


def import_plugins(plugins: Sequence[str], folder: Path) -> None:
    """Import the user's modules from `folder`, the working directory or the installed packages.

    Raises ParmError if one is missing or cannot be imported.
    """
    for place in (str(Path.cwd()), str(folder.resolve())):
        if plugins and place not in sys.path:
            sys.path.insert(0, place)
    for plugin in plugins:
        name = plugin.removesuffix(".py").replace("/", ".")
        if not all(name.split(".")):
            raise ParmError(
                f"--plugin {plugin}: name a module, such as my_module, beside the YAML file or in the working folder."
            )
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise ParmError(
                    f"--plugin {plugin}: imports '{error.name}', which is not installed{blamed(error)}."
                ) from error
            places = ", in ".join(dict.fromkeys((str(folder.resolve()), str(Path.cwd()))))
            raise ParmError(f"--plugin {plugin}: there is no module '{name}' in {places} or installed.") from error
        except Exception as error:
            raise ParmError(
                f"--plugin {plugin}: import failed{blamed(error)}: {type(error).__name__}: {error}."
            ) from error


def refuse(source: Source) -> None:
    """Raise ParmError with all problems of `source`, if any."""
    if source.problems:
        problems = [problem if problem.endswith((".", "?")) else f"{problem}." for problem in source.problems]
        raise ParmError("\n".join(dict.fromkeys(problems)))
