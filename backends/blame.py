"""The line of a user's own module in which something went wrong."""

from __future__ import annotations

import pickle
import sysconfig
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_NOT_THEIRS = (
    *(str(ROOT / name) for name in ("sim", "workloads", "parity", "backends", "experiments")),
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    "<",
)
_NOTE = "in "


def blamed(error: BaseException) -> str:
    """Return ` (FILE:LINE)`, the innermost line of an error's traceback outside parm and libraries, or nothing."""
    for note in getattr(error, "__notes__", ()):
        if note.startswith(_NOTE):
            return f" ({note.removeprefix(_NOTE)})"
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f" ({error.filename}:{error.lineno})"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(_NOT_THEIRS):
            return f" ({frame.filename}:{frame.lineno})"
    return ""


def portable(error: BaseException) -> BaseException:
    """Return an error that can be sent to another process, with a note of where it was raised."""
    place = blamed(error)
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever a user's own exception class does when it is pickled
        error = RuntimeError(f"{type(error).__name__}: {error}")
    if place:
        error.add_note(_NOTE + place.removeprefix(" (").removesuffix(")"))
    return error
