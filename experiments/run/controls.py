"""Control variates of a trial: numbers of what was drawn for it, whose means are known beforehand.

Each is the relative deviation from its mean: `arrivals`, the mean gap between Poisson arrivals; `services`, the mean
of the first service draws of as many queries; `slow_time_0`, ..., the share of time for which instances are in a slow
period. They are the same under every policy with as many instances. `experiments/analysis/quantiles.py` regresses on
them.
"""

from __future__ import annotations

import numpy as np

from experiments.run.cells import Cell
from sim.stragglers import SlowPeriods
from sim.streams import BLOCK, Streams
from sim.trace import Role, Trace
from workloads.arrivals import Poisson


def controls(cell: Cell, trace: Trace) -> dict[str, float]:
    """Return the controls of a cell, by name; those that do not apply are left out."""
    experiment, streams = cell.experiment, cell.experiment.streams(cell.trial)
    queries, end = len(trace.queries), float(trace.queries.arrival[-1])
    found: dict[str, float] = {}
    if isinstance(experiment.workload.arrivals, Poisson):
        found["arrivals"] = end * experiment.workload.arrivals.rate / queries - 1
    service = experiment.cluster.service
    mean = service.mean()
    if mean:
        stream = streams.stream(service.sample, "service", Role.DEPLOYED, 0, 0)
        drawn = np.concatenate([stream.block(number) for number in range(-(-queries // BLOCK))])[:queries]
        found["services"] = float(drawn.mean()) / mean - 1
    for number, straggler in enumerate(experiment.stragglers):
        if isinstance(straggler, SlowPeriods):
            machines = Streams(experiment.seed, cell.trial)  # which are the same for all services
            share = straggler.slow_share(machines, number, trace.instances, end)
            found[f"slow_time_{number}"] = share * (1 + straggler.mean_normal / straggler.mean_slow) - 1
    return {name: value for name, value in found.items() if abs(value) > 0}
