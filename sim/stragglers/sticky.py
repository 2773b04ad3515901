"""Slowness between two extremes: drawn anew for every task, or for good for every instance.

The service time of a task is S X: X is drawn from the cluster's `service`, and S, the slowdown, belongs to the instance
(the S&X model of Gardner, Harchol-Balter, Scheller-Wolf, Van Houdt, "A Better Model for Job Redundancy: Decoupling
Server Slowdown and Job Size", IEEE/ACM Trans. Networking 2017, in which S is independent for each copy). Here the
slowdowns S_1, S_2, ... of an instance's tasks, in the order in which they start there, are a Markov chain:

    S_n = S_(n-1) with probability `stickiness`, else a new draw.

Each S_n then has the distribution of one draw, whatever the stickiness, and S_n and S_(n+j) have the correlation
stickiness^j. The chain goes on by tasks and not by seconds because the distribution is exact only where a redraw does
not depend on the slowdown: after a given time a slow instance has served fewer tasks, so tasks would meet slowness more
rarely the stickier it is, and stickiness would lower the load, whose effect nobody could tell from its own.
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
"""Tasks of an instance whose slowdowns are drawn at once. Part of the streams' definition."""


class Sticky(Straggler):
    """Slow tasks down by a factor that stays with the instance for 1 / (1 - stickiness) tasks on average."""

    kind: Literal["sticky"] = "sticky"
    slowdown: Distribution
    """The factor by which work takes longer."""
    probability: float = Field(default=1.0, gt=0, le=1)
    """Share of the tasks that are slowed down."""
    stickiness: float = Field(ge=0, le=1)
    """Probability that a task meets what the one before it on the same instance met, instead of a new draw: the
    correlation of their slowdowns. 0 is `per_task`, 1 `heterogeneous`; each task's distribution is the same for all."""

    @field_validator("slowdown")
    @classmethod
    def _above_zero(cls, slowdown: Distribution) -> Distribution:
        return above_zero(slowdown)

    def attach(self, setting: Setting) -> Effect:
        """ServiceModifier by the instance's chain; its n-th task meets the same slowdown under every policy."""
        chains = [
            self._chain(setting.streams.generator("sticky", setting.number, instance))
            for instance in range(len(setting.pools))
        ]

        def modify(task: Task, instance: int, start: float, seconds: float) -> float:
            return seconds * next(chains[instance])

        return Effect(modifier=modify, form=Chains(chains))

    def _chain(self, generator: np.random.Generator) -> Iterator[float]:
        """Yield the slowdowns of an instance's tasks; the first is always a new draw.

        Every place has its draw, used or not, so that instances at two values of `stickiness` are alike.
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
