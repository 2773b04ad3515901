"""The manifest: software, machine, models, and the computing time of each cell."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from experiments.analysis.outcome import Outcome
from experiments.config.schema import Experiment
from experiments.run.cells import Cell
from sim.simulation import without_effect

FORMAT = 1
MEASURED = (
    "the service times were measured with the hardware in the loop: the same seed gives the same queries and machines, "
    "but not the same traces byte for byte"
)
PACKAGES = ("parm", "numpy", "numba", "simpy", "pydantic", "pyarrow", "torch", "torchvision", "onnxruntime")


def manifest(
    experiment: Experiment,
    cells: Sequence[Cell],
    outcomes: Mapping[str, Outcome],
    *,
    device: str | None,
    workers: int,
    executor: Mapping[str, Any],
    models: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the manifest as JSON text; `outcomes` holds the finished cells by id.

    `device` is None for a run that computed no answers.
    """
    document = {
        "format": FORMAT,
        "name": experiment.name,
        "seed": experiment.seed,
        "trials": experiment.trials,
        "command": command(),
        "complete": all(cell.id in outcomes for cell in cells),
        **made_with(),
        "device": device,
        "workers": workers,
        "executor": dict(executor),
        "notes": notes(experiment, cells),
        "models": [dict(model) for model in models],
        "passes": _total([outcome.passes for outcome in outcomes.values()]),
        "reused": _total([outcome.reused for outcome in outcomes.values()]),
        "cells": [_cell(cell, outcomes[cell.id]) for cell in cells if cell.id in outcomes],
    }
    return json.dumps(document, indent=1, default=str) + "\n"


def notes(experiment: Experiment, cells: Sequence[Cell]) -> list[str]:
    """Return caveats for readers of the experiment's results."""
    measured = [MEASURED] if experiment.execution == "in_the_loop" else []
    points: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.trial == cells[0].trial:
            points.setdefault(repr(cell.point), []).append(cell)
    found = Counter(
        says
        for there in points.values()
        for says in without_effect(there[0].experiment.machines, [cell.policy for cell in there])
    )
    return [
        *measured,
        *(
            says if at == len(points) else f"{says} (at {at} of {len(points)} sweep points)"
            for says, at in found.items()
        ),
    ]


def made_with() -> dict[str, Any]:
    """Return the part about software and machine that every manifest has."""
    return {
        "versions": versions(),
        "platform": {"system": platform.platform(), "machine": platform.machine(), "cores": os.cpu_count()},
        "git": git_revision(),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that may affect a run's numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_revision() -> str | None:
    """Return the git revision of the source tree, with `-dirty` if it has changes; None without git."""
    home = Path(__file__).resolve().parents[2]
    if not (home / ".git").exists():
        return None
    try:
        revision = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=home,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return revision.stdout.strip() or None


def command() -> list[str]:
    """Return the words of the command that started this process, with `parm` for the path of the script."""
    return ["parm", *sys.argv[1:]]


def command_line() -> str:
    """Return that command quoted for a shell."""
    return shlex.join(command())


def _cell(cell: Cell, outcome: Outcome) -> dict[str, Any]:
    return {
        "id": cell.id,
        "policy": cell.policy.label,
        "point": cell.point,
        "trial": cell.trial,
        "trace": f"queries/{cell.name}.parquet" if cell.experiment.traces else None,
        "queries": outcome.queries,
        "warmup": outcome.warmup,
        "seconds": outcome.seconds,
        "engine": outcome.engine,
        "passes": outcome.passes,
        "reused": outcome.reused,
    }


def _total(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for count in counts:
        for role, number in count.items():
            total[role] = total.get(role, 0) + number
    return total
