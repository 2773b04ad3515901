"""The simulation of several services: one gives a cell of each, which are measured and stored one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from experiments.analysis.outcome import offered
from experiments.config.schema import Experiment
from experiments.run.cells import Cell
from sim.policies.base import PoolPlan
from sim.services import Service, launched, simulate_services
from sim.shared import Shared
from sim.streams import Streams
from sim.trace import Trace


def simulate_together(whole: Experiment, trial: int, shared: Shared | None = None) -> dict[str, Trace]:
    """Simulate all services of an experiment with one policy; return the trace of each, by its name."""
    services = []
    for view in whole.views:
        own = whole.services[view.service]
        workload, generator = view.workload, view.streams(trial, shared).generator("arrivals")
        schedule = workload.arrivals.schedule(workload.queries, generator)
        (policy,) = view.policies
        services.append(Service(view.service, view.machines, policy, schedule, own.priority, own.weight))
    traces = simulate_services(services, whole.sharing, whole.stragglers, Streams(whole.seed, trial, shared))
    return dict(zip(whole.services, traces, strict=True))


def plans(cell: Cell) -> list[PoolPlan]:
    """Return the pools of instances that are launched in a cell, those of other services included."""
    whole = cell.experiment.whole
    if not whole.services:
        return cell.policy.pools(cell.experiment.machines)
    return launched({view.service: (view.machines, view.policies[0]) for view in whole.views}, whole.sharing)


class Last:
    """The traces of the simulation that was asked for last, until each has been taken once."""

    def __init__(self) -> None:
        self._simulation = ""
        self._traces: dict[str, Trace] = {}
        self._load: dict[str, float] = {}

    def take(self, cell: Cell, shared: Shared | None) -> tuple[Trace, dict[str, float]]:
        """Return a cell's trace and the load of the pools by all services; simulates unless that is done."""
        service = cell.experiment.service
        if not cell.simulation or self._simulation != cell.simulation or service not in self._traces:
            self._traces = simulate_together(cell.experiment.whole, cell.trial, shared)
            self._simulation, self._load = cell.simulation, offered([*self._traces.values()])
        return self._traces.pop(service), self._load


@dataclass(frozen=True, slots=True)
class Together:
    """Cells that one simulation gives: what an executor computes at once."""

    cells: tuple[Cell, ...]

    @property
    def experiment(self) -> Experiment:
        """The experiment of one of them, with its plugins."""
        return self.cells[0].experiment


@dataclass(frozen=True, slots=True)
class Each:
    """Applies a function of a cell, and of what was found of it, to each of several cells in one process."""

    function: Callable[..., Any]

    def __call__(self, together: Together, *found: Sequence[Any]) -> list[Any]:
        """Return the results, in the order of the cells."""
        return [self.function(cell, *more) for cell, *more in zip(together.cells, *found, strict=True)]


def together(cells: Sequence[Cell]) -> list[Together]:
    """Return the cells in their order, those as one that one simulation gives."""
    return [Together(tuple(those)) for _, those in groupby(cells, key=lambda cell: cell.simulation)]
