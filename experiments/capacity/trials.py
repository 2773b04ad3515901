"""Runs the trials that a search asks for; finished ones are kept in a folder and found again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.analysis.outcome import Outcome
from experiments.capacity.search import Run
from experiments.capacity.targets import FIRST_LOOK
from experiments.run.cells import Cell
from experiments.run.engines import load, make_ready
from experiments.run.executors.base import Executor
from experiments.run.executors.local import LOCAL
from experiments.run.progress import Advance, Reporter
from experiments.run.runner import run_cells
from experiments.run.store import CELLS, RunStore, writing

if TYPE_CHECKING:
    from experiments.config.schema import Experiment
    from experiments.run.models import Models

WORTH_A_WORKER = 100_000
"""Queries of a round for each process that simulates it; less is done sooner than a process has started."""


def open_store(folder: Path, data: Path | None, *, fresh: bool) -> RunStore:
    """Make the folder of the trials, or take up what is in it; `fresh` removes finished trials first.

    Raises ParmError where it cannot be written.
    """
    store = RunStore(folder, data)
    with writing(folder):
        if fresh:
            for file in folder.glob(CELLS):
                file.unlink()
        (folder / "cells").mkdir(parents=True, exist_ok=True)
    return store


def begin(experiment: Experiment, store: RunStore, workers: int | None, executor: Executor) -> None:
    """Have the processes for the first round start now, while this one makes models ready, unless trials are kept."""
    queries = len(experiment.policies) * FIRST_LOOK * experiment.workload.queries
    count = min(workers or executor.at_once(), queries // WORTH_A_WORKER)
    if count > 1 and experiment.execution == "deferred" and not any(store.folder.glob(CELLS)):
        executor.start(count, load)


def kept_trials(
    store: RunStore,
    workers: int | None,
    answerer: Models | None,
    reporter: Reporter,
    alone: bool,
    executor: Executor = LOCAL,
) -> Run:
    """Return a function that runs the cells that `store` does not hold yet, and reports progress now and then."""
    done = simulated = 0
    most = 1

    def run(todo: list[Cell]) -> dict[str, Outcome]:
        nonlocal done, simulated, most
        outcomes, warnings = store.finished(todo, traces=False)
        for warning in warnings:
            reporter.say(f"warning: {warning}")
        missing = [cell for cell in todo if cell.id not in outcomes]
        queries = sum(cell.experiment.workload.queries for cell in missing)
        make_ready(missing, reporter, simulated=simulated)
        simulated += queries
        count = 1 if alone else workers
        if executor.local:
            most = max(most, queries // WORTH_A_WORKER)  # once there are processes, they do what comes later as well
            count = min(count or executor.at_once(), most)
        for cell, outcome in run_cells(
            missing, store, workers=count, answerer=answerer, reporter=_Quiet(), executor=executor
        ):
            outcomes[cell.id] = outcome
            done += 1
            now = f"{cell.policy.label} with {cell.experiment.cluster.instances} deployed instances"
            reporter.status(f"{done} trials so far ({now})", last=False)
        return outcomes

    return run


class _Quiet(Reporter):
    """Reports nothing: a round takes a second."""

    @contextlib.contextmanager
    def task(self, what: str, total: int) -> Iterator[Advance]:
        """Count nothing."""
        yield lambda step: None
