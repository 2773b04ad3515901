"""Slowness that lasts: each instance alternates between normal and slow periods."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, field_validator

from sim.distributions import Distribution
from sim.distributions.base import above_zero
from sim.distributions.families import Deterministic
from sim.stragglers.base import Effect, Setting, Straggler
from sim.stragglers.timeline import SHORTEST, SharedPieces, effect_of
from sim.streams import Streams, source

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
        instances = range(len(setting.pools))
        return effect_of([self._shared(setting.streams, setting.number, instance) for instance in instances])

    def slow_share(self, streams: Streams, number: int, instances: int, until: float) -> float:
        """Return the share of the time before `until` seconds for which the instances are in a slow period.

        `number` is the straggler's place in the experiment. Its mean is mean_slow / (mean_normal + mean_slow).
        """
        total = 0.0
        for instance in range(instances):
            before = 0.0
            for end, slow, _ in self._periods(streams, number, instance):
                total += (min(end, until) - before) * slow
                before = end
                if end >= until:
                    break
        return total / (instances * until)

    def _shared(self, streams: Streams, number: int, instance: int) -> Iterator[tuple[float, float]]:
        """Yield (end, factor), which are the same for every simulation of a trial."""
        pieces, known = self._pieces(streams, number, instance), source(self._pieces)
        if known is None:
            yield from pieces
        else:
            yield from streams.once(("slow_periods", number, instance, known), lambda: SharedPieces(pieces))

    def _pieces(self, streams: Streams, number: int, instance: int) -> Iterator[tuple[float, float]]:
        """Yield (end, factor)."""
        for end, _, factor in self._periods(streams, number, instance):
            yield end, factor

    def _periods(self, streams: Streams, number: int, instance: int) -> Iterator[tuple[float, bool, float]]:
        """Yield (end, whether it is slow, factor), beginning in the stationary distribution."""
        generator = streams.generator("slow_periods", number, instance)
        slow = generator.random() < self.mean_slow / (self.mean_normal + self.mean_slow)
        end = 0.0
        while True:
            normal = generator.exponential(self.mean_normal, PERIODS).tolist()
            slowed = generator.exponential(self.mean_slow, PERIODS).tolist()
            factors = self.factor.sample(generator, PERIODS).tolist()
            for normal_seconds, slow_seconds, factor in zip(normal, slowed, factors, strict=True):
                if not slow:
                    end += normal_seconds
                    yield end, False, 1.0
                slow = False
                end += slow_seconds
                yield end, True, factor
