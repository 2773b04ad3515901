"""`parm plan`: the fewest instances, and the policy, that meet latency and accuracy targets with confidence."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.commands.arguments import (
    INTERRUPTED,
    MODELS,
    DataFolder,
    Debug,
    Device,
    File,
    ModelsFolder,
    Overrides,
    Plugins,
    Workers,
)
from experiments.run.progress import Advance, Reporter
from sim.errors import ParmError

if TYPE_CHECKING:
    from rich.table import Table

    from experiments.capacity.search import Plan, Run, Tried
    from experiments.capacity.targets import SequentialTest, Target
    from experiments.config.schema import Experiment
    from experiments.run.models import Models
    from experiments.run.store import RunStore

FARTHEST = 8
"""The search goes up to this many times the file's instances where nothing else is said."""
WORTH_A_WORKER = 100_000
"""Queries of a round for each process that simulates it; less is done sooner than a process has started."""


def plan_command(
    file: File,
    slo: Annotated[
        list[str] | None,
        typer.Option("--slo", metavar="METRIC=TIME", help="A target, as p999=40ms; several may be given."),
    ] = None,
    accuracy: Annotated[
        float | None, typer.Option(metavar="SHARE", help="The least overall accuracy, as 0.92.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="With which the targets are met.")] = 0.95,
    trials: Annotated[int, typer.Option(min=2, help="Most trials per number of instances.")] = 40,
    most: Annotated[
        int | None, typer.Option(min=1, help="Most deployed instances to try.", show_default="8 times the file's")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the answer as JSON, too.")] = None,
    keep: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where finished trials are kept.", show_default="runs/NAME-plan")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Simulate trials anew that are kept there.")] = False,
    overrides: Overrides = None,
    workers: Workers = None,
    data: DataFolder = None,
    device: Device = "auto",
    models: ModelsFolder = MODELS,
    plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """Find the fewest instances, and the policy, that meet targets with confidence."""
    del debug
    from experiments.capacity.search import plan
    from experiments.capacity.targets import SequentialTest, parse
    from experiments.config import loader
    from experiments.run.cells import cells
    from experiments.run.session import command, console, sigterm_as_interrupt
    from experiments.run.store import RunStore, ensure_writable, writing

    targets = parse(slo or (), accuracy)
    if not 0.5 < confidence < 1:
        raise ParmError(f"--confidence {confidence:g}: must be above 0.5 and below 1.")
    experiment = loader.load(file, overrides or (), plugin or ())
    if accuracy is not None and experiment.model is None:
        raise ParmError(f"--accuracy {accuracy:g}: {file} has no 'model', so that there are no answers to be right.")
    if experiment.sweep:
        raise ParmError(
            f"{file} sweeps {', '.join(experiment.sweep)}, but a plan is for one case: "
            "take the sweep out with --set 'sweep={}'."
        )
    if out is not None:
        ensure_writable(out)
    looks, farthest = SequentialTest(trials, confidence), most or FARTHEST * experiment.cluster.instances
    reporter, context = Reporter(), loader.context(file)
    store = RunStore(keep or Path("runs") / f"{experiment.name}-plan")
    with writing(store.folder):
        if fresh:
            shutil.rmtree(store.folder / "cells", ignore_errors=True)
        (store.folder / "cells").mkdir(parents=True, exist_ok=True)
    try:
        sigterm_as_interrupt()
        answerer = None
        if experiment.model is not None:
            from experiments.run.models import Models

            answerer = Models(data, models, device, reporter)
            answerer.prepare(cells(experiment, context))
        run = _runner(store, workers, answerer, reporter, experiment.execution == "in_the_loop")
        plans = plan(experiment, targets, looks, farthest, run, context)
    except KeyboardInterrupt:
        words = " ".join(command())
        reporter.say(f"Interrupted; finished trials are in {store.folder}. Continue with the same command: {words}")
        raise typer.Exit(INTERRUPTED) from None
    console().print(_table(plans, targets, looks), highlight=False)
    for sentence in sentences(plans, experiment, looks, farthest):
        print(sentence)
    if out is not None:
        with writing(out):
            out.write_text(as_json(plans, experiment, targets, looks, farthest), encoding="utf-8")
        print(out)


def _runner(store: RunStore, workers: int | None, answerer: Models | None, reporter: Reporter, alone: bool) -> Run:
    """Return what runs cells that are not kept yet, and says now and then how far the search has come."""
    from experiments.analysis.outcome import Outcome
    from experiments.run.cells import Cell
    from experiments.run.runner import default_workers, run_cells

    done = 0

    def run(todo: list[Cell]) -> dict[str, Outcome]:
        nonlocal done
        outcomes, warnings = store.finished(todo, traces=False)
        for warning in warnings:
            reporter.say(f"warning: {warning}")
        missing = [cell for cell in todo if cell.id not in outcomes]
        queries = sum(cell.experiment.workload.queries for cell in missing)
        count = 1 if alone else min(workers or default_workers(), max(1, queries // WORTH_A_WORKER))
        for cell, outcome in run_cells(missing, store, workers=count, answerer=answerer, reporter=_Quiet()):
            outcomes[cell.id] = outcome
            done += 1
            now = f"{cell.policy.label} with {cell.experiment.cluster.instances} deployed instances"
            reporter.status(f"{done} trials so far ({now})", last=False)
        return outcomes

    return run


class _Quiet(Reporter):
    """Says nothing of rounds that are a second long."""

    @contextlib.contextmanager
    def task(self, what: str, total: int) -> Iterator[Advance]:
        """Count nothing."""
        del what, total
        yield lambda step: None


def _table(plans: Sequence[Plan], targets: Sequence[Target], looks: SequentialTest) -> Table:
    from rich import box
    from rich.table import Table

    wanted = " and ".join(str(target) for target in targets)
    title = f"the fewest instances with {wanted}, each with {looks.confidence:.0%} confidence"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for heading in ("policy", "deployed", "in all", "price", "trials"):
        table.add_column(heading, justify="left" if heading == "policy" else "right", no_wrap=heading != "policy")
    table.add_column("measured there, and what is certain")
    table.add_column("with one fewer")
    for one in plans:
        answer = one.answer
        if answer.fewest is None:
            table.add_row(one.policy.label, "-", "-", "-", str(answer.trials), _why(one), "")
            continue
        deployed = str(answer.fewest) if answer.doubtful is None else f"{answer.doubtful}?..{answer.fewest}"
        found = _found(answer.tests[answer.fewest], True)
        table.add_row(
            one.policy.label,
            deployed,
            str(one.instances),
            f"{one.price:.4g}",
            str(answer.trials),
            found,
            _missed(answer.below) if answer.below else "there are none fewer",
        )
    return table


def _found(test: Tried, met: bool) -> str:
    """Return what was measured of each target, with the bound that is certain."""
    parts = []
    for one in test.findings:
        bound = one.worst if met else one.best
        word = "at least" if one.target.at_least is met else "at most"
        name = str(one.target).split()[0]
        parts.append(f"{name} {one.target.written(one.value)} ({word} {one.target.written(bound)})")
    return ", ".join(parts)


def _missed(test: Tried) -> str:
    """Return what is wrong with a number of instances that does not meet the targets."""
    from experiments.capacity.targets import TargetVerdict

    if test.impossible is not None:
        return f"impossible: {test.impossible}"
    if test.verdict is TargetVerdict.OPEN:
        return f"cannot tell in {test.trials} trials: {_found(test, True)}"
    short = [
        one
        for one in test.findings
        if (one.best < one.target.bound) == one.target.at_least and one.best != one.target.bound
    ]
    return f"misses: {_found(_only(test, short), False)}"


def _only(test: Tried, findings: Sequence[Any]) -> Tried:
    from dataclasses import replace

    return replace(test, findings=findings)


def _why(one: Plan) -> str:
    """Return why a policy has no answer."""
    answer = one.answer
    last = answer.tests[max(answer.tests)]
    if answer.doubtful is not None:
        return f"cannot tell from {answer.doubtful} to {last.deployed}: {_missed(last)}"
    return f"none up to {last.deployed} deployed: {_missed(last)}"


def sentences(plans: Sequence[Plan], experiment: Experiment, looks: SequentialTest, most: int) -> list[str]:
    """Return the answer in words, the doubts about it and what it rests on."""
    rule = experiment.equal_cost
    best = plans[0]
    if best.answer.fewest is None:
        return [f"No policy is certain to meet the targets with up to {most} deployed instances."]
    measure = "price" if rule == "price" else "instances"
    as_cheap = [one.policy.label for one in plans[1:] if one.spent(rule) == best.spent(rule)]
    said = [
        f"fewest: {best.policy.label}, {best.answer.fewest} deployed instances, {best.instances} in all, "
        f"at a price of {best.price:.4g}; compared by {measure}"
        + (f"; {' and '.join(as_cheap)} need{'s' if len(as_cheap) == 1 else ''} as much" if as_cheap else "")
    ]
    said.extend(
        f"note: of {one.policy.label} it cannot be told between {one.answer.doubtful} and {one.answer.fewest} "
        f"deployed instances in {looks.most} trials; more --trials or more workload.queries may tell"
        for one in plans
        if one.answer.doubtful is not None and one.answer.fewest is not None
    )
    unsettled = [
        one.policy.label for one in plans if one.answer.fewest and one.answer.tests[one.answer.fewest].unsettled
    ]
    if unsettled:
        said.append(f"note: the warm-up did not settle in some trials of {', '.join(unsettled)}: run more queries")
    return said


def as_json(
    plans: Sequence[Plan], experiment: Experiment, targets: Sequence[Target], looks: SequentialTest, most: int
) -> str:
    """Return the whole search as JSON: every number of instances that was tried, for every policy."""
    document = {
        "format": 1,
        "experiment": experiment.name,
        "seed": experiment.seed,
        "targets": [
            {"metric": one.metric, "bound": one.bound, "unit": "" if one.at_least else "ms"} for one in targets
        ],
        "confidence": looks.confidence,
        "most_trials": looks.most,
        "most_deployed": most,
        "compared_by": "price" if experiment.equal_cost == "price" else "instances",
        "best": plans[0].policy.label if plans[0].answer.fewest is not None else None,
        "policies": [
            {
                "policy": one.policy.label,
                "deployed": one.answer.fewest,
                "cannot_tell_from": one.answer.doubtful,
                "extra": one.extra,
                "instances": one.instances,
                "price": one.price,
                "trials": one.answer.trials,
                "tried": [_test_as_json(one.answer.tests[number]) for number in sorted(one.answer.tests)],
            }
            for one in plans
        ],
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _test_as_json(test: Tried) -> dict[str, Any]:
    return {
        "deployed": test.deployed,
        "verdict": test.verdict.value,
        "impossible": test.impossible,
        "trials": test.trials,
        "unsettled": test.unsettled,
        "found": {
            one.target.metric: {
                "mean": one.value,
                "certainly_no_worse_than": one.worst,
                "certainly_no_better_than": one.best,
            }
            for one in test.findings
        },
    }
