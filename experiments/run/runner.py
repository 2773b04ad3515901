"""Runs an experiment's cells: workers simulate; the main process predicts, measures and stores, in the cells' order.

Without a model the workers do everything, so that the main process is no bottleneck and torch is never imported. With
the hardware in the loop the main process does everything, so that nothing else runs while a service is timed. Results
do not depend on the order in which cells finish: every cell has its own random streams.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Protocol, TypeVar

from backends.blame import blamed
from backends.processes import Pool, WorkerKilledError
from experiments.analysis.cost import price
from experiments.analysis.outcome import Outcome, measure
from experiments.run.cells import Cell
from experiments.run.controls import controls
from experiments.run.engines import choice, make_ready
from experiments.run.progress import Reporter
from experiments.run.store import RunStore
from sim.engines import Choice
from sim.errors import ParmError
from sim.simulation import Hardware, simulate
from sim.streams import Streams
from sim.trace import Ints, Trace

if TYPE_CHECKING:
    from backends.answers import Answers

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Answered:
    """The answers that the clients of a cell received, and the samples they sent."""

    samples: Ints
    """Row of the test set that each query carried, shape (queries,)."""
    labels: Ints
    """True classes of the test set, shape (samples of the test set,)."""
    answers: Answers


class AnswerSource(Protocol):
    """Computes the answers of the models."""

    def answer(self, cell: Cell, trace: Trace) -> Answered:
        """Compute the answer that each client in the cell's trace received."""
        ...

    def in_the_loop(self, cell: Cell) -> tuple[Hardware, Callable[[Trace], Answered]]:
        """Return the hardware for the cell's simulation, and a function from its trace to the answers."""
        ...


def default_workers() -> int:
    """Return the number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not available on this system
        return os.cpu_count() or 1


def run_cells(
    cells: Sequence[Cell], store: RunStore, *, workers: int, answerer: AnswerSource | None, reporter: Reporter
) -> Iterator[tuple[Cell, Outcome]]:
    """Run `cells` and yield each with its outcome, in the given order, once it is written to `store`.

    Raises ParmError with the cell's name if one fails; earlier cells are kept.
    """
    make_ready(cells, reporter)
    with reporter.task("simulating", len(cells)) as advance:
        if answerer is None or any(cell.experiment.execution == "in_the_loop" for cell in cells):
            whole = partial(run_cell, store=store, answerer=answerer)
            for cell, outcome in in_order(whole, cells, workers if answerer is None else 1):
                advance(str(cell))
                yield cell, outcome
            return
        for cell, simulated in in_order(simulate_cell, cells, workers):
            with _naming(cell):
                outcome = _predict_and_keep(cell, simulated, store, answerer)
            advance(str(cell))
            yield cell, outcome


@dataclass(frozen=True, slots=True)
class Simulated:
    """A simulated cell."""

    trace: Trace
    seconds: float
    """Wall time that it took."""
    engine: Choice


def simulate_cell(cell: Cell, hardware: Hardware | None = None) -> Simulated:
    """Simulate a cell, with `hardware` in the loop if any."""
    began = perf_counter()
    experiment = cell.experiment
    streams = Streams(experiment.seed, cell.trial)
    workload = experiment.workload
    schedule = workload.arrivals.schedule(workload.queries, streams.generator("arrivals"))
    engine = choice(cell)
    machines, stragglers = experiment.machines, experiment.stragglers
    trace = simulate(machines, cell.policy, stragglers, schedule, streams, hardware, engine.engine)
    return Simulated(trace, perf_counter() - began, engine)


def run_cell(cell: Cell, store: RunStore, answerer: AnswerSource | None = None) -> Outcome:
    """Simulate, measure and store a cell without a model, or one with the hardware of `answerer` in the loop."""
    if answerer is None:
        simulated = simulate_cell(cell)
        outcome = _measured(cell, simulated, None, {"simulating": simulated.seconds, "predicting": 0.0})
        return store.keep(cell, simulated.trace, outcome)
    began = perf_counter()
    hardware, answers = answerer.in_the_loop(cell)
    simulated = simulate_cell(cell, hardware)
    answered = answers(simulated.trace)
    return _keep(cell, simulated, answered, {"simulating": perf_counter() - began, "predicting": 0.0}, store)


def draw_samples(cell: Cell, samples: int) -> Ints:
    """Return the row of the test set, 0 .. samples-1, that each query carries: the same under every policy."""
    workload = cell.experiment.workload
    generator = Streams(cell.experiment.seed, cell.trial).generator("samples")
    return workload.sampling.draw(workload.queries, samples, generator)


def in_order(function: Callable[[Cell], Result], cells: Sequence[Cell], workers: int) -> Iterator[tuple[Cell, Result]]:
    """Apply `function` to the cells in `workers` processes, or in this one if that is 1; yield in the cells' order.

    At most 2 * workers results are pending or unread, which bounds the memory for traces.
    """
    with Pool(function, min(workers, len(cells))) as pool:
        for cell, result_of in zip(cells, pool.in_order(cells), strict=True):
            with _naming(cell):
                result = result_of()
            yield cell, result


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


def _predict_and_keep(cell: Cell, simulated: Simulated, store: RunStore, answerer: AnswerSource) -> Outcome:
    began = perf_counter()
    answered = answerer.answer(cell, simulated.trace)
    spent = {"simulating": simulated.seconds, "predicting": perf_counter() - began}
    return _keep(cell, simulated, answered, spent, store)


def _keep(cell: Cell, simulated: Simulated, answered: Answered, spent: dict[str, float], store: RunStore) -> Outcome:
    outcome = _measured(cell, simulated, answered.answers, spent)
    return store.keep(cell, simulated.trace, outcome, answered.samples, answered.labels, answered.answers)


def _measured(cell: Cell, simulated: Simulated, answers: Answers | None, seconds: dict[str, float]) -> Outcome:
    trace = simulated.trace
    outcome = measure(
        trace,
        answers,
        policy=cell.policy.label,
        kind=str(cell.policy.name_in_yaml()),
        point=cell.point,
        trial=cell.trial,
        warmup=cell.experiment.warmup_queries(trace.queries.arrival),
        last_of_batch=cell.experiment.counted == "last_of_batch",
        seconds=seconds,
        in_time=cell.experiment.in_time,
        price=price(cell.experiment.cluster, cell.policy.pools(cell.experiment.machines)),
    )
    known = controls(cell, trace) if cell.experiment.control_variates else {}
    return replace(outcome, controls=known, engine={"name": simulated.engine.engine, "why": simulated.engine.reason})
