"""`parm init`: a commented experiment to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sim.errors import ParmError


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")] = Path("experiment.yaml"),
) -> None:
    """Write a commented experiment to start from.

    It runs as it is. A file that exists is not overwritten.
    """
    from importlib import resources

    from experiments.run.store import ensure_writable

    if file.exists():
        raise ParmError(f"{file} exists already: choose another name.")
    ensure_writable(file)
    text = resources.files("experiments").joinpath("template.yaml").read_text(encoding="utf-8")
    file.write_text(text, encoding="utf-8")
    print(f"{file}: change it, then 'parm check {file}' and 'parm run {file}'")
