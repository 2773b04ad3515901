"""Slowness that sticks to the machine: each instance alternates between normal and slow periods."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from pydantic import PositiveFloat

from sim.distributions import Distribution
from sim.distributions.families import Deterministic
from sim.stragglers.base import Bend, Site, Straggler
from sim.stragglers.timeline import Timeline
from sim.work import Task

PERIODS = 64
"""Periods of each condition that are drawn at once."""


class SlowPeriods(Straggler):
    """Slow each instance down from time to time (Markov-modulated: periods are exponential)."""

    kind: Literal["slow_periods"] = "slow_periods"
    factor: Distribution = Deterministic(value=4.0)
    """How many times longer work takes in a slow period; drawn anew for each period."""
    mean_normal: PositiveFloat
    """Mean seconds between slow periods."""
    mean_slow: PositiveFloat
    """Mean seconds of a slow period."""

    def bend(self, site: Site) -> Bend:
        """Return a bend that integrates the work over the instance's periods; a period may end within a service."""
        timelines: dict[int, Timeline] = {}

        def bend(task: Task, instance: int, start: float, seconds: float) -> float:
            timeline = timelines.get(instance)
            if timeline is None:
                generator = site.streams.generator("slow_periods", site.number, instance)
                timeline = timelines[instance] = Timeline(self._pieces(generator))
            return timeline.stretch(start, seconds)

        return bend

    def _pieces(self, generator: np.random.Generator) -> Iterator[tuple[float, float]]:
        """Yield (end, factor), beginning in the long run's mixture of the two conditions."""
        slow = generator.random() < self.mean_slow / (self.mean_normal + self.mean_slow)
        end = 0.0
        while True:
            normal = generator.exponential(self.mean_normal, PERIODS).tolist()
            slowed = generator.exponential(self.mean_slow, PERIODS).tolist()
            factors = self.factor.sample(generator, PERIODS).tolist()
            for normal_seconds, slow_seconds, factor in zip(normal, slowed, factors, strict=True):
                if not slow:
                    end += normal_seconds
                    yield end, 1.0
                slow = False
                end += slow_seconds
                yield end, factor
