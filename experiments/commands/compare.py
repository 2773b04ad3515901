"""`parm compare`: several runs in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR DIR...", help="Run directories; the first is the base.", show_default=False),
    ],
) -> None:
    """Compare runs by policy and sweep point."""
    from experiments.analysis import compare as comparing
    from experiments.run.session import console

    comparison = comparing.compare(folders)
    console().print(comparison.table())
    for sentence in comparison.unmatched:
        print(sentence)
