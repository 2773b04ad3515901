"""Another service on some of the instances, which shares their accelerators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from pydantic import Field, PositiveInt

from sim.distributions import Distribution
from sim.stragglers.base import Effect, Setting, Straggler
from sim.stragglers.timeline import SHORTEST, effect_of

QUERIES = 256
"""Background queries that are drawn at once."""


class Multitenancy(Straggler):
    """Slow some instances down while a second service's queries run on them (light multitenancy)."""

    kind: Literal["multitenancy"] = "multitenancy"
    instances: PositiveInt = 2
    """Instances that the second service uses, evenly spaced among all that are launched."""
    rate: float = Field(default=28.0, gt=0, le=1 / SHORTEST)
    """Queries per second of the second service, Poisson, all its instances together."""
    service: Distribution
    """Seconds that one of its queries takes. Where they take longer than they arrive apart, the second service falls
    behind for ever, and its instances are slow all the time."""
    slowdown: float = Field(default=2.0, ge=1.0)
    """How many times longer our work takes while one of its queries runs; 2 where the two share evenly."""

    def attach(self, setting: Setting) -> Effect:
        """Integrate the work over the second service's busy periods; it serves first come, first served."""
        launched = len(setting.pools)
        if self.instances > launched:
            raise ValueError(f"multitenancy on {self.instances} instances, but only {launched} are launched")
        used = {place * launched // self.instances for place in range(self.instances)}
        streams, number = setting.streams, setting.number
        return effect_of(
            [
                self._pieces(streams.generator("multitenancy", number, instance))
                if instance in used
                else iter([(float("inf"), 1.0)])
                for instance in range(launched)
            ]
        )

    @property
    def load(self) -> float | None:
        """The second service's offered load on each of its instances; None where its mean service is not known."""
        mean = self.service.mean()
        return None if mean is None else self.rate * mean / self.instances

    def _pieces(self, generator: np.random.Generator) -> Iterator[tuple[float, float]]:
        """Yield (end, factor): by turns idle, and busy from one arrival to the end of the queue that it starts."""
        clock = busy_until = 0.0
        while True:
            gaps = generator.exponential(self.instances / self.rate, QUERIES).tolist()
            work = self.service.sample(generator, QUERIES).tolist()
            idle = False
            for gap, seconds in zip(gaps, work, strict=True):
                clock += gap
                if clock >= busy_until:
                    if busy_until > 0.0:
                        yield busy_until, self.slowdown
                    yield clock, 1.0
                    busy_until = clock
                    idle = True
                busy_until += seconds
            if not idle:  # an overloaded second service never is
                yield busy_until, self.slowdown
