"""The cells of an experiment, each with an id by which a later run recognises it."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from experiments.analysis.outcome import Scalar
from experiments.analysis.summary import point_key
from experiments.config import sweep
from experiments.config.schema import Experiment
from experiments.config.services import SERVICE
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
    simulation: str = ""
    """What is equal for cells that one simulation gives, those of several services."""

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
    for point in sweep.points(experiment.sweep):
        there = experiment.at(point)
        for policy in there.policies:
            several = [_Trials(view, policy, point, experiment.trials, trials) for view in there.viewed(policy)]
            for trial in range(max(len(one.ids) for one in several)):  # services of one simulation stand together
                found.extend(one.cell(trial, words) for one in several if trial < len(one.ids))
    names = Counter(cell.name.lower() for cell in found)  # some file systems ignore case
    return [replace(cell, name=f"{cell.name}-{cell.id}") if names[cell.name.lower()] > 1 else cell for cell in found]


class _Trials:
    """The cells of a policy at a point, one for each trial."""

    def __init__(
        self, view: Experiment, policy: Policy, point: dict[str, Scalar], count: int, trials: Trials | None
    ) -> None:
        self._view = view
        self._point = {**point, SERVICE: view.service} if view.service else point
        self._stem = _stem(policy, self._point)
        count = count if trials is None else trials[point_key(self._point), policy.label]
        self.ids = [*_hashes(view, count)]

    def cell(self, trial: int, words: frozenset[str]) -> Cell:
        """Return the cell of a trial."""
        (policy,) = self._view.policies
        id_, simulation = self.ids[trial]
        return Cell(id_, f"{self._stem}-t{trial}", policy, self._point, trial, self._view, words, simulation)


def _hashes(alone: Experiment, trials: int) -> Iterator[tuple[str, str]]:
    """Yield the id of each trial, and that of the simulation that it is part of."""
    data = alone.whole.resolved()
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
        "reversals",
        "plugins",
    ):
        del data[key]
    data.pop("target", None)  # asked of the results, whatever they are
    for one in data.get("services", {}).values():
        one["target"] = None
    _leave_out(data)
    data["warmup"] = str(alone.whole.warmup_rule)
    common = hashlib.sha256(f"[{json.dumps(data, sort_keys=True, ensure_ascii=True)}, ".encode())
    for trial in range(trials):
        one = common.copy()
        one.update(f"{trial}]".encode())
        simulation = one.hexdigest()[:16]
        if alone.service:
            one.update(f"{alone.service} {alone.warmup_rule}".encode())
        yield one.hexdigest()[:16], simulation


_LATER: dict[str, Any] = {
    "goodput": None,
    "control_variates": False,
    "steal": False,
    "scaler": None,
    "corruption": [],
    "vote": None,
    "errors": 0,
    "graphed": None,
    "mixup": None,
    "cutout": None,
    "chroma": False,
}
"""Options that came later, and their values without effect, with which cells keep the ids that they had before."""


def _leave_out(data: Any) -> None:
    """Take later options out of an experiment's data where they have no effect."""
    if isinstance(data, dict):
        for key in [key for key, value in data.items() if key in _LATER and value == _LATER[key]]:
            del data[key]
    for part in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        _leave_out(part)


def _stem(policy: Policy, point: dict[str, Scalar]) -> str:
    parts = [policy.label, *(f"{_last(key)}={value}" for key, value in point.items())]
    return re.sub(r"[^A-Za-z0-9_.=-]+", "_", "-".join(parts))[:_LONGEST]


def _is_number(value: Scalar) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _last(key: str) -> str:
    """Return the last part of a swept key: enough to identify it in most sweeps."""
    return key.rpartition(".")[2]
