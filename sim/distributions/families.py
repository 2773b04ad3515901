"""The parametric distributions with light tails: constants, uniform, and the exponential with its relatives."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from sim.distributions.base import Distribution, Floats, check_weights, choose, invert, mixed, shares


def exponential_cdf(x: Floats, mean: float) -> Floats:
    """Return the exponential distribution's P(X <= x), 0 below 0; shape of x."""
    probability: Floats = -np.expm1(-np.maximum(x, 0) / mean)
    return probability


def exponential_quantiles(p: Floats, mean: float) -> Floats:
    """Return the exponential distribution's quantiles, infinite at p = 1; shape of p."""
    with np.errstate(divide="ignore"):
        return -mean * np.log1p(-p)


def exponential_mean_up_to(x: float, mean: float) -> float:
    """Return the exponential distribution's E[X; X <= x]: its integral by parts."""
    z = max(x, 0) / mean
    return mean * (-math.expm1(-z) - z * math.exp(-z))


class Deterministic(Distribution):
    """A constant; a bare number is short for it."""

    kind: Literal["deterministic"] = "deterministic"
    value: float = Field(ge=0)
    """The value; seconds if it is a time."""

    def sample(self, generator: np.random.Generator, n: int) -> Floats:
        """Return `n` times the value; draws nothing."""
        del generator
        return np.full(n, self.value)

    def mean(self) -> float:
        """Return the value."""
        return self.value

    def cdf(self, x: Floats) -> Floats:
        """Return a step at the value."""
        return (x >= self.value).astype(np.float64)

    def quantiles(self, p: Floats) -> Floats:
        """Return the value for every p."""
        return np.full_like(p, self.value)

    def mean_up_to(self, x: float) -> float:
        """Return the value if it is at most x, else 0."""
        return self.value if self.value <= x else 0.0


class Uniform(Distribution):
    """Uniform between `low` and `high`."""

    kind: Literal["uniform"] = "uniform"
    low: float = Field(ge=0)
    """Smallest value, in seconds."""
    high: float
    """Largest value, in seconds; above `low`."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"'low' ({self.low:g}) must be below 'high' ({self.high:g})")
        return self

    def sample(self, generator: np.random.Generator, n: int) -> Floats:
        """Draw `n` values, shape (n,)."""
        return generator.uniform(self.low, self.high, n)

    def mean(self) -> float:
        """Return the midpoint."""
        return self.low + (self.high - self.low) / 2

    def cdf(self, x: Floats) -> Floats:
        """Return P(X <= x), shape of x."""
        return (np.clip(x, self.low, self.high) - self.low) / (self.high - self.low)

    def quantiles(self, p: Floats) -> Floats:
        """Return the straight line from `low` to `high`, shape of p."""
        return self.low + p * (self.high - self.low)

    def mean_up_to(self, x: float) -> float:
        """Return E[X; X <= x]."""
        top = min(max(x, self.low), self.high)
        return (top - self.low) / (self.high - self.low) * (top + self.low) / 2


class Exponential(Distribution):
    """Memoryless times; give the `mean` or the `rate`."""

    kind: Literal["exponential"] = "exponential"
    average: float | None = Field(None, alias="mean", gt=0)
    """Mean in seconds."""
    rate: float | None = Field(None, gt=0)
    """Events per second: one over the mean."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.average is None) == (self.rate is None):
            raise ValueError("an exponential distribution needs exactly one of 'mean' and 'rate'")
        return self

    def sample(self, generator: np.random.Generator, n: int) -> Floats:
        """Draw `n` values, shape (n,)."""
        return generator.standard_exponential(n) * self.mean()

    def mean(self) -> float:
        """Return the mean, in seconds."""
        if self.rate is not None:
            return 1 / self.rate
        assert self.average is not None
        return self.average

    def cdf(self, x: Floats) -> Floats:
        """Return P(X <= x), shape of x."""
        return exponential_cdf(x, self.mean())

    def quantiles(self, p: Floats) -> Floats:
        """Return -mean log(1 - p), shape of p."""
        return exponential_quantiles(p, self.mean())

    def mean_up_to(self, x: float) -> float:
        """Return E[X; X <= x]."""
        return exponential_mean_up_to(x, self.mean())


