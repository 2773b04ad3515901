"""Errors of the simulated latencies, and whether the real ones are in the range that the model expects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from experiments.analysis.statistics import Interval
from sim.streams import Streams
from sim.trace import Floats, Route, Trace

REPORTED = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
CENTRAL = (0.025, 0.975)
RESAMPLES = 400
"""Of the trials, for an interval."""


class Redrawn(Streams):
    """A trial's streams with other service times: the same queries and machines, another day of their work."""

    __slots__ = ("_redraw",)

    def __init__(self, seed: int, trial: int, redraw: int) -> None:
        super().__init__(seed, trial)
        self._redraw = redraw

    def generator(self, purpose: str, *entities: int) -> np.random.Generator:
        """Return the trial's generator, but one of this day's own for services."""
        if purpose in ("service", "competing"):
            return super().generator(f"{purpose} redrawn", self._redraw, *entities)
        return super().generator(purpose, *entities)


@dataclass(frozen=True, slots=True)
class Latencies:
    """One run's latencies after its warm-up."""

    seconds: Floats
    """Shape (queries,)."""
    stood_in: float
    """Share of queries that were reconstructed or answered by a backup."""

    @classmethod
    def of(cls, trace: Trace, warmup: int) -> Latencies:
        """Take them from a trace, real or simulated, without its first `warmup` queries."""
        stood_in = np.isin(trace.queries.route[warmup:], (Route.RECONSTRUCTION, Route.BACKUP))
        return cls(trace.queries.latency[warmup:], float(stood_in.mean()))


@dataclass(frozen=True, slots=True)
class Trial:
    """One real run and the simulations of the same queries on the same machines."""

    real: Latencies
    simulated: list[Latencies]
    """One for each redraw of the service times."""


def real_latencies(trials: Sequence[Trial]) -> Floats:
    """Return the real latencies, shape (trials, queries)."""
    return np.stack([trial.real.seconds for trial in trials])


def simulated_latencies(trials: Sequence[Trial]) -> Floats:
    """Return the simulated latencies, shape (redraws, trials, queries)."""
    return np.stack([[one.seconds for one in trial.simulated] for trial in trials], axis=1)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One percentile of one policy, over the queries of all trials. Times are seconds."""

    real: float
    simulated: float
    """Mean over the redraws."""
    error: Interval
    """Simulated over real, minus one, with its 95% interval over the trials."""
    expected: tuple[float, float]
    """Between these the model expects the real value, in 95 of 100 cases."""

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


def compare(trials: Sequence[Trial], probabilities: Sequence[float]) -> list[Comparison]:
    """Compare percentiles of the queries of all trials; trials have equal numbers of queries and of redraws.

    Machines drift, and a trial's real run and simulation drift together; queries of one trial depend on each other.
    So the interval resamples whole trials, real and simulated at once: the bootstrap's standard error (Efron and
    Tibshirani 1993, chapter 6; times sqrt(n / (n - 1)), which it is too small by) and Student's t for n trials.
    """
    real, simulated = real_latencies(trials), simulated_latencies(trials)
    count = len(trials)
    found_real, found = _quantiles(real, probabilities), _quantiles(simulated, probabilities)
    mean = found.mean(axis=1)
    generator = np.random.default_rng(count)
    errors: list[Floats] = []
    for _ in range(RESAMPLES if count > 1 else 0):
        chosen = generator.integers(count, size=count)
        errors.append(
            _quantiles(simulated[:, chosen], probabilities).mean(axis=1) / _quantiles(real[chosen], probabilities) - 1
        )
    margin = np.full(len(probabilities), np.nan)
    if errors:
        margin = stdtrit(count - 1, 0.975) * np.std(errors, axis=0) * np.sqrt(count / (count - 1))
    return [
        Comparison(
            float(found_real[place]),
            float(mean[place]),
            Interval(error, error - margin[place], error + margin[place]),
            (float(low), float(high)),
        )
        for place, (error, low, high) in enumerate(
            zip((mean / found_real - 1).tolist(), *np.quantile(found, CENTRAL, axis=1), strict=True)
        )
    ]


def _quantiles(seconds: Floats, probabilities: Sequence[float]) -> Floats:
    """Return the quantiles of all trials' queries together: (..., trials, queries) -> (probabilities, ...)."""
    result: Floats = np.quantile(seconds.reshape(*seconds.shape[:-2], -1), probabilities, axis=-1)
    return result
