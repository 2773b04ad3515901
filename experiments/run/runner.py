"""Runs an experiment's cells: workers simulate and measure; the main process predicts and stores, in the cells' order.

Without a model the workers do everything, so that the main process is no bottleneck and torch is never imported. With
the hardware in the loop the main process does everything, so that nothing else runs while a service is timed. Workers
on other machines send what they would have written, and where these have GPUs, they answer there. Results do not
depend on the order in which cells finish, nor on the machine: every cell has its own random streams.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from backends.blame import blamed
from backends.processes import WorkerKilledError
from experiments.analysis.cost import average_price, price
from experiments.analysis.outcome import Outcome, instances, measure, with_answers
from experiments.run.cells import Cell
from experiments.run.controls import controls
from experiments.run.engines import choice, make_ready
from experiments.run.executors.base import Executor
from experiments.run.executors.local import LOCAL
from experiments.run.progress import Reporter
from experiments.run.store import RunStore
from experiments.run.together import Each, Last, plans, together
from sim.engines import Choice
from sim.errors import ParmError
from sim.shared import Shared
from sim.simulation import Hardware, simulate
from sim.trace import Ints, Trace

if TYPE_CHECKING:
    from backends.answers import Answers

_SHARED = Shared()
"""What the cells of a run that this process simulates have in common."""
_LAST = Last()
"""The simulation of several services that this process did last, which gives a cell of each."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The answers that the clients of a cell received, and the samples they sent."""

    samples: Ints
    """Row of the test set that each query carried, shape (queries,)."""
    labels: Ints
    """True classes of the test set, shape (samples of the test set,)."""
    answers: Answers


@dataclass(frozen=True, slots=True)
class Parcel:
    """A cell that another machine has run: its outcome, and the contents of its trace files by their place."""

    outcome: Outcome
    files: Mapping[str, bytes]


class AnswersElsewhere(Protocol):
    """Computes a simulated cell's answers on another machine, and packs what is to be stored."""

    def __call__(self, cell: Cell, unanswered: Unanswered) -> Parcel:
        """Return the cell's outcome and files."""
        ...


class AnswerSource(Protocol):
    """Computes the answers of the models."""

    def answer(self, cell: Cell, trace: Trace) -> Answered:
        """Compute the answer that each client in the cell's trace received."""
        ...

    def in_the_loop(self, cell: Cell) -> tuple[Hardware, Callable[[Trace], Answered]]:
        """Return the hardware for the cell's simulation, and a function from its trace to the answers."""
        ...

    def elsewhere(self) -> AnswersElsewhere | None:
        """Return what computes the same answers on another machine's GPU; None if they are to be computed here."""
        ...


def run_cells(
    cells: Sequence[Cell],
    store: RunStore,
    *,
    workers: int | None,
    answerer: AnswerSource | None,
    reporter: Reporter,
    executor: Executor = LOCAL,
) -> Iterator[tuple[Cell, Outcome]]:
    """Run `cells` and yield each with its outcome, in the given order, once it is written to `store`.

    `executor` computes at most `workers` of them at once; None: as many as it can.

    Raises ParmError with the cell's name if one fails; earlier cells are kept.
    """
    make_ready(cells, reporter)
    in_the_loop = any(cell.experiment.execution == "in_the_loop" for cell in cells)
    if in_the_loop and not executor.local:
        raise ParmError("execution in_the_loop times the hardware of this machine: run it without --executor.")
    there = answerer.elsewhere() if answerer is not None and executor.gpus() else None
    function: Callable[[Cell], Any] = simulate_for_answers
    finish: Callable[[Cell, Any], Outcome]
    if in_the_loop or (answerer is None and executor.local):
        function, finish = partial(run_cell, store=store, answerer=answerer), _as_found
    elif answerer is None or there is not None:
        function, finish = simulate_for_answers if there else pack_cell, partial(_unpack, store)
    else:
        finish = partial(predict_and_keep, store=store, answerer=answerer)
    with reporter.task("simulating", len(cells)) as advance:
        for cell, found in in_order(function, cells, 1 if in_the_loop else workers, executor, there):
            with _naming(cell):
                outcome = finish(cell, found)
            advance(str(cell))
            yield cell, outcome


