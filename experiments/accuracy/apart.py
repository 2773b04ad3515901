"""A study on the machines of a cluster: each deployed model, with its codes, in a process of its own.

Models that this machine has go along, and those that are trained there come back, so that the same command trains
nothing twice. Data sets are read there: they have to be at the same place on every machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from experiments.accuracy.options import Case, Study
from experiments.accuracy.study import StudyRunner
from experiments.accuracy.table import Line
from experiments.run.executors.base import Executor
from experiments.run.progress import Reporter
from sim import atomic
from sim.errors import ParmError
from workloads.datasets.base import DEFAULT_FOLDER


@dataclass(frozen=True)
class Assignment:
    """The cases of one deployed model and seed, and the files of models for them that are there already."""

    cases: Sequence[Case]
    files: Mapping[str, bytes]

    def __str__(self) -> str:
        return f"{self.cases[0].subject.title}, seed {self.cases[0].seed}"


@dataclass(frozen=True)
class Measured:
    """What a machine found, and the files of models that it trained."""

    lines: Sequence[Line]
    skipped: Mapping[str, str]
    models: Mapping[str, dict[str, Any]]
    notes: Sequence[str]
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Measuring:
    """Measures an assignment; the other machine is sent this."""

    study: Study
    data: Path
    device: str

    def __call__(self, assignment: Assignment, _: object = None) -> Measured:
        """Return what is found. Raises ParmError as a study does."""
        with TemporaryDirectory(prefix="parm-models-") as folder:
            root = Path(folder)
            for name, content in assignment.files.items():
                atomic.write(root / name, content)
            runner = StudyRunner(self.study, self.data, root, self.device, _Silent())
            lines = list(runner.measured(assignment.cases))
            new = {name: content for name, content in _contents(root).items() if name not in assignment.files}
            return Measured(lines, runner.skipped, runner.models, runner.notes, new)


def lines_from(executor: Executor, runner: StudyRunner, reporter: Reporter) -> Iterator[Line]:
    """Yield the lines of the runner's study, in its order, and note in `runner` what else was found.

    Raises ParmError with the name of a model that fails.
    """
    todo = [
        Assignment(cases, _kept(runner.root, cases[0]))
        for _, group in groupby(runner.study.cases(), key=lambda case: (case.subject.title, case.seed))
        for cases in [tuple(group)]
    ]
    measuring = Measuring(runner.study, (runner.folder or DEFAULT_FOLDER).expanduser().absolute(), runner.asked)
    on_gpus = executor.gpus() > 0 and runner.asked != "cpu"
    results = executor.in_order(_nothing, todo, then=measuring) if on_gpus else executor.in_order(measuring, todo)
    with reporter.task("measuring", len(todo)) as advance:
        for one, result in zip(todo, results, strict=True):
            try:
                found: Measured = result()
            except Exception as error:
                raise ParmError(f"{one}: {' '.join(str(error).split()) or type(error).__name__}") from error
            for name, content in found.files.items():
                atomic.write(runner.root / name, content)
            runner.skipped.update(found.skipped)
            runner.models.update(found.models)
            runner.notes += [note for note in found.notes if note not in runner.notes]
            advance(str(one))
            yield from found.lines


def _nothing(_: Assignment) -> None:
    return None


def _kept(root: Path, case: Case) -> dict[str, bytes]:
    """Return the files of the models in `root` that have the case's network and seed."""
    network = case.subject.network.model_dump(mode="json", serialize_as_any=True, by_alias=True)
    found: dict[str, bytes] = {}
    for card in sorted(root.glob("*/card.json")):
        try:
            identity = json.loads(card.read_text(encoding="utf-8"))["identity"]
        except (OSError, ValueError, KeyError):
            continue  # the store says what is wrong with it, where it is needed
        if identity.get("seed") == case.seed and identity.get("network") == network:
            found.update({f"{card.parent.name}/{name}": content for name, content in _contents(card.parent).items()})
    return found


def _contents(folder: Path) -> dict[str, bytes]:
    """Return the files of finished models below a folder, by their place."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not any(part.endswith((".part", ".lock")) for part in file.relative_to(folder).parts)
    }


class _Silent(Reporter):
    """Reports nothing: nobody would see it."""

    def say(self, text: str) -> None:
        """Say nothing."""

    def status(self, text: str, *, last: bool) -> None:
        """Show nothing."""
