"""Slowness between two extremes: independent for each task, or permanent for each instance.

The service time of a task is S X: X is drawn from the cluster's `service`, and S, the slowdown, belongs to the instance
(the S&X model of Gardner, Harchol-Balter, Scheller-Wolf, Van Houdt, "A Better Model for Job Redundancy: Decoupling
Server Slowdown and Job Size", IEEE/ACM Trans. Networking 2017, in which S is independent for each copy). Here the
slowdowns S_1, S_2, ... of an instance's tasks, in the order in which they start there, are a Markov chain:

    S_n = S_(n-1) with probability `stickiness`, else a new draw.

Each S_n has the distribution of one draw for any stickiness, and the correlation of S_n and S_(n+j) is stickiness^j.
The chain advances per task, not per second, because the distribution is exact only if redraws do not depend on the
slowdown. In time, a slow instance serves fewer tasks, so more stickiness would slow fewer tasks and lower the load,
and the two effects could not be separated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from sim.distributions import Distribution
from sim.distributions.base import above_zero
from sim.stragglers.base import Chains, Effect, Setting, Straggler
from sim.task import Task

TASKS = 256
"""Number of slowdowns of an instance that are drawn at once; part of the streams' definition."""


class Sticky(Straggler):
    """Slow tasks by a factor that stays with the instance for 1 / (1 - stickiness) tasks on average."""

    kind: Literal["sticky"] = "sticky"
    slowdown: Distribution
    """The factor on service times."""
    probability: float = Field(default=1.0, gt=0, le=1)
    """Probability that a task is slowed."""
    stickiness: float = Field(ge=0, le=1)
    """Probability that a task has the slowdown of the previous task on its instance instead of a new draw; equals their
    correlation. 0 is `per_task`, 1 is `heterogeneous`. The distribution of each slowdown does not depend on it."""

    @field_validator("slowdown")
    @classmethod
    def _above_zero(cls, slowdown: Distribution) -> Distribution:
        return above_zero(slowdown)

    def attach(self, setting: Setting) -> Effect:
        """Multiply by the instance's chain; its n-th task has the same slowdown under every policy."""
        chains = [
            self._chain(setting.streams.generator("sticky", setting.number, instance))
            for instance in range(len(setting.pools))
        ]

        def modify(task: Task, instance: int, start: float, seconds: float) -> float:
            return seconds * next(chains[instance])

        return Effect(modifier=modify, form=Chains(chains))

    def _chain(self, generator: np.random.Generator) -> Iterator[float]:
        """Yield the slowdowns of an instance's tasks; the first is always a new draw.

        Each step consumes a draw, used or not, so that values of `stickiness` share random numbers.
        """
        last = 0.0
        first = True
        places = np.arange(TASKS)
        while True:
            stays = generator.random(TASKS) < self.stickiness
            slow = generator.random(TASKS) < self.probability
            drawn = np.where(slow, self.slowdown.sample(generator, TASKS), 1.0)
            if not first and stays[0]:
                drawn[0] = last
            first = False
            stays[0] = False
            kept = drawn[np.maximum.accumulate(np.where(stays, 0, places))]
            last = float(kept[-1])
            yield from kept.tolist()
