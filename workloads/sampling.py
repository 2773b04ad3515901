"""Which sample of the data set each query carries: the family `Sampling`."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sim.kinds import Kind

Ints = NDArray[np.int64]


class Sampling(Kind):
    """Which sample each query carries."""

    family: ClassVar[str] = "sampling"

    @abstractmethod
    def draw(self, queries: int, samples: int, generator: np.random.Generator) -> Ints:
        """Return a sample number, 0 .. samples-1, for each query; shape (queries,)."""


class Uniform(Sampling):
    """Uniform: every sample is equally likely, independently for each query."""

    kind: Literal["uniform"] = "uniform"

    def draw(self, queries: int, samples: int, generator: np.random.Generator) -> Ints:
        """Draw with replacement."""
        return generator.integers(samples, size=queries)


class InOrder(Sampling):
    """Samples in order, repeated cyclically."""

    kind: Literal["in_order"] = "in_order"

    def draw(self, queries: int, samples: int, generator: np.random.Generator) -> Ints:
        """Return 0, 1, ... modulo `samples`; `generator` is not used."""
        return np.arange(queries, dtype=np.int64) % samples


class Zipf(Sampling):
    """Zipf: the sample of popularity rank i has probability proportional to i^-exponent."""

    kind: Literal["zipf"] = "zipf"
    exponent: float = Field(default=1, ge=0)
    """Exponent; 0 is uniform, web caches have about 0.6 to 1."""

    def draw(self, queries: int, samples: int, generator: np.random.Generator) -> Ints:
        """Draw by inversion; the ranks are a random permutation, drawn first."""
        sample_of_rank = generator.permutation(samples)
        cumulative = np.cumsum(np.arange(1, samples + 1, dtype=np.float64) ** -self.exponent)
        ranks = np.searchsorted(cumulative[:-1], generator.random(queries) * cumulative[-1], side="right")
        samples_drawn: Ints = sample_of_rank[ranks]
        return samples_drawn
