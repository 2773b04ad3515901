"""Slowness that lasts: each instance alternates between normal and slow periods."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from sim.distributions import Distribution
from sim.distributions.base import above_zero
from sim.distributions.families import Deterministic
from sim.stragglers.base import Effect, Setting, Straggler
from sim.stragglers.timeline import SHORTEST, SharedPieces, effect_of
from sim.streams import Streams, source
from sim.trace import Floats

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
        streams, number, known = setting.streams, setting.number, source(self._pieces)

        def pieces(instance: int) -> SharedPieces:
            """Return what is the same for every simulation of a trial."""
            made = partial(self._pieces, streams, number, instance)
            return made() if known is None else streams.once(("slow_periods", number, instance, known), made)

        return effect_of([pieces(instance) for instance in range(len(setting.pools))])

    def slow_share(self, streams: Streams, number: int, instances: int, until: float) -> float:
        """Return the share of the time before `until` seconds for which the instances are in a slow period.

        `number` is the straggler's place in the experiment. Its mean is mean_slow / (mean_normal + mean_slow).
        """
        total = 0.0
        for instance in range(instances):
            before = 0.0
            for ends, slow, _ in self._periods(streams, number, instance):
                lengths = np.diff(np.minimum(ends, until), prepend=before)
                total = float(np.cumsum([total, *lengths[slow]])[-1])  # one by one, in their order
                before = float(ends[-1])
                if before >= until:
                    break
        return total / (instances * until)

    def _pieces(self, streams: Streams, number: int, instance: int) -> SharedPieces:
        periods = self._periods(streams, number, instance)
        return SharedPieces((ends, factors) for ends, _, factors in periods)

    def _periods(
        self, streams: Streams, number: int, instance: int
    ) -> Iterator[tuple[Floats, NDArray[np.bool_], Floats]]:
        """Yield the next periods' ends, whether they are slow, and factors; it begins stationary."""
        generator = streams.generator("slow_periods", number, instance)
        skipped = int(generator.random() < self.mean_slow / (self.mean_normal + self.mean_slow))  # it begins slow
        slow = np.tile([False, True], PERIODS)
        end = 0.0
        while True:
            lengths, factors = np.empty((PERIODS, 2)), np.ones((PERIODS, 2))
            lengths[:, 0] = generator.exponential(self.mean_normal, PERIODS)
            lengths[:, 1] = generator.exponential(self.mean_slow, PERIODS)
            factors[:, 1] = self.factor.sample(generator, PERIODS)
            following = lengths.reshape(-1)[skipped:]
            following[0] += end
            ends = np.cumsum(following)
            yield ends, slow[skipped:], factors.reshape(-1)[skipped:]
            end, skipped = float(ends[-1]), 0
