"""`parm plan`: the fewest instances, for each policy, that meet latency and accuracy targets with confidence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    only_one,
    with_engine,
)
from sim.errors import ParmError

if TYPE_CHECKING:
    from experiments.capacity.targets import Target
    from experiments.config.schema import Experiment
    from experiments.run.models import Models
    from experiments.run.progress import Reporter

FARTHEST = 8
"""Default limit of the search, as a multiple of the file's instances."""


def plan(
    file: File,
    slo: Annotated[
        list[str] | None,
        typer.Option("--slo", metavar="METRIC=TIME", help="A target, as p99.9=40ms or goodput=250; may be repeated."),
    ] = None,
    accuracy: Annotated[
        float | None, typer.Option(metavar="SHARE", help="The least overall accuracy, as 0.92.")
    ] = None,
    within: Annotated[
        str | None, typer.Option(metavar="DIFFERENCE", help="By so much a target may be missed: 1ms, or 2%.")
    ] = None,
    rate: Annotated[
        bool, typer.Option("--rate", help="Find the highest arrival rate instead, with the machines.")
    ] = False,
    confidence: Annotated[float, typer.Option(help="Confidence of all answers at once.")] = 0.95,
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
    from experiments.capacity import rates, report, search, targets
    from experiments.capacity.trials import begin, kept_trials, open_store
    from experiments.config import loader
    from experiments.run import executors
    from experiments.run.manifest import command_line
    from experiments.run.progress import Reporter
    from experiments.run.session import console, sigterm_as_interrupt
    from experiments.run.store import ensure_writable, writing
    from sim import atomic

    aims = targets.parse(slo or (), accuracy, within)
    if not 0.5 < confidence < 1:
        raise ParmError(f"--confidence {confidence:g}: must be above 0.5 and below 1.")
    experiment = loader.load(file, with_engine(overrides, engine), plugin or ())
    only_one(experiment, "plan")
    _check(experiment, file, aims, rate=rate)
    if rate and most is not None:
        raise ParmError("--most limits the instances, and --rate takes those of the file.")
    if out is not None:
        ensure_writable(out)
    looks, farthest = targets.SequentialTest(trials, confidence), most or FARTHEST * experiment.cluster.instances
    reporter = Reporter()
    store = open_store(keep or Path("runs") / f"{experiment.name}-plan", data, fresh=fresh)
    try:
        sigterm_as_interrupt()
        with executors.opened(executor, address, reporter) as there:
            begin(experiment, store, workers, there)
            answerer = None if experiment.model is None else _models(experiment, data, models, device, reporter)
            run = kept_trials(store, workers, answerer, reporter, experiment.execution == "in_the_loop", there)
            plans = [] if rate else search.plan(experiment, aims, looks, farthest, run)
            highest = rates.highest_rates(experiment, aims, looks, run) if rate else []
    except KeyboardInterrupt:
        reporter.say(
            f"Interrupted; finished trials are in {store.folder}. Continue with the same command: {command_line()}"
        )
        raise typer.Exit(INTERRUPTED) from None
    if rate:
        shown, said = rates.table(highest, aims, looks), rates.sentences(highest, looks)
        text, found = rates.as_json(highest, experiment, aims, looks), highest[0].highest is not None
    else:
        shown = report.table(plans, aims, looks, experiment.equal_cost)
        said = report.sentences(plans, experiment, looks, farthest)
        text, found = report.as_json(plans, experiment, aims, looks, farthest), plans[0].answer.fewest is not None
    console().print(shown, highlight=False)
    print("\n".join(said))
    if out is not None:
        with writing(out):
            atomic.write(out, text)
        print(out)
    if not found:
        raise typer.Exit(1)


def _models(experiment: Experiment, data: Path | None, models: Path, device: str, reporter: Reporter) -> Models:
    """Return the models, trained where they were not."""
    from experiments.run.cells import cells
    from experiments.run.models import Models, share_the_cores

    if experiment.execution == "deferred":
        share_the_cores()
    answerer = Models(data, models, device, reporter)
    answerer.prepare(cells(experiment))
    return answerer


def _check(experiment: Experiment, file: Path, aims: Sequence[Target], *, rate: bool) -> None:
    """Refuse targets that the experiment cannot have, a sweep, and a scaler where instances are looked for."""
    from experiments.config.schema import NO_TIME

    for aim in aims:
        if aim.metric == "accuracy_overall" and experiment.model is None:
            raise ParmError(f"--accuracy {aim.bound:g}: {file} has no 'model', so there is no accuracy.")
        if aim.unit == "/s" and experiment.in_time is None:
            raise ParmError(f"--slo {aim.metric}: {NO_TIME}.")
    if experiment.sweep:
        raise ParmError(
            f"{file} sweeps {', '.join(experiment.sweep)}, but a plan is for one case: "
            "take the sweep out with --set 'sweep={}'."
        )
    if experiment.cluster.scaler is not None and not rate:
        raise ParmError(
            "a plan is for a fixed number of instances, which a scaler changes: take it out with "
            "--set cluster.scaler=null, or look for the highest rate with --rate."
        )
