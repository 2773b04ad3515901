"""`parm plan`: the fewest instances, for each policy, that meet latency and accuracy targets with confidence."""

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
from sim.errors import ParmError

FARTHEST = 8
"""Default limit of the search, as a multiple of the file's instances."""


def plan(
    file: File,
    slo: Annotated[
        list[str] | None,
        typer.Option("--slo", metavar="METRIC=TIME", help="A latency target, as p99.9=40ms; may be repeated."),
    ] = None,
    accuracy: Annotated[
        float | None, typer.Option(metavar="SHARE", help="The least overall accuracy, as 0.92.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Confidence with which the targets are met.")] = 0.95,
    trials: Annotated[int, typer.Option(min=2, help="Most trials per number of instances.")] = 40,
    most: Annotated[
        int | None, typer.Option(min=1, help="Most deployed instances to try.", show_default="8 times the file's")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the result as JSON.")] = None,
    keep: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of finished trials.", show_default="runs/NAME-plan")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard the finished trials in that folder.")] = False,
    overrides: Overrides = None,
    workers: Workers = None,
    executor: ExecutorName = "local",
    address: Address = None,
    engine: EngineName = None,
    data: DataFolder = None,
    device: Device = "auto",
    models: ModelsFolder = MODELS,
    plugin: Plugins = None,
) -> None:
    """Find the fewest instances, and the policy, that meet targets.

    Each number of instances is simulated until enough trials show whether it meets the targets. The exit status is 1
    if no policy is certain to meet them.
    """
    from experiments.capacity import report, search, targets
    from experiments.capacity.trials import kept_trials, open_store
    from experiments.config import loader
    from experiments.run import executors
    from experiments.run.cells import cells
    from experiments.run.manifest import command_line
    from experiments.run.progress import Reporter
    from experiments.run.session import console, sigterm_as_interrupt
    from experiments.run.store import ensure_writable, writing
    from sim import atomic

    aims = targets.parse(slo or (), accuracy)
    if not 0.5 < confidence < 1:
        raise ParmError(f"--confidence {confidence:g}: must be above 0.5 and below 1.")
    experiment = loader.load(file, with_engine(overrides, engine), plugin or ())
    if accuracy is not None and experiment.model is None:
        raise ParmError(f"--accuracy {accuracy:g}: {file} has no 'model', so there is no accuracy.")
    if experiment.sweep:
        raise ParmError(
            f"{file} sweeps {', '.join(experiment.sweep)}, but a plan is for one case: "
            "take the sweep out with --set 'sweep={}'."
        )
    if out is not None:
        ensure_writable(out)
    looks, farthest = targets.SequentialTest(trials, confidence), most or FARTHEST * experiment.cluster.instances
    reporter = Reporter()
    store = open_store(keep or Path("runs") / f"{experiment.name}-plan", data, fresh=fresh)
    try:
        sigterm_as_interrupt()
        answerer = None
        if experiment.model is not None:
            from experiments.run.models import Models, share_the_cores

            if experiment.execution == "deferred":
                share_the_cores()
            answerer = Models(data, models, device, reporter)
            answerer.prepare(cells(experiment))
        with executors.opened(executor, address, reporter) as there:
            run = kept_trials(store, workers, answerer, reporter, experiment.execution == "in_the_loop", there)
            plans = search.plan(experiment, aims, looks, farthest, run)
    except KeyboardInterrupt:
        reporter.say(
            f"Interrupted; finished trials are in {store.folder}. Continue with the same command: {command_line()}"
        )
        raise typer.Exit(INTERRUPTED) from None
    console().print(report.table(plans, aims, looks), highlight=False)
    for sentence in report.sentences(plans, experiment, looks, farthest):
        print(sentence)
    if out is not None:
        with writing(out):
            atomic.write(out, report.as_json(plans, experiment, aims, looks, farthest))
        print(out)
    if plans[0].answer.fewest is None:
        raise typer.Exit(1)
