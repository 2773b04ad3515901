"""Fits the free options of an experiment to measurements of a real cluster.

Every evaluation uses the same random numbers, so that the loss is a smooth function of the options. The loss is the
weighted mean of squared log-ratios, each in units of its tolerance. The simplex method of Nelder and Mead (The Computer
Journal 7, 1965) minimises it in stages, first with few queries at few points of the sweep, then with more.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from pydantic import ValidationError

from backends.processes import Pool, WorkerKilledError
from experiments.analysis.percentiles import probability
from experiments.calibration.options import Aim, Calibration, FittedMetric, Stage
from experiments.run.cells import Cell, cells
from sim.errors import ParmError

Values = dict[str, float]
"""The free options by name."""
Run = Callable[[Sequence[Cell]], list[dict[str, float]]]
"""Simulates cells and returns the metrics of each, in seconds."""
PERCENTILES = [name for name in get_args(get_args(FittedMetric)[0]) if name != "mean"]


@dataclass(frozen=True, slots=True)
class Residual:
    """One measured value beside the simulated one, in seconds."""

    policy: str
    metric: FittedMetric
    point: str
    measured: float
    simulated: float
    aim: Aim
    noise: float | None = None
    """Relative standard error of the measured value, if known."""

    @property
    def ratio(self) -> float:
        """Simulated over measured."""
        return self.simulated / self.measured

    @property
    def met(self) -> bool:
        """Whether it is within the tolerance."""
        return abs(self.ratio - 1) <= self.aim.tolerance

    @property
    def loss(self) -> float:
        """The weighted squared log-ratio, in units of the tolerance."""
        return self.aim.weight * (math.log(self.ratio) / math.log1p(self.noise or self.aim.tolerance)) ** 2


def residuals(calibration: Calibration, values: Values, run: Run, stage: Stage | None = None) -> list[Residual]:
    """Simulate with the free options at `values`, at full size or a stage's size, and return the residuals."""
    everywhere = calibration.experiment.points()
    places = range(len(everywhere)) if stage is None or stage.points is None else stage.points
    size = {} if stage is None else {"queries": stage.queries, "trials": stage.trials}
    experiment = calibration.at(values, **size)
    wanted = [everywhere[place] for place in places]
    todo = [cell for cell in cells(experiment) if cell.point in wanted]
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for cell, metrics in zip(todo, run(todo), strict=True):
        found.setdefault((cell.policy.label, str(cell.point)), []).append(metrics)
    return [
        Residual(
            target.policy,
            target.metric,
            ", ".join(f"{value:g}" if isinstance(value, float) else f"{value}" for value in everywhere[place].values()),
            known / 1e3,
            float(np.median([one[target.metric] for one in found[target.policy, str(everywhere[place])]])),
            calibration.aims[target.metric],
            target.noise,
        )
        for target in calibration.targets
        for place in places
        if (known := target.milliseconds[place]) is not None
    ]


def total_loss(found: Sequence[Residual]) -> float:
    """Return the weighted mean of the residuals' losses, which is below 1 if most are within tolerance."""
    return sum(one.loss for one in found) / sum(one.aim.weight for one in found)


def simulated(cell: Cell) -> dict[str, float]:
    """Simulate a cell and return every metric that can be a target, in seconds."""
    from experiments.run.runner import simulate_cell

    trace = simulate_cell(cell).trace
    latency = trace.queries.latency[cell.experiment.warmup_queries(trace.queries.arrival) :]
    quantiles = np.quantile(latency, [probability(name) for name in PERCENTILES])
    return {"mean": float(latency.mean()), **dict(zip(PERCENTILES, quantiles.tolist(), strict=True))}


@contextlib.contextmanager
def workers(count: int) -> Iterator[Run]:
    """Yield a function that simulates cells in `count` processes, or in this one if `count` is 1.

    Raises ParmError if a worker is killed.
    """
    with Pool(count) as pool:
        try:
            yield lambda todo: [result() for result in pool.in_order(simulated, todo)]
        except WorkerKilledError as error:
            raise ParmError("a worker was killed, perhaps because memory ran out; try fewer --workers.") from error


def fit(calibration: Calibration, run: Run, say: Callable[[str], None]) -> Values:
    """Run the stages of the search and return the free options' best values.

    The search is in logarithms. Beyond a bound the loss increases from its value at the bound; it is infinite if the
    experiment rejects the values.
    """
    from scipy.optimize import minimize

    names = list(calibration.free)
    free = list(calibration.free.values())
    low, high = np.log([one.low for one in free]), np.log([one.high for one in free])
    steps = np.diag(np.log1p([one.step for one in free]))
    best = np.log([one.start for one in free])
    for number, stage in enumerate(calibration.search):
        lowest = math.inf

        def loss(logs: Any, number: int = number, stage: Stage = stage) -> float:
            nonlocal lowest
            inside = np.clip(logs, low, high)
            values = dict(zip(names, np.exp(inside).tolist(), strict=True))
            try:
                here = total_loss(residuals(calibration, values, run, stage))
            except ValidationError:
                return math.inf
            here += 100 * float(np.abs(logs - inside).sum())
            if here < lowest:
                lowest = here
                say(f"stage {number + 1}: loss {here:.4f} at {describe(values)}")
            return here

        simplex = np.vstack([best, best + steps / 2**number])
        found = minimize(
            loss,
            best,
            method="Nelder-Mead",
            options={"initial_simplex": simplex, "maxfev": stage.evaluations, "xatol": 1e-3, "fatol": 1e-3},
        )
        best = np.clip(found.x, low, high)
    return {name: float(f"{value:.5g}") for name, value in zip(names, np.exp(best), strict=True)}


def describe(values: Mapping[str, float]) -> str:
    """Return values as `name 1.5, other 2`."""
    return ", ".join(f"{name} {value:.5g}" for name, value in values.items())


def summary(found: Sequence[Residual]) -> str:
    """Return for each metric the number of residuals within tolerance, and the worst residual."""
    parts = []
    for metric in dict.fromkeys(one.metric for one in found):
        mine = [one for one in found if one.metric == metric]
        worst = max(mine, key=lambda one: abs(math.log(one.ratio)))
        parts.append(
            f"{metric}: {sum(one.met for one in mine)} of {len(mine)} within {worst.aim.tolerance:.0%}, "
            f"worst {worst.ratio - 1:+.1%}"
        )
    return "; ".join(parts)
