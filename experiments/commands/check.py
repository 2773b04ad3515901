"""`parm check`: what a file would run, or all its mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experiments.commands.arguments import File, Overrides, Plugins

if TYPE_CHECKING:
    from collections.abc import Sequence

    from experiments.accuracy.options import Study
    from experiments.calibration.options import Calibration
    from experiments.config.schema import Experiment
    from experiments.run.cells import Cell


def check(file: File, overrides: Overrides = None, plugin: Plugins = None) -> None:
    """Print what a file would run, or all its mistakes.

    FILE may be an experiment, a bundle of experiments, a study of accuracy or a calibration. Nothing is run.
    """
    from experiments.config import bundle, loader

    sort = loader.sort_of(loader.read(file).data)
    if sort == "study":
        from experiments.accuracy.options import Study

        _describe_study(loader.load_as(Study, file, overrides or (), plugin or ()), file)
    elif sort == "calibration":
        from experiments.calibration.options import Calibration

        _describe_calibration(loader.load_as(Calibration, file, overrides or (), plugin or ()), file)
    else:
        for path, experiment in bundle.load(file, overrides or (), plugin or ()).experiments:
            _describe(experiment, path)


def _describe(experiment: Experiment, file: Path) -> None:
    """Print what an experiment would run."""
    from experiments.run import load
    from experiments.run.cells import cells
    from experiments.run.forecast import forecast
    from experiments.run.manifest import notes
    from experiments.run.together import plans

    todo = cells(experiment.model_copy(update={"trials": 1}))  # trials differ only in random numbers
    points = experiment.points()
    print(f"{file} is valid: {experiment.name}, seed {experiment.seed}")
    print(
        f"{len(todo) * experiment.trials} cells: {len(experiment.policies)} policies x {len(points)} sweep points "
        f"x {experiment.trials} trials, of {experiment.workload.queries} queries each"
        + (f", of {len(experiment.services)} services together" if experiment.services else "")
    )
    print(f"cost: {forecast(todo, experiment.trials)}")
    if experiment.precision is not None:
        asked = ", ".join(f"{name} within {width}" for name, width in experiment.precision.widths.items())
        each, least = len(experiment.policies) * len(points), experiment.precision.first(experiment.trials)
        most = max(experiment.precision.max_trials, least)
        queries = each * experiment.workload.queries
        print(
            f"precision {asked}: at least {least} trials ({each * least} cells, {queries * least:,} queries), "
            f"at most {most} ({each * most} cells, {queries * most:,} queries)"
        )
    if experiment.select is not None:
        rule = experiment.select.rule(experiment.trials)
        each, (least, *_, most) = len(experiment.policies) * len(points), (rule.counts[0], *rule.counts)
        queries = each * experiment.workload.queries
        print(
            f"select {rule.name} within {rule.zone} at {rule.confidence:.0%} confidence: at least {least} trials "
            f"({each * least} cells, {queries * least:,} queries), at most {most} ({each * most} cells, "
            f"{queries * most:,} queries) of each policy"
        )
    for key, values in experiment.sweep.items():
        print(f"sweep {key}: {', '.join(str(value) for value in values)}")
    for policy in experiment.policies:
        mine = [cell for cell in todo if cell.policy.label == policy.label]
        instances = sorted({sum(plan.instances for plan in plans(cell)) for cell in mine})
        print(f"policy {policy.label}: {' to '.join(str(count) for count in instances)} instances{_scaled(mine)}")
        for line in load.lines((cell.experiment, cell.policy) for cell in mine):
            print(f"policy {policy.label}: {line}")
    for note in notes(experiment, todo):
        print(f"note: {note}")
    for line in load.assignments(experiment):
        print(line)
    for line in load.questions(experiment):
        print(f"question: {line}")
    if experiment.model is None:
        print("no model: latency only")
        return
    from experiments.run.models import needs

    for need in needs(todo):
        print(f"model: {need}")


def _scaled(cells: Sequence[Cell]) -> str:
    """Return between how many instances of the deployed model scalers choose, as the end of a line."""
    found = [
        cell.experiment.cluster.scaler.bounds(cell.policy.pools(cell.experiment.machines)[0].instances)
        for cell in cells
        if cell.experiment.cluster.scaler is not None
    ]
    if not found:
        return ""
    least, most = min(one for one, _ in found), max(one for _, one in found)
    return f" at first, then {least} to {most} of the deployed model by the scaler, and others in proportion"


def _describe_study(study: Study, file: Path) -> None:
    """Print what a study would train and measure."""
    print(f"{file} is valid: {study.name}, a study of accuracy; 'parm accuracy' runs it")
    print(f"{len(list(study.cases()))} lines: every model with every code, recipe and seed")
    for model in study.models:
        print(f"model {model.title}: recipes {', '.join(model.recipes or study.recipes)}")
    for coding in study.codes:
        print(f"code {coding.title}: {coding.losses} lost of {coding.k} predictions")
    print(f"seeds: {', '.join(str(seed) for seed in study.seeds)}")


def _describe_calibration(calibration: Calibration, file: Path) -> None:
    """Print what a calibration would fit."""
    points = len(calibration.experiment.points())
    print(f"{file} is valid: {calibration.profile.name}, a calibration; 'parm calibrate' runs it")
    for name, free in calibration.free.items():
        print(f"free {name}: {free.low:g} to {free.high:g}, from {free.start:g}")
    for target in calibration.targets:
        print(f"target {target.policy} {target.metric}: {points} sweep points")
