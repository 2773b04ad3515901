"""The compiled kernel on disk: compiled once for these sources, this numba and this processor, then loaded in a moment."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

Kernel = Callable[[Any], None]


@cache
def folder() -> Path:
    """Return where the kernel is kept. Its name is a hash of all that the kernel was compiled from and for.

    numba's own check covers only the file of the entry function, of which it notes the path and the time of change.
    """
    import llvmlite.binding as llvm

    entry = (HERE / "loop.py").stat()
    parts: list[Any] = [HERE, entry.st_mtime_ns, entry.st_size, sys.version, metadata.version("numba")]
    parts += [metadata.version("llvmlite"), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()]
    text = "\n".join([*map(str, parts), *(file.read_text(encoding="utf-8") for file in sorted(HERE.glob("*.py")))])
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "parm" / f"kernel-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def on_disk() -> bool:
    """Say whether the kernel was compiled before, in this process or another."""
    return any(folder().rglob("*.nbc"))


@cache
def kernel() -> Kernel:
    """Return the kernel: from disk if it is there, else compiled, which takes about 15 s, and kept on disk if it can."""
    import numba

    from sim.compiled import layout, loop
    from sim.compiled.memory import compile_all

    if not on_disk():
        compile_all()
    world = numba.from_dtype(layout.WORLD)[::1]
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(folder())
    try:
        folder().mkdir(parents=True, exist_ok=True)
        compiled: Kernel = numba.njit((world,), cache=True, error_model="numpy")(loop.simulate)
    except (OSError, RuntimeError):  # nowhere to write: it lasts as long as this process
        compiled = numba.njit((world,), error_model="numpy")(loop.simulate)
    finally:
        numba.config.CACHE_DIR = before
    return compiled