def _as_found(_: Cell, outcome: Outcome) -> Outcome:
    return outcome


def _unpack(store: RunStore, cell: Cell, parcel: Parcel) -> Outcome:
    return store.receive(cell, parcel.outcome, parcel.files)


@dataclass(frozen=True, slots=True)
class Simulated:
    """A simulated cell."""

    trace: Trace
    seconds: float
    """Wall time that it took."""
    engine: Choice
    load: Mapping[str, float] | None = None
    """Offered load of each pool by all services together, where the cell is one of several."""


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A cell that has been simulated and measured, but for the answers that its clients received."""

    trace: Trace
    """Without its tasks, where neither answers nor files need them: they are most of it."""
    outcome: Outcome


def simulate_cell(cell: Cell, hardware: Hardware | None = None, shared: Shared | None = None) -> Simulated:
    """Simulate a cell, with `hardware` in the loop if any; `shared` keeps what other cells of its trial need too."""
    began = perf_counter()
    experiment = cell.experiment
    if experiment.service:
        trace, load = _LAST.take(cell, shared)
        return Simulated(trace, perf_counter() - began, choice(cell), load)
    streams = experiment.streams(cell.trial, shared)
    workload = experiment.workload
    schedule = workload.arrivals.schedule(workload.queries, streams.generator("arrivals"))
    engine = choice(cell)
    machines, stragglers, corruption = experiment.machines, experiment.stragglers, experiment.corruption
    trace = simulate(machines, cell.policy, stragglers, schedule, streams, hardware, engine.engine, corruption)
    return Simulated(trace, perf_counter() - began, engine)


def simulate_one_of_many(cell: Cell) -> Simulated:
    """Simulate one of the cells of a run."""
    return simulate_cell(cell, shared=_SHARED)


def simulate_for_answers(cell: Cell) -> Unanswered:
    """Simulate and measure a cell whose answers another process computes."""
    simulated = simulate_one_of_many(cell)
    trace, needs_tasks = simulated.trace, cell.experiment.traces is True or cell.experiment.corruption
    return Unanswered(trace if needs_tasks else trace.without_tasks(), _measured(cell, simulated))


def run_cell(cell: Cell, store: RunStore, answerer: AnswerSource | None = None) -> Outcome:
    """Simulate, measure and store a cell without a model, or one with the hardware of `answerer` in the loop."""
    if answerer is None:
        simulated = simulate_one_of_many(cell)
        return store.keep(cell, simulated.trace, _measured(cell, simulated))
    began = perf_counter()
    hardware, answers = answerer.in_the_loop(cell)
    simulated = simulate_cell(cell, hardware, _SHARED)
    answered = answers(simulated.trace)
    simulated = replace(simulated, seconds=perf_counter() - began)
    return _keep(cell, Unanswered(simulated.trace, _measured(cell, simulated)), answered, 0.0, store)


def pack_cell(cell: Cell) -> Parcel:
    """Simulate and measure a cell without a model, and return what `run_cell` writes."""
    return packed(partial(run_cell, cell))


def packed(run: Callable[[RunStore], Outcome]) -> Parcel:
    """Return what `run` returns and writes into a store."""
    with TemporaryDirectory(prefix="parm-cell-") as folder:
        outcome = run(RunStore(Path(folder)))
        files = [file for file in sorted(Path(folder).rglob("*")) if file.name in outcome.files]
        return Parcel(outcome, {file.relative_to(folder).as_posix(): file.read_bytes() for file in files})


def draw_samples(cell: Cell, samples: int) -> Ints:
    """Return the row of the test set, 0 .. samples-1, that each query carries: the same under every policy."""
    workload = cell.experiment.workload
    generator = cell.experiment.streams(cell.trial).generator("samples")
    return workload.sampling.draw(workload.queries, samples, generator)


def in_order(
    function: Callable[[Cell], Any],
    cells: Sequence[Cell],
    workers: int | None = None,
    executor: Executor = LOCAL,
    then: Callable[[Cell, Any], Any] | None = None,
) -> Iterator[tuple[Cell, Any]]:
    """Apply `function`, and `then`, to the cells as `Executor.in_order` does; yield in the cells' order.

    At most 2 * workers results are pending or unread, which bounds the memory for traces. Raises ParmError with the
    name of a cell that fails.
    """
    with contextlib.ExitStack() as afterwards:
        afterwards.callback(_SHARED.clear)  # where this process did the work: the next run may read changed files
        items = together(cells)
        each, more = Each(function), None if then is None else Each(then)
        results = afterwards.enter_context(contextlib.closing(executor.in_order(each, items, workers, more)))
        for item, results_of in zip(items, results, strict=True):
            with _naming(item.cells[0]):
                found = results_of()
            yield from zip(item.cells, found, strict=True)


@contextlib.contextmanager
def _naming(cell: Cell) -> Iterator[None]:
    """Convert exceptions in a cell into a ParmError that names the cell."""
    try:
        yield
    except ParmError as error:
        raise ParmError(f"cell ({cell}): {error}") from error
    except WorkerKilledError as error:
        raise ParmError(
            f"cell ({cell}): a worker was killed, perhaps because memory ran out; "
            "run the same command again to continue, perhaps with fewer --workers."
        ) from error
    except MemoryError as error:
        raise ParmError(
            f"cell ({cell}): there is not enough memory; try fewer --workers or fewer workload.queries."
        ) from error
    except Exception as error:
        says = " ".join(str(error).split())
        raise ParmError(f"cell ({cell}) failed{blamed(error)}: {type(error).__name__}: {says}.") from error


def predict_and_keep(cell: Cell, unanswered: Unanswered, store: RunStore, answerer: AnswerSource) -> Outcome:
    """Compute the answers of a cell, and store it with what they say."""
    began = perf_counter()
    answered = answerer.answer(cell, unanswered.trace)
    return _keep(cell, unanswered, answered, perf_counter() - began, store)


def _keep(cell: Cell, unanswered: Unanswered, answered: Answered, predicting: float, store: RunStore) -> Outcome:
    experiment, trace = cell.experiment, unanswered.trace
    outcome = with_answers(
        replace(unanswered.outcome, seconds=unanswered.outcome.seconds | {"predicting": predicting}),
        trace,
        answered.answers,
        last_of_batch=experiment.counted == "last_of_batch",
        in_time=experiment.in_time,
    )
    return store.keep(cell, trace, outcome, answered.samples, answered.labels, answered.answers)


def _measured(cell: Cell, simulated: Simulated) -> Outcome:
    """Measure a simulated cell, as far as that takes no answers."""
    trace, experiment = simulated.trace, cell.experiment
    warmup = experiment.warmup_queries(trace.queries.arrival)
    scaled = instances(trace, warmup)
    outcome = measure(
        trace,
        policy=cell.policy.label,
        kind=str(cell.policy.name_in_yaml()),
        point=cell.point,
        trial=cell.trial,
        warmup=warmup,
        last_of_batch=experiment.counted == "last_of_batch",
        seconds={"simulating": simulated.seconds, "predicting": 0.0},
        in_time=experiment.in_time,
        price=price(experiment.cluster, plans(cell)) if scaled is None else average_price(experiment.cluster, scaled),
        load=simulated.load,
        target=experiment.at_most,
    )
    known = controls(cell, trace) if experiment.control_variates else {}
    return replace(outcome, controls=known, engine={"name": simulated.engine.engine, "why": simulated.engine.reason})
