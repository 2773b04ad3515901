"""Service that has stages, such as preprocessing and the model, whose times grow with a batch in different ways."""

from __future__ import annotations

import math
from typing import Literal, Self

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveInt, PrivateAttr, model_validator

from sim.distributions.base import Distribution, Floats
from sim.distributions.combined import Scaled, Sum
from sim.kinds import Options

GRID = 4096
"""Points at which the mean of a maximum is integrated."""


class Makespan(Distribution):
    """The time in which cores finish several independent pieces of work; the first free core takes the next."""

    kind: Literal["makespan"] = "makespan"
    of: Distribution
    """Seconds of one piece on one core."""
    count: PositiveInt
    """Pieces of work."""
    cores: PositiveInt = 1
    """Cores that work at the same time."""

    def sample(self, generator: np.random.Generator, n: int) -> Floats:
        """Draw `n` values by list scheduling (Graham 1966), shape (n,)."""
        pieces = self.of.sample(generator, n * self.count).reshape(n, self.count)
        if self.cores == 1:
            return _total(pieces)
        free = pieces[:, : self.cores].copy()
        each = np.arange(n)
        for number in range(self.cores, self.count):
            free[each, free.argmin(axis=1)] += pieces[:, number]
        latest: Floats = free.max(axis=1)
        return latest

    def mean(self) -> float | None:
        """Return the mean, in seconds; None where pieces wait for each other on several cores and are random."""
        one = self.of.mean()
        if one is None or self.cores == 1 or self.count == 1:
            return None if one is None else one * self.count
        if self.cores < self.count:
            same = self.of.quantiles(np.array([0.0, 1.0]))
            return one * math.ceil(self.count / self.cores) if same is not None and same[0] == same[1] else None
        # E[max] = integral of q(p^(1/n)) over p in (0, 1), by the midpoint rule.
        between = self.of.quantiles(((np.arange(GRID) + 0.5) / GRID) ** (1 / self.count))
        return None if between is None else float(between.mean())

    def cdf(self, x: Floats) -> Floats | None:
        """Return P(X <= x), shape of x; None where a core takes several pieces."""
        inner = self.of.cdf(x) if self.cores >= self.count else None
        return None if inner is None else inner**self.count

    def quantiles(self, p: Floats) -> Floats | None:
        """Return the quantiles, shape of p; None where a core takes several pieces."""
        return self.of.quantiles(p ** (1 / self.count)) if self.cores >= self.count else None


def _total(pieces: Floats) -> Floats:
    total = pieces[:, 0].copy()
    for number in range(1, pieces.shape[1]):
        total += pieces[:, number]
    return total


class Stage(Options):
    """One stage of a service."""

    seconds: Distribution
    """Seconds for a batch of one; a profile's measured batch sizes are used."""
    cores: PositiveInt | None = None
    """Each query of a batch takes a time of its own, on so many cores at once: preprocessing, for example."""
    batch_cost: NonNegativeFloat | None = None
    """The batch is one piece of work, in which each further query takes this share of the first: a model, for example.
    1 where neither is given, unless a profile has measured times."""

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if self.cores is not None and self.batch_cost is not None:
            raise ValueError("a stage has 'cores' or 'batch_cost', not both")
        return self

    def of_batch(self, size: int) -> Distribution:
        """Return the stage's seconds for a batch of `size` queries."""
        if size == 1:
            return self.seconds
        if self.cores is not None:
            return Makespan(of=self.seconds, count=size, cores=self.cores)
        measured = self.seconds.at_batch(size) if self.batch_cost is None else None
        cost = 1.0 if self.batch_cost is None else self.batch_cost
        return measured or Scaled(of=self.seconds, factor=1.0 + cost * (size - 1))


class Stages(Distribution):
    """Stages one after another, each with its own rule for batches: preprocessing and the model, for example."""

    kind: Literal["stages"] = "stages"
    stages: tuple[Stage, ...] = Field(min_length=1)
    """The stages, in order."""

    _whole: Sum = PrivateAttr()

    @model_validator(mode="after")
    def _add_up(self) -> Self:
        self._whole = Sum(terms=tuple(stage.seconds for stage in self.stages))
        return self

    def sample(self, generator: np.random.Generator, n: int) -> Floats:
        """Draw `n` values, shape (n,)."""
        return self._whole.sample(generator, n)

    def mean(self) -> float | None:
        """Return the sum of the stages' means, in seconds."""
        return self._whole.mean()

    def cdf(self, x: Floats) -> Floats | None:
        """Return P(X <= x), shape of x; None if more than one stage is random."""
        return self._whole.cdf(x)

    def quantiles(self, p: Floats) -> Floats | None:
        """Return the quantiles, shape of p; None if more than one stage is random."""
        return self._whole.quantiles(p)

    def mean_up_to(self, x: float) -> float | None:
        """Return E[X; X <= x]; None if more than one stage is random."""
        return self._whole.mean_up_to(x)

    def at_batch(self, size: int) -> Distribution:
        """Return the stages' total for a batch of `size` queries."""
        return self if size == 1 else Sum(terms=tuple(stage.of_batch(size) for stage in self.stages))
