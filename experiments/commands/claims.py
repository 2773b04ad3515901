"""`parm claims`: the verdicts on the claims of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def claims(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A run directory, or a folder of them.", show_default=False)
    ],
) -> None:
    """Show which claims of an experiment its run reproduced."""
    from experiments.analysis import claims as claiming
    from experiments.run.session import console

    console().print(claiming.table(claiming.read(folder)))
