"""What a study leaves: a table that grows line by line, the resolved YAML, a manifest and figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from experiments.accuracy.figures import draw
from experiments.accuracy.options import Study
from experiments.accuracy.study import StudyRunner
from experiments.accuracy.table import Line, as_csv, as_table
from experiments.run.manifest import command_line, made_with
from experiments.run.progress import Reporter
from experiments.run.session import console
from experiments.run.store import writing
from parity.training import write_atomically


def run(study: Study, folder: Path, data: Path | None, models: Path, device: str, reporter: Reporter) -> list[Line]:
    """Run the study into `folder`, show the table and name the folder; returns its lines.

    There are none where none of its data sets could be loaded. Raises ParmError for a full disk.
    """
    runner = StudyRunner(study, data, models, device, reporter)
    lines: list[Line] = []
    with writing(folder):
        write_atomically(folder / "study.yaml", yaml.safe_dump(study.resolved(), sort_keys=False).encode())
        for line in runner.lines():
            lines.append(line)
            write_atomically(folder / "accuracy.csv", as_csv(lines).encode())
            write_atomically(folder / "manifest.json", _manifest(study, runner, complete=False).encode())
        if not lines:
            return lines
        write_atomically(folder / "manifest.json", _manifest(study, runner, complete=True).encode())
        draw(study.figures, lines, study.reference, folder / "figures")
    console().print(as_table(lines))
    for note in runner.notes:
        print(f"note: {note}")
    for name in runner.skipped:
        print(f"note: {name} was skipped: its data could not be loaded")
    print(folder)
    return lines


def join(lines: Sequence[Line], folder: Path) -> None:
    """Write the lines of several studies into one table. Raises ParmError for a full disk."""
    with writing(folder):
        write_atomically(folder / "accuracy.csv", as_csv(lines).encode())


def _manifest(study: Study, runner: StudyRunner, *, complete: bool) -> str:
    document = {
        "format": 1,
        "name": study.name,
        "seeds": list(study.seeds),
        "command": command_line(),
        "complete": complete,
        **made_with(),
        "device": str(runner.device),
        "notes": runner.notes,
        "skipped": runner.skipped,
        "models": runner.models,
    }
    return json.dumps(document, indent=1) + "\n"
