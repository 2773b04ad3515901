"""Instances of different speeds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, field_validator, model_validator

from sim.distributions import Distribution
from sim.distributions.base import above_zero
from sim.stragglers.base import Effect, Factors, Setting, Straggler
from sim.task import Task


class Heterogeneous(Straggler):
    """Multiply service times by a constant factor for each instance."""

    kind: Literal["heterogeneous"] = "heterogeneous"
    factors: tuple[PositiveFloat, ...] | None = Field(default=None, min_length=1)
    """Factors of instances 0, 1, ...; repeated cyclically for further instances."""
    factor: Distribution | None = None
    """Distribution of the factors, drawn once per instance and trial; instead of `factors`."""

    @field_validator("factor")
    @classmethod
    def _above_zero(cls, factor: Distribution | None) -> Distribution | None:
        return None if factor is None else above_zero(factor)

    @model_validator(mode="after")
    def _one_of_two(self) -> Heterogeneous:
        if (self.factors is None) == (self.factor is None):
            raise ValueError("give either 'factors' (a list) or 'factor' (a distribution)")
        return self

    def attach(self, setting: Setting) -> Effect:
        """Multiply service times by the instance's factor."""
        factors = [self._factor(setting, instance) for instance in range(len(setting.pools))]

        def modify(task: Task, instance: int, start: float, seconds: float) -> float:
            return seconds * factors[instance]

        return Effect(modifier=modify, form=Factors(factors))

    def _factor(self, setting: Setting, instance: int) -> float:
        if self.factors is not None:
            return self.factors[instance % len(self.factors)]
        assert self.factor is not None
        generator = setting.streams.generator("heterogeneous", setting.number, instance)
        return float(self.factor.sample(generator, 1)[0])
