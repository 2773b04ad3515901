"""What a run would cost: a sample of each policy is simulated and scaled up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from time import perf_counter
from typing import Any

from experiments.config.schema import Experiment
from experiments.run.cells import Cell
from experiments.run.runner import simulate_cell
from experiments.run.store import query_table, task_table

SAMPLE = 2000
"""Queries that are simulated of each policy, at most."""


@dataclass(frozen=True)
class Forecast:
    """What the cells of an experiment take, without training and answering."""

    queries: int
    cpu_seconds: float
    """Simulating and writing, on one core of this machine as busy as it is now."""
    bytes: float
    """Disk for queries and tasks; 0 if traces are not kept."""

    def __str__(self) -> str:
        disk = f", {_bytes(self.bytes)} of disk" if self.bytes else ""
        return f"{self.queries:,} queries, about {_time(self.cpu_seconds)} of one core{disk}"


def forecast(cells: Sequence[Cell], trials: int) -> Forecast:
    """Return what `trials` trials of these cells would take, from a sample of each policy at its first sweep point.

    `cells` has one trial of each. A cell that cannot be simulated in part, such as a closed loop's last query, counts
    as its sample does. Raises ParmError as a run would.
    """
    import pyarrow.parquet as pq

    queries, seconds, size = 0, 0.0, 0.0
    sampled: dict[str, tuple[float, float]] = {}
    for cell in cells:
        workload = cell.experiment.workload
        if cell.policy.label not in sampled:
            part = _shortened(cell.experiment)
            count = sum(view.workload.queries for view in part.whole.views)
            small = replace(cell, experiment=part, simulation="")
            simulate_cell(small)  # the first run imports and compiles
            began = perf_counter()
            trace = simulate_cell(small).trace
            written = 0
            if cell.experiment.traces:
                tasks = [task_table(small, trace)] if cell.experiment.traces is True else []
                for table in (query_table(small, trace, 0), *tasks):
                    file = BytesIO()
                    pq.write_table(table, file, compression="zstd")
                    written += len(file.getvalue())
            sampled[cell.policy.label] = (perf_counter() - began) / count, written / len(trace.queries)
        each, disk = sampled[cell.policy.label]
        queries += trials * workload.queries
        seconds += trials * workload.queries * each
        size += trials * workload.queries * disk
    return Forecast(queries, seconds, size)


def _shortened(experiment: Experiment) -> Experiment:
    """Return an experiment, or a service's view, of `SAMPLE` queries in all, if it has more."""
    whole = experiment.whole
    update: dict[str, Any] = {"execution": "deferred"}
    update["workload"] = whole.workload.model_copy(update={"queries": min(SAMPLE, whole.workload.queries)})
    if not experiment.service:
        return whole.model_copy(update=update)
    each = {view.service: view.workload.queries for view in whole.views}
    share = min(1.0, SAMPLE / sum(each.values()))
    update["services"] = {
        name: one.model_copy(update={"queries": max(1, int(share * each[name]))})
        for name, one in whole.services.items()
    }
    return next(view for view in whole.model_copy(update=update).views if view.service == experiment.service)


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _bytes(count: float) -> str:
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"
