"""The compiled kernel on disk: compiled once for these sources, this numba and this processor, then loaded."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from sim.clock import COMPACT_ABOVE

HERE = Path(__file__).parent

SOURCES = (
    "answers",
    "coding",
    "conditions",
    "copies",
    "heap",
    "layout",
    "learning",
    "loop",
    "memory",
    "pools",
    "routing",
    "services",
    "tasks",
    "tenants",
    "waiting",
)
"""The modules that are compiled, or whose constants are."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """The compiled functions that are called from outside, or by their addresses."""

    simulate: Callable[[Any], None]
    at_instances: Any


@cache
def folder() -> Path:
    """Return where the kernel is kept. Its name is a hash of all that the kernel was compiled from and for.

    numba's own check covers only the file of the entry function, of which it notes the path and the time of change.
    """
    import llvmlite.binding as llvm

    entry = (HERE / "loop.py").stat()
    parts: list[Any] = [HERE, COMPACT_ABOVE, entry.st_mtime_ns, entry.st_size, sys.version, metadata.version("numba")]
    parts += [metadata.version("llvmlite"), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()]
    text = "\n".join([*map(str, parts), *((HERE / f"{name}.py").read_text(encoding="utf-8") for name in SOURCES)])
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "parm" / f"kernel-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def on_disk() -> bool:
    """Say whether the kernel was compiled before, in this process or another."""
    return any(folder().rglob("*.nbc"))


@cache
def kernel() -> Kernel:
    """Return the kernel: from disk if it is there, else compiled, which takes about 10 s, and kept there."""
    import numba

    from sim.compiled import loop, pools
    from sim.compiled.memory import compile_all

    if not on_disk():
        compile_all()  # of all that was imported: what comes later would be compiled by its callers, again for each
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(folder())
    try:
        folder().mkdir(parents=True, exist_ok=True)
        return _compiled(loop.simulate, pools.happens, keep=True)
    except (OSError, RuntimeError):  # nowhere to write: it lasts as long as this process
        return _compiled(loop.simulate, pools.happens, keep=False)
    finally:
        numba.config.CACHE_DIR = before


def _compiled(simulate: Callable[[Any], None], happens: Callable[[int, int, int], int], *, keep: bool) -> Kernel:
    import numba
    from numba import types

    from sim.compiled import layout

    options = {"cache": keep, "error_model": "numpy"}
    by_address = types.int64(types.int64, types.int64, types.int64)
    return Kernel(
        simulate=numba.njit((numba.from_dtype(layout.WORLD)[::1],), **options)(simulate),
        at_instances=numba.cfunc(by_address, **options)(happens),
    )
