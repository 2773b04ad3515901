"""Instances that answer wrongly: which they are, and from when until when. What they answer is computed in `backends`.

Nothing here changes when an answer comes: corruption is invisible but for what is answered. Only a vote, which compares
answers, waits for another one where they differ.
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt

from sim.distributions import Distribution
from sim.distributions.families import Deterministic
from sim.kinds import Kind
from sim.streams import Streams
from sim.trace import Floats, Tasks, Trace

RIGHT = 0
"""The mark of a right answer; that of a wrong one is 1 + the index of its cause in the experiment's list."""


class Corruption(Kind):
    """A cause of wrong answers: some instances, for some time, do not answer what their model would."""

    family: ClassVar[str] = "corruption"
    instances: NonNegativeInt | tuple[NonNegativeInt, ...] = 1
    """How many instances answer wrongly, drawn in each trial among those that all pools begin with; or a list
    of their numbers, with a scaler also of those that it may add, which come after all others."""
    after: Distribution = Deterministic(value=0.0)
    """Seconds from the beginning until an instance's answers become wrong, drawn for each instance."""
    lasts: Distribution | None = None
    """Seconds for which they are wrong, drawn likewise; to the end where not given."""

    @property
    @abstractmethod
    def alike(self) -> bool:
        """Whether all corrupt instances answer the same to the same query, so that a vote takes them for agreed."""

    def periods(self, streams: Streams, number: int, instances: int, more: int = 0) -> Floats:
        """Return (from, until) of each instance's wrong answers, in seconds: shape (instances + more, 2).

        They are infinite for none. `more` instances may be added to those of the beginning.

        `number` is the cause's index in the experiment's list. All that is drawn for an instance depends on its number
        alone, but for how many others there are to choose among. Raises ValueError where there are too few.
        """
        found = np.full((instances + more, 2), math.inf)
        generators = [streams.generator("corruption", number, instance) for instance in range(instances + more)]
        lots = np.array([generator.random() for generator in generators])
        for instance in self._chosen(lots, instances):
            begins = float(self.after.sample(generators[instance], 1)[0])
            lasts = math.inf if self.lasts is None else float(self.lasts.sample(generators[instance], 1)[0])
            found[instance] = begins, begins + lasts
        return found

    def _chosen(self, lots: Floats, begun: int) -> Sequence[int]:
        """Return the corrupt instances: those of the lowest lots among the first `begun`."""
        if isinstance(self.instances, int):
            if self.instances > begun:
                raise ValueError(f"{self.instances} corrupt instances are more than the {begun} that the policy uses")
            return [int(one) for one in np.argsort(lots[:begun], kind="stable")[: self.instances]]
        if max(self.instances, default=0) >= len(lots):
            raise ValueError(
                f"there is no instance {max(self.instances)} to corrupt: the policy uses {len(lots)}, from 0 on"
            )
        return self.instances


class Corrupt:
    """The corrupt instances of one simulation."""

    def __init__(self, causes: Sequence[Corruption], streams: Streams, instances: int, more: int = 0) -> None:
        """`more` instances may be added. Raises ValueError where a cause needs more instances than there are."""
        self.causes = tuple(causes)
        each = [cause.periods(streams, number, instances, more) for number, cause in enumerate(causes)]
        self._periods = np.stack(each) if each else np.empty((0, instances + more, 2))
        self._of_instance = [
            [(number, begins, ends) for number, (begins, ends) in enumerate(periods, 1) if begins < math.inf]
            for periods in self._periods.transpose(1, 0, 2).tolist()
        ]

    def mark(self, instance: int, finish: float) -> int:
        """Return the mark of an answer that an instance finished then: `RIGHT`, or 1 + the index of the first cause."""
        for number, begins, ends in self._of_instance[instance]:
            if begins <= finish < ends:
                return number
        return RIGHT

    def marks(self, tasks: Tasks) -> NDArray[np.uint8]:
        """Return the mark of each task's answer, shape (tasks,); `RIGHT` for those that never ran."""
        found = np.full(len(tasks), RIGHT, dtype=np.uint8)
        ran = np.flatnonzero(tasks.instance >= 0)
        for number, periods in reversed([*enumerate(self._periods, 1)]):
            begins, ends = periods[tasks.instance[ran]].T
            found[ran[(begins <= tasks.finish[ran]) & (tasks.finish[ran] < ends)]] = number
        return found

    def marked(self, trace: Trace) -> Trace:
        """Return the trace with the marks of its tasks' answers."""
        return dataclasses.replace(trace, tasks=dataclasses.replace(trace.tasks, wrong=self.marks(trace.tasks)))
