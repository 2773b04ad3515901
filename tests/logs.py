"""Logs of simulated clusters, as `parm fit` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.calibration.log.answers import Answers, Columns
from experiments.config.schema import Experiment
from experiments.run.cells import cells
from experiments.run.runner import simulate_cell
from sim.trace import Trace

HOSTS = 8


def experiment(queries: int, seed: int = 1, rate: float = 180, **options: Any) -> Experiment:
    """Eight hosts of 25 ms, or what `options` of the YAML's top level make of it."""
    plain = {
        "name": "known",
        "seed": seed,
        "trials": 1,
        "workload": {"arrivals": {"kind": "poisson", "rate": rate}, "queries": queries},
        "cluster": {"instances": HOSTS, "extra": 4, "service": {"kind": "gamma", "mean": 0.025, "shape": 25}},
        "policies": ["none"],
    }
    return Experiment.model_validate({**plain, **options})


def simulated(known: Experiment) -> Trace:
    """The first policy's trace."""
    return simulate_cell(cells(known)[0]).trace


def answers(known: Experiment) -> Answers:
    """The log of a simulation, without a file."""
    tasks = simulated(known).tasks
    order = np.lexsort((tasks.start, tasks.instance))
    host = tasks.instance[order].astype(np.int64)
    names = tuple(str(one) for one in range(known.cluster.instances))
    return Answers(
        Path("log.csv"), Columns(), names, host, tasks.start[order], (tasks.finish - tasks.start)[order], None, ()
    )


def write(known: Experiment, file: Path, head: str = "arrival,start,end,seconds,latency,host") -> Path:
    """Write the log of a simulation as a table; hosts are named h0, h1, ..."""
    trace = simulated(known)
    tasks = trace.tasks
    arrival = trace.queries.arrival[tasks.owner]
    columns = (arrival, tasks.start, tasks.finish, tasks.finish - tasks.start, tasks.finish - arrival)
    rows = [",".join(map(repr, row)) for row in zip(*(column.tolist() for column in columns), strict=True)]
    lines = [f"{row},h{host}" for row, host in zip(rows, tasks.instance.tolist(), strict=True)]
    file.write_text("\n".join([head, *lines]) + "\n")
    return file
