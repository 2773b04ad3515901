"""`parm accuracy`: studies of the accuracy of reconstructions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.commands.arguments import (
    INTERRUPTED,
    MODELS,
    Address,
    DataFolder,
    Device,
    ExecutorName,
    ModelsFolder,
    Overrides,
    Plugins,
)
from sim.errors import ParmError


def accuracy(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Studies of accuracy.", show_default=False)],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder to write.", show_default="runs/NAME")] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="LABEL", help="Only this model of the study; may be repeated.")
    ] = None,
    overrides: Overrides = None,
    executor: ExecutorName = "local",
    address: Address = None,
    data: DataFolder = None,
    device: Device = "auto",
    models: ModelsFolder = MODELS,
    plugin: Plugins = None,
) -> None:
    """Measure the accuracy of reconstructions, without serving.

    Models and codes that are not trained yet are trained first. Several studies get a folder each, and a joint table in
    the folder above.
    """
    from experiments.accuracy.options import Study
    from experiments.config import loader

    studies = [loader.load_as(Study, file, overrides or (), plugin or ()) for file in files]
    if only:
        try:
            studies = [study.only(only) for study in studies]
        except ValueError as error:
            raise ParmError(f"--only: {error}.") from error
    names = [study.name for study in studies]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ParmError(f"two of the studies have the name '{twice}' and would share a folder.")
    from experiments.accuracy.report import join, run
    from experiments.run import executors
    from experiments.run.manifest import command_line
    from experiments.run.progress import Reporter
    from experiments.run.session import sigterm_as_interrupt

    reporter = Reporter()
    try:
        sigterm_as_interrupt()
        above = out or Path("runs")
        lines = []
        with executors.opened(executor, address, reporter) as there:
            for study in studies:
                folder = above / study.name if out is None or len(studies) > 1 else above
                found = run(study, folder, data, models, device, reporter, there)
                if not found:
                    reporter.say(f"{study.name}: none of its data sets could be loaded")
                lines += found
                if lines and len(studies) > 1:
                    join(lines, above)
    except KeyboardInterrupt:
        reporter.say(f"Interrupted. Continue with the same command: {command_line()}")
        raise typer.Exit(INTERRUPTED) from None
    if not lines:
        raise ParmError("none of the data sets could be loaded: see the lines above.")
