"""`parm train`: the models that an experiment needs, before it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.commands.arguments import (
    INTERRUPTED,
    MODELS,
    DataFolder,
    Device,
    File,
    ModelsFolder,
    Overrides,
    Plugins,
)
from sim.errors import ParmError


def train(
    file: File,
    overrides: Overrides = None,
    data: DataFolder = None,
    device: Device = "auto",
    models: ModelsFolder = MODELS,
    publish: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the models to DIR as well, in half precision.")
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Train the models that an experiment needs.

    Models that are already trained are kept. The same command continues interrupted training.
    """
    from experiments.config import loader
    from experiments.run.cells import cells
    from experiments.run.manifest import command_line
    from experiments.run.progress import Reporter
    from experiments.run.session import sigterm_as_interrupt

    experiment = loader.load(file, overrides or (), plugin or ())
    if experiment.model is None:
        raise ParmError(f"{file} has no 'model', so there is nothing to train.")
    from experiments.run.models import Models

    reporter = Reporter()
    trained = Models(data, models, device, reporter, publish)
    try:
        sigterm_as_interrupt()
        trained.prepare(cells(experiment))
    except KeyboardInterrupt:
        reporter.say(f"Interrupted. Continue with the same command: {command_line()}")
        raise typer.Exit(INTERRUPTED) from None
    for line in trained.describe():
        print(line)
