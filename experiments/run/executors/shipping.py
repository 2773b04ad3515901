"""A run's plugins, sent to machines that do not have this one's files."""

from __future__ import annotations

import atexit
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backends.blame import ROOT

_INSTALLED = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_installed: set[str] = set()
"""Names of the files that were installed in this process."""


def plugin_sources(items: Sequence[Any]) -> dict[str, bytes]:
    """Return the user's own modules that the cells' experiment needs, their contents by file name.

    These are its plugins and what was imported from the folders in which they lie. Libraries are not among them: they
    have to be installed on every machine.
    """
    experiment = getattr(items[0], "experiment", None) if items else None
    plugins = experiment.plugins if experiment is not None else ()
    tops = {plugin.removesuffix(".py").replace("/", ".").partition(".")[0] for plugin in plugins}
    homes = {place.parent for name in tops if (place := _place(name)) is not None}
    found: dict[str, bytes] = {}
    for name in {name.partition(".")[0] for name in sys.modules}:
        place = _place(name)
        if place is not None and place.parent in homes:
            for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
                if file.is_file() and "__pycache__" not in file.parts:
                    found[file.relative_to(place.parent).as_posix()] = file.read_bytes()
    return found


def install(sources: Mapping[str, bytes]) -> None:
    """Make modules that were sent importable in this process."""
    if not sources or sources.keys() <= _installed:
        return
    folder = Path(tempfile.mkdtemp(prefix="parm-plugins-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, content in sources.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    sys.path.insert(0, str(folder))
    _installed.update(sources)


def _place(name: str) -> Path | None:
    """Return the file of a top-level module, or the folder of a package; None for those of libraries and of parm."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None or file.startswith(_INSTALLED):
        return None
    path = Path(file).resolve()
    path = path.parent if path.name == "__init__.py" else path
    return None if path.parent == ROOT else path
