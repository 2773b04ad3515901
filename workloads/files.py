"""Files and folders that are named in YAML: found while it is validated, or later in the folder of data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo

from sim.kinds import find_file


def _file(name: Path, info: ValidationInfo) -> Path:
    return find_file(name.expanduser(), info.context).absolute()


def _folder(name: Path, info: ValidationInfo) -> Path:
    name = name.expanduser()
    parents = [Path(parent) for parent in (info.context or {}).get("paths", [Path.cwd()])]
    for parent in parents:
        if (folder := parent / name).is_dir():
            return folder.absolute()
    if name.is_absolute():
        raise ValueError(f"there is no folder '{name}'")
    return name


ExistingFile = Annotated[Path, AfterValidator(_file)]
"""A file, looked for in the folders of the validation context's `paths` (default: the current one); made absolute."""

DataFolder = Annotated[Path, AfterValidator(_folder)]
"""A folder, looked for in the same way; a relative one that is not there may yet lie in the data folder (`--data`)."""
