"""The search for the best policy of a run's sweep points, which says which trials are wanted next."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from experiments.analysis.outcome import NOT_WRITTEN_BY_US, Outcome
from experiments.analysis.selection import Selection, by_point
from experiments.analysis.summary import point_key
from experiments.config.schema import Experiment
from experiments.run.cells import Cell, Trials, cells
from experiments.run.store import RunStore
from sim.errors import ParmError

FILE = "selection.json"
"""Says how many trials of each policy at each sweep point a finished run has, and what came of them."""


class Selecting:
    """A selection at each sweep point of an experiment that asks for one."""

    def __init__(self, experiment: Experiment) -> None:
        assert experiment.select is not None
        self.rule = experiment.select.rule(experiment.trials)
        names = [policy.label for policy in experiment.policies]
        self._points = {point_key(point): Selection(names, self.rule) for point in experiment.points()}
        self._where = {point_key(point): point for point in experiment.points()}

    @property
    def wanted(self) -> Trials:
        """The trials that are wanted so far."""
        return {(key, policy): count for key, one in self._points.items() for policy, count in one.trials.items()}

    @property
    def looked_at(self) -> Trials:
        """The trials of the last look."""
        return {(key, policy): one.seen(policy) for key, one in self._points.items() for policy in one.policies}

    def look(self, outcomes: Sequence[Outcome]) -> bool:
        """Look at the trials that were wanted; return whether more are wanted."""
        points = by_point(outcomes)
        return sum(one.look(points[key]) for key, one in self._points.items()) > 0

    def as_json(self) -> str:
        """Return the text of `selection.json`: the standing of each policy at each sweep point, and its trials."""
        found: list[dict[str, Any]] = []
        for key, one in self._points.items():
            marks = [
                {"policy": mark.policy, "standing": mark.standing.value, "trials": mark.trials} for mark in one.marks()
            ]
            found.append({"point": self._where[key], "settled": one.settled, "policies": marks})
        rule = {"metric": self.rule.metric, "within": self.rule.zone, "confidence": self.rule.confidence}
        return json.dumps({"format": 1, **rule, "points": found}, indent=1) + "\n"


def cells_of(experiment: Experiment, store: RunStore) -> list[Cell]:
    """Return the cells of a finished run, whose policies may have different numbers of trials.

    Raises ParmError if that is not known, since the run was not finished.
    """
    if experiment.select is None:
        return cells(experiment)
    file = store.folder / FILE
    try:
        points = json.loads(file.read_text(encoding="utf-8"))["points"]
        trials = {
            (point_key(one["point"]), each["policy"]): each["trials"] for one in points for each in one["policies"]
        }
        return cells(experiment, trials)
    except FileNotFoundError:
        raise ParmError(f"{store.folder} holds no {FILE}: finish the run with the same command first.") from None
    except (OSError, *NOT_WRITTEN_BY_US) as error:
        raise ParmError(
            f"{file} cannot be read: {' '.join(str(error).split())}; 'parm run' writes it again."
        ) from error
