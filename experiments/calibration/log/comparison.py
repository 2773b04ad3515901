"""Sets the log beside a simulation of the fitted cluster without redundancy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.calibration.log.answers import Answers
from experiments.calibration.log.conditions import dependence
from experiments.config.schema import Experiment
from experiments.run.cells import cells
from experiments.run.runner import simulate_cell
from sim.files import Floats
from sim.policies import Uncoded
from sim.trace import Ints

MOST = 100_000
"""Most queries that are simulated."""
SHOWN = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


@dataclass(frozen=True)
class Side:
    """The log, or its simulation."""

    seconds: Floats
    """Durations of services; shape (services,)."""
    latency: Floats | None
    """From arrival to the end of the service, if arrivals are known; shape (services,)."""
    correlation: Floats
    """Rank correlation of services of one host at lags 1 to 10; shape (10,)."""
    means: Floats
    """Each host's mean service time; NaN for a host without any; shape (hosts,)."""


@dataclass(frozen=True)
class Comparison:
    """The log and its simulation."""

    observed: Side
    simulated: Side

    def lines(self) -> list[str]:
        """Return the comparison in words."""
        lines = [_quantiles("service", self.observed.seconds, self.simulated.seconds)]
        if self.observed.latency is not None and self.simulated.latency is not None:
            lines.append(_quantiles("latency from arrival", self.observed.latency, self.simulated.latency))
        first, second = float(self.observed.correlation[0]), float(self.simulated.correlation[0])
        lines.append(
            f"rank correlation of a host's services with the next: observed {first:.3f}, simulated {second:.3f}"
        )
        off = np.abs(self.simulated.means / self.observed.means - 1)
        lines.append(
            f"mean service of a host: simulated within {np.nanmax(off):.1%} of observed, half {np.nanmedian(off):.1%}"
        )
        return lines


def compare(answers: Answers, experiment: Experiment) -> Comparison:
    """Simulate the experiment's cluster without redundancy, under at most as many queries as the log has."""
    queries = min(len(answers), MOST, experiment.workload.arrivals.available() or MOST)
    alone = experiment.model_copy(
        update={
            "policies": (Uncoded(kind="none"),),
            "trials": 1,
            "sweep": {},
            "workload": experiment.workload.model_copy(update={"queries": queries}),
        }
    )
    trace = simulate_cell(cells(alone)[0]).trace
    tasks = trace.tasks
    order = np.lexsort((tasks.start, tasks.instance))
    seconds, host = (tasks.finish - tasks.start)[order], tasks.instance[order].astype(np.int64)
    latency = (tasks.finish - trace.queries.arrival[trace.batches.first[tasks.owner]])[order]
    waited = None if answers.arrival is None else answers.start + answers.seconds - answers.arrival
    hosts = len(answers.hosts)
    return Comparison(
        _side(answers.seconds, answers.host, waited, hosts),
        _side(seconds, host, latency if waited is not None else None, hosts),
    )


def _side(seconds: Floats, host: Ints, latency: Floats | None, hosts: int) -> Side:
    counts = np.bincount(host, minlength=hosts)
    with np.errstate(invalid="ignore"):
        means = np.bincount(host, seconds, hosts) / counts
    return Side(seconds, latency, dependence(seconds, counts[counts > 0])[0], means)


def _quantiles(what: str, observed: Floats, simulated: Floats) -> str:
    parts = []
    for name, p in SHOWN.items():
        first, second = float(np.quantile(observed, p)) * 1e3, float(np.quantile(simulated, p)) * 1e3
        parts.append(f"{name} {first:.4g} / {second:.4g} ms ({second / first - 1:+.1%})")
    return f"{what}, observed / simulated: {', '.join(parts)}"
