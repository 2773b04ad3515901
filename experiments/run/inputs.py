"""Digests of a cell's inputs other than its options: files, plugins and the code of parm.

A cell's id identifies its options; the digests tell whether a stored result is still valid.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from experiments.config.schema import Experiment
from sim import recorded
from sim.stragglers import Recorded as NamedSlowness
from workloads.arrivals import Recorded as NamedArrivals
from workloads.datasets.base import DEFAULT_FOLDER, Dataset
from workloads.datasets.public import Public

OURS = ("sim", "workloads", "parity", "backends", "experiments")
RESULT = ("sim", "workloads", "parity", "backends", "experiments/analysis/outcome.py", "experiments/analysis/warmup.py")
"""The code that determines a cell's result. Other code makes tables and figures, which can be made again."""
CODE = "the code of parm"
DATA_SET = "data set "
BLOCK = 2**20


def inputs(experiment: Experiment, data: Path | None = None) -> dict[str, str]:
    """Return a digest of each input of a cell of `experiment`, by the input's name for users.

    Data sets that are given by name are searched in `data`, as when they are loaded.
    """
    found = {CODE: code()}
    options = [*_options(experiment)]
    for path in dict.fromkeys(value for value in options if isinstance(value, Path) and value.is_absolute()):
        if path.exists():
            found[str(path)] = digest(path)
    for value in options:
        if isinstance(value, (NamedSlowness, NamedArrivals)):
            found[value.name] = digest(recorded.path(value.name))
    if experiment.model is not None and (place := _by_name(experiment.model.dataset, data)) is not None:
        found[f"{DATA_SET}{experiment.model.dataset.name_in_yaml()}"] = digest(place)
    kinds = dict.fromkeys(type(value) for value in options if isinstance(value, BaseModel))
    for file in dict.fromkeys(file for kind in kinds for file in _plugins(kind)):
        found[str(file)] = digest(file)
    return found


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the names of the inputs that have changed since `before`.

    A data set that has been removed from the data folder counts as unchanged, so that results stay valid without it.
    """
    return [
        name
        for name in {**now, **before}
        if before.get(name) != now.get(name) and (name in now or not name.startswith(DATA_SET))
    ]


def digest(path: Path) -> str:
    """Return a digest of a file's contents, or of the names, sizes and times of all files in a folder."""
    try:
        about = [(path.name, path.stat())] if path.is_file() else [*_below(path)]
    except OSError:
        return "unreadable"
    return _digest(path, tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in about))


@cache
def code() -> str:
    """Return a digest of the source files that determine results."""
    home = Path(__file__).resolve().parents[2]
    known = hashlib.sha256()
    for name in RESULT:
        place = home / name
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            known.update(f"{file.relative_to(home).as_posix()}\n".encode())
            known.update(file.read_bytes())
    return known.hexdigest()[:16]


@cache  # thousands of cells read the same few files
def _digest(path: Path, about: tuple[tuple[str, int, int], ...]) -> str:
    known = hashlib.sha256()
    if path.is_dir():
        known.update(repr(about).encode())
        return known.hexdigest()[:16]
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            known.update(block)
    return known.hexdigest()[:16]


def _below(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield file.relative_to(folder).as_posix(), file.stat()


def _options(value: Any) -> Iterator[Any]:
    """Yield every value in an experiment, including nested options."""
    yield value
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _options(getattr(value, name))
    elif isinstance(value, dict):
        for one in value.values():
            yield from _options(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _options(one)


def _by_name(dataset: Dataset, data: Path | None) -> Path | None:
    """Return the file or folder of a data set that YAML does not give as an absolute path; None if it has none."""
    folder = (DEFAULT_FOLDER if data is None else data).expanduser()
    path = getattr(dataset, "path", None)
    names = [path] if path is not None and not path.is_absolute() else []
    if isinstance(dataset, Public):
        names += [*dataset.files, getattr(dataset, "debian", None), dataset.torchvision_folder]
    return next((folder / name for name in names if name is not None and (folder / name).exists()), None)


@cache
def _plugins(kind: type[BaseModel]) -> tuple[Path, ...]:
    """Return the files of a plugin that a kind comes from."""
    found: list[Path] = []
    for one in kind.__mro__:
        if one.__module__.split(".")[0] not in (*OURS, "pydantic", "builtins", "abc", "typing"):
            with contextlib.suppress(TypeError):
                if (file := inspect.getsourcefile(one)) is not None:
                    found.append(Path(file))
    return tuple(found)
