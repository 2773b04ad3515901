"""Which engine simulates a cell, and the compiled one made ready before the workers need it."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.config.services import UNSUPPORTED
from experiments.run.cells import Cell
from experiments.run.progress import Reporter
from sim import compiled
from sim.engines import WORTH_COMPILING, Choice
from sim.simulation import engine_for

SEVERAL = Choice("simpy", f"the compiled engine cannot simulate {UNSUPPORTED}")


def choice(cell: Cell, queries: int | None = None) -> Choice:
    """Return the engine that simulates the cell, as one of many that have so many queries together."""
    experiment = cell.experiment
    if experiment.service:
        return SEVERAL
    return engine_for(
        experiment.engine,
        experiment.machines,
        cell.policy,
        experiment.stragglers,
        queries=experiment.workload.queries if queries is None else queries,
        measured=experiment.execution == "in_the_loop",
    )


def load() -> None:
    """Have the kernel in this process, if there is one on this machine."""
    if compiled.installed() and compiled.ready():
        compiled.compile_kernel()


def make_ready(cells: Sequence[Cell], reporter: Reporter, *, simulated: int = 0) -> None:
    """Compile the kernel if the cells, and `simulated` queries before them, are worth it, and say so.

    Otherwise each worker would compile it for itself.
    """
    queries = simulated + sum(cell.experiment.workload.queries for cell in cells)
    asked = any(cell.experiment.engine == "compiled" for cell in cells)
    if not cells or not (asked or queries >= WORTH_COMPILING) or not compiled.installed() or compiled.ready():
        return
    if any(choice(cell, queries).engine == "compiled" for cell in cells):
        reporter.say("Compiling the simulation engine for this machine, which is done once and takes about 10 s.")
        compiled.compile_kernel()
