"""`parm run`: the experiments of a file into run directories."""

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
    EngineName,
    ExecutorName,
    File,
    ModelsFolder,
    Overrides,
    Plugins,
    Workers,
    with_engine,
)


def run(
    file: File,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Run directory.", show_default="runs/NAME")] = None,
    overrides: Overrides = None,
    workers: Workers = None,
    executor: ExecutorName = "local",
    address: Address = None,
    engine: EngineName = None,
    data: DataFolder = None,
    device: Device = "auto",
    models: ModelsFolder = MODELS,
    plugin: Plugins = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard an existing run in the directory.")] = False,
) -> None:
    """Run an experiment: simulate, predict, write tables and figures.

    FILE may also be a bundle of experiments. The same command continues a run that was interrupted.
    """
    from experiments.analysis import claims
    from experiments.config import bundle
    from experiments.run import executors
    from experiments.run.session import InterruptedRunError, Session, console

    plan = bundle.load(file, with_engine(overrides, engine), plugin or ())
    try:
        with executors.opened(executor, address) as there:
            session = Session(workers, data, models, device, fresh, executor=there)
            for _, experiment in plan.experiments:
                session.run(experiment, plan.folder(out, experiment))
    except InterruptedRunError:
        raise typer.Exit(INTERRUPTED) from None
    if any(experiment.claims for _, experiment in plan.experiments[1:]):
        console().print(claims.table(claims.read(plan.folder(out, experiment).parent)))
