"""A second service that shares the accelerators of some instances."""

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
    """Slow some instances while queries of a second service run on them (light multitenancy)."""

    kind: Literal["multitenancy"] = "multitenancy"
    instances: PositiveInt = 2
    """Number of instances that the second service uses, evenly spaced among all launched instances."""
    rate: float = Field(default=28.0, gt=0, le=1 / SHORTEST)
    """Poisson arrival rate of the second service over all its instances, in queries per second."""
    service: Distribution
    """Service time of the second service's queries, in seconds. Its offered load should be below 1: otherwise its queue
    grows without bound and its instances are slow permanently."""
    slowdown: float = Field(default=2.0, ge=1.0)
    """Factor on service times while a query of the second service runs; 2 if both get half of the accelerator."""

    def attach(self, setting: Setting) -> Effect:
        """Integrate services over the busy periods of the second service, which is first come, first served."""
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
        """The second service's offered load on each of its instances; None if its mean service time is unknown."""
        mean = self.service.mean()
        return None if mean is None else self.rate * mean / self.instances

    def _pieces(self, generator: np.random.Generator) -> Iterator[tuple[float, float]]:
        """Yield (end, factor) of alternating idle and busy periods."""
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
