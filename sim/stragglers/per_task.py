"""Slowdowns that are independent for each task."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from sim.distributions import Distribution
from sim.distributions.base import above_zero
from sim.stragglers.base import Draws, Effect, Setting, Straggler
from sim.streams import Stream
from sim.task import Task


class PerTask(Straggler):
    """Slow each task independently with a given probability, by a factor or by added seconds."""

    kind: Literal["per_task"] = "per_task"
    by_task: ClassVar[bool] = True
    slowdown: Distribution
    """The factor on the service time, or the added time in seconds."""
    how: Literal["multiply", "add"] = "multiply"
    """Whether `slowdown` multiplies the service time or is added to it."""
    probability: float = Field(default=1.0, gt=0, le=1)
    """Probability that a task is slowed."""

    @model_validator(mode="after")
    def _above_zero(self) -> PerTask:
        if self.how == "multiply":
            above_zero(self.slowdown)
        return self

    def attach(self, setting: Setting) -> Effect:
        """Modify each task by its own draw, keyed like its service time."""
        adds = self.how == "add"
        neutral = 0.0 if adds else 1.0

        def draw(generator: np.random.Generator, n: int) -> NDArray[np.float64]:
            hit = generator.random(n) < self.probability
            return np.where(hit, self.slowdown.sample(generator, n), neutral)

        def stream_of(*key: int) -> Stream:
            return setting.streams.stream(draw, "per_task", setting.number, *key)

        known: dict[tuple[int, int, int], Stream] = {}

        def modify(task: Task, instance: int, start: float, seconds: float) -> float:
            key = (*setting.pools[instance], task.attempt)
            stream = known.get(key)
            if stream is None:
                stream = known[key] = stream_of(*key)
            drawn = stream.at(task.owner.first)
            return seconds + drawn if adds else seconds * drawn

        return Effect(modifier=modify, form=Draws(stream_of, adds))
