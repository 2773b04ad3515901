"""The cells of an experiment, each with an id by which a later run recognises it."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from experiments.analysis.outcome import Scalar
from experiments.analysis.summary import point_key
from experiments.config.schema import Experiment
from sim.policies import Policy

_LONGEST = 120


@dataclass(frozen=True, slots=True)
class Cell:
    """One policy at one sweep point in one trial."""

    id: str
    """Hash of all options that determine the cell's result."""
    name: str
    """Stem of the cell's trace files: `<policy>-<point>-t<trial>`."""
    policy: Policy
    point: dict[str, Scalar]
    """The swept keys and their values here; empty without a sweep."""
    trial: int
    experiment: Experiment
    """The experiment at this point, with this policy alone and without a sweep."""
    words: frozenset[str] = frozenset()
    """Swept keys with a value that is not a number; tables hold their values as text."""

    def __str__(self) -> str:
        return ", ".join(
            [self.policy.label, *(f"{_last(key)}={value}" for key, value in self.point.items()), f"trial {self.trial}"]
        )


Trials = Mapping[tuple[str, str], int]
"""How many trials there are, by sweep point (see `summary.point_key`) and policy."""


def cells(experiment: Experiment, trials: Trials | None = None) -> list[Cell]:
    """Return the experiment's cells in their fixed order: by point, then policy, then trial.

    `trials` says how many there are of each policy at each sweep point where these are not the experiment's.
    """
    found: list[Cell] = []
    points = experiment.points()
    words = frozenset(key for point in points for key, value in point.items() if not _is_number(value))
    for point in points:
        there = experiment.at(point)
        for policy in there.policies:
            alone = there.model_copy(update={"policies": (policy,), "figures": None})
            count = experiment.trials if trials is None else trials[point_key(point), policy.label]
            stem, ids = _stem(policy, point), _hashes(alone, count)
            found.extend(
                Cell(one, f"{stem}-t{trial}", policy, point, trial, alone, words) for trial, one in enumerate(ids)
            )
    names = Counter(cell.name.lower() for cell in found)  # some file systems ignore case
    return [replace(cell, name=f"{cell.name}-{cell.id}") if names[cell.name.lower()] > 1 else cell for cell in found]


def _hashes(alone: Experiment, trials: int) -> Iterator[str]:
    """Yield the id of each trial."""
    data = alone.resolved()
    for key in (
        "name",
        "trials",
        "precision",
        "select",
        "sweep",
        "figures",
        "traces",
        "engine",
        "reference",
        "claims",
        "plugins",
    ):
        del data[key]
    for key in ("goodput", "control_variates", "corruption"):
        if not data[key]:
            del data[key]  # cells without it keep their ids
    data["warmup"] = str(alone.warmup_rule)
    common = hashlib.sha256(f"[{json.dumps(data, sort_keys=True, ensure_ascii=True)}, ".encode())
    for trial in range(trials):
        one = common.copy()
        one.update(f"{trial}]".encode())
        yield one.hexdigest()[:16]


def _stem(policy: Policy, point: dict[str, Scalar]) -> str:
    parts = [policy.label, *(f"{_last(key)}={value}" for key, value in point.items())]
    return re.sub(r"[^A-Za-z0-9_.=-]+", "_", "-".join(parts))[:_LONGEST]


def _is_number(value: Scalar) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _last(key: str) -> str:
    """Return the last part of a swept key: enough to identify it in most sweeps."""
    return key.rpartition(".")[2]
