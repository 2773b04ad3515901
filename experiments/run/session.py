"""One `parm run`: runs or resumes an experiment's cells, then writes tables, figures and the verdict on its claims."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from backends.processes import WorkerKilledError
from experiments.analysis import claims, frontier, latex, reference, reversals, selection, summary, tables
from experiments.analysis.outcome import Outcome
from experiments.analysis.theory import Theory, theory
from experiments.config import precision
from experiments.figures.base import FigureData
from experiments.figures.drawing import draw_all, stems
from experiments.figures.frontier import Frontier
from experiments.run.cells import Cell, cells
from experiments.run.executors.base import Executor
from experiments.run.executors.local import LOCAL
from experiments.run.load import questions
from experiments.run.manifest import command_line, manifest, notes
from experiments.run.progress import Reporter
from experiments.run.runner import run_cells, simulate_one_of_many
from experiments.run.selecting import FILE as SELECTION
from experiments.run.selecting import Selecting, cells_of
from experiments.run.store import RunStore, writing

if TYPE_CHECKING:
    from rich.console import Console

    from experiments.analysis.summary import Row
    from experiments.config.schema import Experiment
    from experiments.run.models import Models
    from sim.trace import Trace


MOST_VERDICTS = 10
"""Which policy is best is said in words of no more sweep points than this."""


class InterruptedRunError(Exception):
    """The user interrupted the run, which can be continued."""


@dataclass(frozen=True)
class Session:
    """Settings of a run: folders of data sets and models, device, and number of processes."""

    workers: int | None = None
    """Cells that are computed at once; None: as many as the executor can."""
    data: Path | None = None
    models: Path = Path(".parm/models")
    device: str = "auto"
    fresh: bool = False
    """Whether to discard an existing run in the directory."""
    quiet: bool = False
    """Whether to print only progress."""
    executor: Executor = LOCAL

    def run(self, experiment: Experiment, folder: Path) -> None:
        """Run the unfinished cells of the experiment in `folder`, then write tables, figures and verdicts.

        Raises InterruptedRunError, after a message on how to continue, and ParmError.
        """
        store = RunStore(folder, self.data)
        store.holds()  # rejects a foreign folder before a lock file is written there
        with store.locked():
            self._run(experiment, store)

    def _run(self, experiment: Experiment, store: RunStore) -> None:
        reporter, began = Reporter(), monotonic()
        wanted = experiment.precision
        if wanted is not None:
            held = None if self.fresh else store.holds()
            before = held.get("trials", 0) if held is not None and held.get("precision") else 0
            experiment = _with_trials(experiment, max(wanted.first(experiment.trials), before))
        store.open(experiment, fresh=self.fresh)
        for question in questions(experiment):
            reporter.say(f"warning: {question}")
        answerer = None
        outcomes: dict[str, Outcome] = {}
        selecting = Selecting(experiment) if experiment.select is not None else None
        while True:
            todo = cells(experiment, selecting.wanted if selecting else None)
            answerer = self._cells(experiment, store, todo, outcomes, answerer, reporter)
            found = [outcomes[cell.id] for cell in todo]
            if selecting is not None and experiment.select is not None:
                if selecting.look(found) and monotonic() - began < 60 * (experiment.select.max_minutes or math.inf):
                    continue
                todo = cells(experiment, selecting.looked_at)
                found = [outcomes[cell.id] for cell in todo]
                store.write_text(SELECTION, selecting.as_json())
            if wanted is None:
                break
            affordable = wanted.max_trials
            if wanted.max_minutes is not None:
                each = sum(one.seconds.get("simulating", 0.0) + one.seconds.get("predicting", 0.0) for one in found)
                each /= experiment.trials * self._at_once(experiment)
                affordable = math.floor((60 * wanted.max_minutes - (monotonic() - began)) / max(each, 1e-9))
            rows = summary.rows(found, experiment.equal_cost)
            more = wanted.more(rows, experiment.trials, max(affordable, 0))
            if more == experiment.trials:
                break
            reporter.say(f"precision: not reached in {experiment.trials} trials; {more} follow")
            experiment = _with_trials(experiment, more)
            store.open(experiment)
        if not self.quiet:
            for note in [*(answerer.notes if answerer else ()), *notes(experiment, todo)]:
                print(f"note: {note}")
        conclude(store, experiment, todo, found, quiet=self.quiet, executor=self.executor)

    def _at_once(self, experiment: Experiment) -> int:
        return 1 if experiment.execution == "in_the_loop" else self.workers or self.executor.at_once()

    def _cells(
        self,
        experiment: Experiment,
        store: RunStore,
        todo: Sequence[Cell],
        outcomes: dict[str, Outcome],
        answerer: Models | None,
        reporter: Reporter,
    ) -> Models | None:
        """Add the cells that are missing to `outcomes`, by id; return the models, if any were needed."""
        asked = [cell for cell in todo if cell.id not in outcomes]
        finished, warnings = store.finished(asked, traces=True)
        outcomes |= finished
        for warning in warnings:
            reporter.say(f"warning: {warning}")
        missing = [cell for cell in asked if cell.id not in outcomes]
        if finished:
            reporter.say(f"{len(finished)} of {len(asked)} cells are reused, {len(missing)} run.")
        try:
            sigterm_as_interrupt()
            if experiment.model is not None and missing:
                from experiments.run.models import Models, share_the_cores

                if experiment.execution == "deferred":
                    share_the_cores()
                answerer = answerer or Models(self.data, self.models, self.device, reporter)
                answerer.prepare(missing)
            count = min(self._at_once(experiment), max(1, len(missing)))
            if missing:
                _write_manifest(store, experiment, todo, outcomes, answerer, count, self.executor)
            for cell, outcome in run_cells(
                missing,
                store,
                workers=self.workers,
                answerer=answerer,
                reporter=reporter,
                executor=self.executor,
            ):
                outcomes[cell.id] = outcome
        except KeyboardInterrupt:
            reporter.say(
                f"Interrupted; {sum(cell.id in outcomes for cell in todo)} of {len(todo)} cells are finished. "
                f"Continue with the same command: {command_line()}"
            )
            raise InterruptedRunError from None
        if missing:
            _write_manifest(store, experiment, todo, outcomes, answerer, count, self.executor)
        return answerer


def _with_trials(experiment: Experiment, trials: int) -> Experiment:
    return experiment.model_copy(update={"trials": trials})


def conclude(
    store: RunStore,
    experiment: Experiment,
    todo: Sequence[Cell],
    outcomes: Sequence[Outcome],
    *,
    quiet: bool = False,
    executor: Executor = LOCAL,
) -> None:
    """Write summary, figures and verdicts into the run directory, and print them unless `quiet`.

    The figures are drawn by processes of `executor`, side by side, if it has any on this machine.
    """
    say: Callable[[str], None] = (lambda _: None) if quiet else print
    with writing(store.folder):
        rule = None if experiment.select is None else experiment.select.rule(experiment.trials)
        verdicts = selection.verdicts(outcomes, rule)
        rows = selection.marked(summary.rows(outcomes, experiment.equal_cost), verdicts, rule)
        summary.write(outcomes, store.folder, experiment.equal_cost, rows)
        store.write_text("summary.tex", latex.table(rows))
        if not quiet:
            tables.show(rows, console())
        for sentence in [
            *(precision.sentences(experiment.precision, rows, experiment.trials) if experiment.precision else ()),
            *(selection.sentences(verdicts, rule) if len(verdicts) <= MOST_VERDICTS or rule else ()),
        ]:
            say(sentence)
        for note in _figures(Drawing(store, experiment, outcomes, rows), executor):
            say(note)
    for figure in experiment.figures or ():
        if isinstance(figure, Frontier):
            found = frontier.frontiers(rows, outcomes, figure.metric)
            store.write_text(f"{figure.stem}.csv", frontier.as_text(found, figure.metric))
            for sentence in frontier.sentences(found):
                say(sentence)
    if experiment.reference:
        compared = reference.compare(experiment.reference, outcomes)
        store.write_text("reference.csv", reference.as_csv(compared))
        for sentence in reference.sentences(compared):
            say(sentence)
    if experiment.reversals:
        turned = reversals.reversals(outcomes, experiment.reversals)
        store.write_text(reversals.FILE, reversals.as_text(turned))
        if not quiet:
            console().print(reversals.table(turned))
    if experiment.claims:
        judged = claims.judge(experiment.claims, outcomes)
        store.write_text(claims.FILE, claims.as_json(judged))
        if not quiet:
            console().print(claims.table({experiment.name: judged}))
    say(str(store.folder))


@dataclass(frozen=True)
class Drawing:
    """Draws the figures of a run, in whatever process."""

    store: RunStore
    experiment: Experiment
    outcomes: Sequence[Outcome]
    rows: Sequence[Row]

    def __call__(self, stem: str) -> list[str]:
        """Draw the figures of this file name; return what is to be said of them."""
        todo = cells_of(self.experiment, self.store)
        material = figure_data(self.store, self.experiment, todo, self.outcomes, self.rows)
        return draw_all(self.experiment.figures, material, self.store.folder / "figures", stem)


def _figures(draw: Drawing, executor: Executor) -> Iterator[str]:
    """Draw all figures, and yield what is to be said of them."""
    names = stems(draw.experiment.figures)
    if not (executor.local and executor.started):
        executor = LOCAL
    workers = None if executor.started else 1
    with contextlib.closing(executor.in_order(draw, names, workers)) as drawn:
        for name, notes in zip(names, drawn, strict=True):
            try:
                yield from notes()
            except WorkerKilledError:
                yield from draw(name)


def figure_data(
    store: RunStore, experiment: Experiment, todo: Sequence[Cell], outcomes: Sequence[Outcome], rows: Sequence[Row]
) -> FigureData:
    """Return the data for a run's figures; traces are read only when a figure needs them."""
    by_place = {(cell.policy.label, summary.point_key(cell.point), cell.trial): cell for cell in todo}

    def trace(outcome: Outcome) -> Trace | None:
        return store.trace(by_place[outcome.policy, summary.point_key(outcome.point), outcome.trial])

    def predicted(policy: str, point: dict[str, Any]) -> Theory | None:
        cell = by_place[policy, summary.point_key(point), todo[0].trial]
        there = cell.experiment
        if there.service:
            return None  # the formulas know one service
        measured = there.execution == "in_the_loop"
        return theory(cell.policy, there.cluster, there.workload.arrivals, there.stragglers, measured=measured)

    def simulated(outcome: Outcome) -> Trace | None:
        place = outcome.policy, summary.point_key(outcome.point), outcome.trial
        return trace(outcome) or simulate_one_of_many(by_place[place]).trace

    loads = trace if experiment.traces is True else None
    again = simulated if experiment.execution == "deferred" else None
    return FigureData(rows, outcomes, loads, experiment.name, experiment.reference, predicted, simulated=again)


def sigterm_as_interrupt() -> None:
    """Make SIGTERM end the run like Ctrl-C."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def console() -> Console:
    """Return a console for standard output that is wide enough for tables if that is not a terminal."""
    from rich.console import Console

    return tables.roomy(Console())


def _write_manifest(
    store: RunStore,
    experiment: Experiment,
    todo: Sequence[Cell],
    outcomes: dict[str, Outcome],
    models: Models | None,
    workers: int,
    executor: Executor,
) -> None:
    text = manifest(
        experiment,
        todo,
        outcomes,
        device=None if models is None else models.device,
        workers=workers,
        executor=executor.describe(),
        models=[] if models is None else models.cards(),
    )
    store.write_text("manifest.json", text)
