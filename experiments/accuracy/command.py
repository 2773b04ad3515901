"""The verb `parm accuracy`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.arguments import (
    INTERRUPTED,
    MODELS,
    DataFolder,
    Debug,
    Device,
    ModelsFolder,
    Overrides,
    Plugins,
)
from sim.errors import ParmError


def accuracy_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Studies of accuracy.", show_default=False)],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder.  [default: runs/NAME]")] = None,
    overrides: Overrides = None,
    data: DataFolder = None,
    device: Device = "auto",
    models: ModelsFolder = MODELS,
    plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """Train what codes need and measure how accurate reconstructions are, without serving; kept models are found."""
    del debug
    from experiments import loader
    from experiments.accuracy.options import Study

    studies = [loader.load_as(Study, file, overrides or (), plugin or ()) for file in files]
    names = [study.name for study in studies]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ParmError(f"two of the studies are called '{twice}', so they would share a folder.")
    from experiments.accuracy.report import run
    from experiments.progress import Reporter
    from experiments.session import command, heed_kill

    reporter = Reporter()
    try:
        heed_kill()
        for study in studies:
            folder = (out or Path("runs")) / study.name if out is None or len(studies) > 1 else out
            run(study, folder, data, models, device, reporter)
    except KeyboardInterrupt:
        reporter.say(f"Interrupted. Continue with the same command: {' '.join(command())}")
        raise typer.Exit(INTERRUPTED) from None
