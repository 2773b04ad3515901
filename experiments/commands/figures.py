"""`parm figures`: the tables and figures of a run, made again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.commands.arguments import Plugins
from sim.errors import ParmError


def figures(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.", show_default=False)],
    plugin: Plugins = None,
) -> None:
    """Write the tables and figures of a run again.

    They are computed from the cells that the run directory holds; nothing is simulated.
    """
    from experiments.config import loader
    from experiments.run.selecting import cells_of
    from experiments.run.session import conclude
    from experiments.run.store import RunStore

    file = folder / "experiment.yaml"
    if not file.is_file():
        raise ParmError(f"{folder} is not a run directory: there is no experiment.yaml in it.")
    experiment = loader.load(file, (), plugin or ())
    store = RunStore(folder)
    todo = cells_of(experiment, store)
    with store.locked():
        conclude(store, experiment, todo, store.outcomes(todo))
