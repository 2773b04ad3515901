"""A second service that shares the accelerators of some instances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, Self

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from sim.distributions import Distribution
from sim.stragglers.base import Effect, Setting, Straggler, Tenancy
from sim.stragglers.tenants import Tenants
from sim.stragglers.timeline import SHORTEST, effect_of
from sim.task import Task

QUERIES = 256
"""Background queries that are drawn at once."""


class Multitenancy(Straggler):
    """Slow some instances while queries of a second service run on them (light multitenancy)."""

    kind: Literal["multitenancy"] = "multitenancy"
    instances: PositiveInt = 2
    """Number of instances that the second service uses, evenly spaced among all launched instances."""
    at: tuple[NonNegativeInt, ...] | None = None
    """Which instances these are, numbered from 0 in the order of a policy's pools (the deployed model's first)."""
    rate: float = Field(default=28.0, gt=0, le=1 / SHORTEST)
    """Poisson arrival rate of the second service over all its instances, in queries per second."""
    service: Distribution
    """Service time of the second service's queries, in seconds. Its offered load should be below 1: otherwise its queue
    grows without bound and its instances are slow permanently."""
    slowdown: float = Field(default=2.0, ge=1.0)
    """Factor on service times while a query of the second service runs; 2 if both get half of the accelerator."""
    mutual: bool = False
    """Whether its queries take that factor longer while ours run, as processes do that an accelerator serves in turn;
    with the factor 2 no work is lost then."""
    queue: Literal["own", "shared"] = "own"
    """Whether each of its instances has a queue of its own, with an equal part of the rate, or all share one, from
    which the instance that has been idle longest takes the next query."""

    @field_validator("at")
    @classmethod
    def _distinct(cls, at: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if at is not None and (not at or len(set(at)) < len(at)):
            raise ValueError("'at' names each instance of the second service once, and at least one")
        return at

    @model_validator(mode="after")
    def _one_count(self) -> Self:
        if self.at is not None and "instances" in self.model_fields_set and self.instances != len(self.at):
            raise ValueError(f"'instances' is {self.instances}, but 'at' names {len(self.at)}: give one of them")
        return self

    @property
    def _count(self) -> int:
        return self.instances if self.at is None else len(self.at)

    def attach(self, setting: Setting) -> Effect:
        """Integrate services over the second service's queries. Raises ValueError where it needs more instances."""
        launched = len(setting.pools)
        count = self._count
        needed = count if self.at is None else max(self.at) + 1
        if needed > launched:
            which = f"on {count} instances" if self.at is None else f"at instance {needed - 1}"
            raise ValueError(f"multitenancy {which}, but only {launched} are launched")
        used = tuple(place * launched // count for place in range(count)) if self.at is None else self.at
        streams, number = setting.streams, setting.number
        if self.mutual or self.queue == "shared":
            queues: Sequence[int] = used if self.queue == "own" else (-1,)
            arrivals = [
                self._queries(streams.generator("multitenancy", number, *([] if one < 0 else [one])), len(queues))
                for one in queues
            ]
            tenants = Tenants(arrivals, count, self.slowdown, mutual=self.mutual)
            places = [-1] * launched
            for place, instance in enumerate(used):
                places[instance] = place

            def modify(task: Task, instance: int, start: float, seconds: float) -> float:
                place = places[instance]
                return seconds if place < 0 else tenants.stretch(place, start, seconds)

            return Effect(modifier=modify, form=Tenancy(arrivals, places, self.slowdown, self.mutual))
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
        return None if mean is None else self.rate * mean / self._count

    def _pieces(self, generator: np.random.Generator) -> Iterator[tuple[float, float]]:
        """Yield (end, factor) of alternating idle and busy periods."""
        clock = busy_until = 0.0
        while True:
            gaps = generator.exponential(self._count / self.rate, QUERIES).tolist()
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

    def _queries(self, generator: np.random.Generator, queues: int) -> Iterator[tuple[float, float]]:
        """Yield (arrival, work) of one of `queues` queues, with the gaps and work that `_pieces` has."""
        clock = 0.0
        while True:
            gaps = generator.exponential(queues / self.rate, QUERIES).tolist()
            for gap, seconds in zip(gaps, self.service.sample(generator, QUERIES).tolist(), strict=True):
                clock += gap
                yield clock, seconds