class ShiftedExponential(Distribution):
    """A constant `shift` plus an exponential time with mean `mean`; the total mean is `shift + mean`."""

    kind: Literal["shifted_exponential"] = "shifted_exponential"
    shift: float = Field(ge=0)
    """The smallest value, in seconds."""
    average: float = Field(alias="mean", gt=0)
    """Mean of the exponential part alone, in seconds."""

    def sample(self, generator: np.random.Generator, n: int) -> Floats:
        """Draw `n` values, shape (n,)."""
        return self.shift + generator.standard_exponential(n) * self.average

    def mean(self) -> float:
        """Return the total mean, in seconds."""
        return self.shift + self.average

    def cdf(self, x: Floats) -> Floats:
        """Return P(X <= x), shape of x."""
        return exponential_cdf(x - self.shift, self.average)

    def quantiles(self, p: Floats) -> Floats:
        """Return shift - mean log(1 - p), shape of p."""
        return self.shift + exponential_quantiles(p, self.average)

    def mean_up_to(self, x: float) -> float:
        """Return E[X; X <= x]."""
        below = float(self.cdf(np.array([x]))[0])
        return self.shift * below + exponential_mean_up_to(x - self.shift, self.average)


class GammaLike(Distribution):
    """Base of the gamma distributions, which differ in the name of their shape."""

    @property
    @abstractmethod
    def order(self) -> float:
        """The shape parameter: one over the squared coefficient of variation."""

    @abstractmethod
    def mean(self) -> float:
        """Return the mean, in seconds."""

    @property
    def scale(self) -> float:
        """Mean over shape, in seconds."""
        return self.mean() / self.order

    def sample(self, generator: np.random.Generator, n: int) -> Floats:
        """Draw `n` values, shape (n,)."""
        return generator.standard_gamma(self.order, n) * self.scale

    def cdf(self, x: Floats) -> Floats:
        """Return the regularised lower incomplete gamma function, shape of x."""
        from scipy.special import gammainc

        return np.asarray(gammainc(self.order, np.maximum(x, 0) / self.scale), dtype=np.float64)

    def quantiles(self, p: Floats) -> Floats:
        """Return its inverse, shape of p."""
        from scipy.special import gammaincinv

        return np.asarray(gammaincinv(self.order, p), dtype=np.float64) * self.scale

    def mean_up_to(self, x: float) -> float:
        """Return E[X; X <= x]: the mean times the CDF of the gamma distribution with a shape larger by one."""
        from scipy.special import gammainc

        return self.mean() * float(gammainc(self.order + 1, max(x, 0) / self.scale))


class Gamma(GammaLike):
    """Gamma: less variable than exponential for a `shape` above 1, more variable below."""

    kind: Literal["gamma"] = "gamma"
    shape: float = Field(ge=0.01)
    """One over the squared coefficient of variation."""
    average: float = Field(alias="mean", gt=0)
    """Mean in seconds."""

    @property
    def order(self) -> float:
        """The shape."""
        return self.shape

    def mean(self) -> float:
        """Return the mean, in seconds."""
        return self.average


class Erlang(GammaLike):
    """The sum of `stages` equal exponential times."""

    kind: Literal["erlang"] = "erlang"
    stages: int = Field(ge=1)
    """Number of exponential stages; more stages are less variable."""
    average: float = Field(alias="mean", gt=0)
    """Mean in seconds."""

    @property
    def order(self) -> float:
        """The number of stages."""
        return float(self.stages)

    def mean(self) -> float:
        """Return the mean, in seconds."""
        return self.average


class Hyperexponential(Distribution):
    """Mixture of exponentials: mean `means[i]` with probability proportional to `weights[i]`."""

    kind: Literal["hyperexponential"] = "hyperexponential"
    means: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1)
    """Mean of each branch, in seconds."""
    weights: tuple[Annotated[float, Field(ge=0)], ...]
    """Relative probability of each branch; the sum need not be 1."""

    @model_validator(mode="after")
    def _one_weight_each(self) -> Self:
        check_weights(self.weights, len(self.means), "mean")
        return self

    def sample(self, generator: np.random.Generator, n: int) -> Floats:
        """Draw `n` values, shape (n,)."""
        branch = choose(generator, self.weights, n)
        return generator.standard_exponential(n) * np.array(self.means, dtype=np.float64)[branch]

    def mean(self) -> float:
        """Return the mean, in seconds."""
        return float(shares(self.weights) @ np.array(self.means))

    def cdf(self, x: Floats) -> Floats:
        """Return P(X <= x), shape of x."""
        return mixed(shares(self.weights), [exponential_cdf(x, mean) for mean in self.means])

    def quantiles(self, p: Floats) -> Floats:
        """Return the quantiles by bisection between those of the fastest and the slowest branch, shape of p."""
        used = [mean for mean, weight in zip(self.means, self.weights, strict=True) if weight > 0]
        return invert(self.cdf, p, exponential_quantiles(p, min(used)), exponential_quantiles(p, max(used)))

    def mean_up_to(self, x: float) -> float:
        """Return E[X; X <= x]."""
        return float(shares(self.weights) @ np.array([exponential_mean_up_to(x, mean) for mean in self.means]))
