"""Slowness that lasts: each instance alternates between normal and slow periods."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from sim.distributions import Distribution
from sim.distributions.base import above_zero
from sim.distributions.families import Deterministic
from sim.stragglers.base import Effect, Setting, Straggler
from sim.stragglers.timeline import SHORTEST, effect_of

PERIODS = 64
"""Periods of each condition that are drawn at once."""


class SlowPeriods(Straggler):
    """Slow each instance during slow periods (Markov-modulated: lengths of periods are exponential)."""

    kind: Literal["slow_periods"] = "slow_periods"
    factor: Distribution = Deterministic(value=4.0)
    """Factor on service times in a slow period, drawn for each period."""
    mean_normal: float = Field(ge=SHORTEST)
    """Mean length of a normal period, in seconds."""
    mean_slow: float = Field(ge=SHORTEST)
    """Mean length of a slow period, in seconds."""

    @field_validator("factor")
    @classmethod
    def _above_zero(cls, factor: Distribution) -> Distribution:
        return above_zero(factor)

    def attach(self, setting: Setting) -> Effect:
        """Integrate services over the instance's periods; a period may end within a service."""
        streams, number = setting.streams, setting.number
        instances = range(len(setting.pools))
        return effect_of([self._pieces(streams.generator("slow_periods", number, instance)) for instance in instances])

    def _pieces(self, generator: np.random.Generator) -> Iterator[tuple[float, float]]:
        """Yield (end, factor), beginning in the stationary distribution."""
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
