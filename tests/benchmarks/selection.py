"""How often `select` is right, and what it saves: `python -m tests.benchmarks.selection --trials 300`.

A pool of independent trials of each policy and sweep point of `experiments/frontier.yaml`, without its model, is
simulated once and kept in a folder, so that an interrupted call goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from experiments.analysis.outcome import GRID
from experiments.config import loader
from experiments.run.cells import Cell, cells
from experiments.run.runner import simulate_cell
from sim.trace import Floats

FILE = Path("experiments/frontier.yaml")


def pool(trials: int, folder: Path) -> dict[str, dict[str, Floats]]:
    """Return quantile functions in seconds, shape (trials, len(GRID)), by sweep point and policy."""
    folder.mkdir(parents=True, exist_ok=True)
    every = cells(loader.load(FILE, ["model=null", "engine=compiled", f"trials={trials}"]))
    found: dict[str, dict[str, Floats]] = {}
    for first in range(0, len(every), trials):
        mine = every[first : first + trials]
        where = ", ".join(f"{key.rpartition('.')[2]} = {value}" for key, value in mine[0].point.items())
        found.setdefault(where, {})[mine[0].policy.label] = _functions(mine, folder / f"{mine[0].name[:-3]}.npy")
    return found


def _functions(mine: list[Cell], kept: Path) -> Floats:
    found = list(np.load(kept)) if kept.is_file() else []
    for cell in mine[len(found) :]:
        queries = simulate_cell(cell).trace.queries
        found.append(np.quantile(queries.latency[cell.experiment.warmup_queries(queries.arrival) :], GRID))
        if len(found) == len(mine):
            np.save(kept, np.array(found))
    return np.array(found[: len(mine)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20, help="trials in each pool")
    parser.add_argument("--out", type=Path, default=Path("runs/selection"))
    given = parser.parse_args()
    pool(given.trials, given.out)


if __name__ == "__main__":
    main()
