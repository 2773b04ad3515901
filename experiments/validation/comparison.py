"""How far the simulated latencies are from the real ones, and whether the model would have expected them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.outcome import GRID
from experiments.statistics import Interval, student_t
from sim.streams import Streams
from sim.trace import Floats, Route, Trace

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
REPORTED = ("p50", "p99", "p999")
CENTRAL = (0.025, 0.975)


class Redrawn(Streams):
    """A trial's streams with other service times: the same queries and machines, another day of their work."""

    __slots__ = ("_redraw",)

    def __init__(self, seed: int, trial: int, redraw: int) -> None:
        super().__init__(seed, trial)
        self._redraw = redraw

    def generator(self, purpose: str, *entities: int) -> np.random.Generator:
        """Return the trial's generator, but one of this day's own for services."""
        if purpose == "service":
            return super().generator("service redrawn", self._redraw, *entities)
        return super().generator(purpose, *entities)


@dataclass(frozen=True, slots=True)
class Latencies:
    """One run's latencies after its warm-up, as quantiles at `experiments.outcome.GRID` and the reported ones."""

    quantiles: Floats
    percentiles: dict[str, float]
    reconstructed: float
    """Share of queries that were reconstructed or answered by a backup."""

    @classmethod
    def of(cls, trace: Trace, warmup: int) -> Latencies:
        """Measure a trace, real or simulated, without its first `warmup` queries."""
        kept = trace.queries.latency[warmup:]
        stood_in = np.isin(trace.queries.route[warmup:], (Route.RECONSTRUCTION, Route.BACKUP))
        return cls(
            np.quantile(kept, GRID),
            {name: float(np.quantile(kept, p)) for name, p in PERCENTILES.items()},
            float(stood_in.mean()),
        )


@dataclass(frozen=True, slots=True)
class Trial:
    """One real run and the simulations of the same queries on the same machines."""

    real: Latencies
    simulated: list[Latencies]
    """One for each redraw of the service times."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One percentile of one policy. Times are seconds."""

    real: float
    """Mean over the trials."""
    simulated: float
    """Mean over the trials and redraws."""
    error: Interval
    """Simulated over real, minus one: the mean over the trials with its 95% interval."""
    expected: tuple[float, float]
    """Between these the model expects the mean over the trials, in 95 of 100 cases."""

    @property
    def foreseen(self) -> bool:
        """Whether the real value is where the model expects it."""
        return self.expected[0] <= self.real <= self.expected[1]

    def plain(self) -> dict[str, Any]:
        """Return what JSON holds of it; null for an interval that the data do not allow."""
        ends = [None if np.isnan(end) else float(end) for end in (self.error.lo, self.error.hi)]
        return {
            "real_seconds": self.real,
            "simulated_seconds": self.simulated,
            "error": self.error.value,
            "error_95": ends,
            "model_expects_seconds": list(self.expected),
            "foreseen": self.foreseen,
        }


def compare(trials: Sequence[Trial], percentile: str) -> Compared:
    """Compare one percentile over the trials, of which each has as many redraws."""
    real = np.array([trial.real.percentiles[percentile] for trial in trials])
    simulated = np.array([[one.percentiles[percentile] for one in trial.simulated] for trial in trials])
    errors = simulated.mean(axis=1) / real - 1
    low, high = np.quantile(simulated.mean(axis=0), CENTRAL)
    return Compared(float(real.mean()), float(simulated.mean()), student_t(errors.tolist()), (float(low), float(high)))
