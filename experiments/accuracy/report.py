"""Output of a study: a table that is extended line by line, the resolved YAML, a manifest and figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from experiments.accuracy.apart import lines_from
from experiments.accuracy.figures import draw
from experiments.accuracy.options import Study
from experiments.accuracy.study import StudyRunner
from experiments.accuracy.table import Line, as_csv, as_table
from experiments.run.executors.base import Executor
from experiments.run.executors.local import LOCAL
from experiments.run.manifest import command, made_with
from experiments.run.progress import Reporter
from experiments.run.session import console
from experiments.run.store import writing
from sim import atomic


def run(
    study: Study,
    folder: Path,
    data: Path | None,
    models: Path,
    device: str,
    reporter: Reporter,
    executor: Executor = LOCAL,
) -> list[Line]:
    """Run the study into `folder`, print the table and the folder's name, and return the table's lines.

    A local executor is not used: a single training takes all cores.

    The result is empty if no data set could be loaded. Raises ParmError if the disk is full.
    """
    runner = StudyRunner(study, data, models, device, reporter)
    lines: list[Line] = []
    with writing(folder):
        atomic.write(folder / "study.yaml", yaml.safe_dump(study.resolved(), sort_keys=False))
        for line in runner.lines() if executor.local else lines_from(executor, runner, reporter):
            lines.append(line)
            atomic.write(folder / "accuracy.csv", as_csv(lines))
            atomic.write(folder / "manifest.json", _manifest(study, runner, executor, complete=False))
        if not lines:
            return lines
        atomic.write(folder / "manifest.json", _manifest(study, runner, executor, complete=True))
        draw(study.figures, lines, study.reference, folder / "figures")
    console().print(as_table(lines))
    for note in runner.notes:
        print(f"note: {note}")
    for name in runner.skipped:
        print(f"note: {name} was skipped: its data could not be loaded")
    print(folder)
    return lines


def join(lines: Sequence[Line], folder: Path) -> None:
    """Write the lines of several studies into one table. Raises ParmError if the disk is full."""
    with writing(folder):
        atomic.write(folder / "accuracy.csv", as_csv(lines))


def _manifest(study: Study, runner: StudyRunner, executor: Executor, *, complete: bool) -> str:
    document = {
        "format": 1,
        "name": study.name,
        "seeds": list(study.seeds),
        "command": command(),
        "complete": complete,
        **made_with(),
        "device": str(runner.device),
        "executor": executor.describe(),
        "notes": runner.notes,
        "skipped": runner.skipped,
        "models": runner.models,
    }
    return json.dumps(document, indent=1) + "\n"
