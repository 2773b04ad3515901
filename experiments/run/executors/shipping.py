"""What machines without this one's files are sent: a run's plugins, its models, and back from them a cell's files."""

from __future__ import annotations

import atexit
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from backends.blame import ROOT

_INSTALLED = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def plugin_sources(items: Sequence[Any]) -> Path | None:
    """Return a folder with the user's own modules that the cells' experiment needs; None if it names no plugins.

    These are the plugins and what they have imported from the folders in which they lie. Modules that are installed
    are not among them: they have to be installed on every machine.
    """
    first = getattr(items[0], "experiment", None) if items else None
    return _copied(tuple(first.plugins)) if first is not None and first.plugins else None


@cache
def _copied(plugins: tuple[str, ...]) -> Path | None:
    tops = {plugin.removesuffix(".py").replace("/", ".").partition(".")[0] for plugin in plugins}
    homes = {place.parent for name in tops if (place := _place(name)) is not None}
    wanted = {name: place for name in _tops() if (place := _place(name)) is not None and place.parent in homes}
    if not wanted:
        return None
    folder = Path(tempfile.mkdtemp(prefix="parm-plugins-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for place in wanted.values():
        if place.is_dir():
            shutil.copytree(place, folder / place.name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy2(place, folder / place.name)
    return folder


def _tops() -> set[str]:
    """Return the names of the top-level modules that are imported."""
    return {name.partition(".")[0] for name in sys.modules}


def _place(name: str) -> Path | None:
    """Return the file of a top-level module, or the folder of a package; None for those of libraries or of parm."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None or file.startswith(_INSTALLED):
        return None
    path = Path(file).resolve()
    if path.parent == ROOT or (path.parent.parent == ROOT and path.name == "__init__.py"):
        return None
    return path.parent if path.name == "__init__.py" else path
