"""Parametric distributions with tails that can be heavier than exponential: lognormal, Weibull and Pareto."""

from __future__ import annotations

import math
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from sim.distributions.base import Distribution, Floats


class Lognormal(Distribution):
    """Lognormal; give `median` and `sigma`, or `mean` and `cv`."""

    kind: Literal["lognormal"] = "lognormal"
    median: float | None = Field(None, gt=0)
    """Median in seconds."""
    sigma: float | None = Field(None, gt=0, le=20)
    """Standard deviation of the natural logarithm."""
    average: float | None = Field(None, alias="mean", gt=0)
    """Mean in seconds."""
    cv: float | None = Field(None, gt=0, le=1e6)
    """Coefficient of variation: standard deviation over mean."""

    @model_validator(mode="after")
    def _one_pair(self) -> Self:
        given = [name is not None for name in (self.median, self.sigma, self.average, self.cv)]
        if given not in ([True, True, False, False], [False, False, True, True]):
            raise ValueError("a lognormal distribution needs either 'median' and 'sigma', or 'mean' and 'cv'")
        return self

    @property
    def spread(self) -> float:
        """Standard deviation of the natural logarithm."""
        if self.cv is not None:
            return math.sqrt(math.log1p(self.cv**2))
        assert self.sigma is not None
        return self.sigma

    @property
    def middle(self) -> float:
        """The median, in seconds."""
        if self.average is not None:
            return self.average * math.exp(-(self.spread**2) / 2)
        assert self.median is not None
        return self.median

    def sample(self, generator: np.random.Generator, n: int) -> Floats:
        """Draw `n` values, shape (n,)."""
        values: Floats = self.middle * np.exp(self.spread * generator.standard_normal(n))
        return values

    def mean(self) -> float:
        """Return median exp(sigma^2 / 2)."""
        return self.middle * math.exp(self.spread**2 / 2)

    def cdf(self, x: Floats) -> Floats:
        """Return P(X <= x), shape of x."""
        from scipy.special import ndtr

        with np.errstate(divide="ignore"):
            probability: Floats = ndtr(np.log(np.maximum(x, 0) / self.middle) / self.spread)
        return probability

    def quantiles(self, p: Floats) -> Floats:
        """Return the quantiles, shape of p."""
        from scipy.special import ndtri

        found: Floats = self.middle * np.exp(self.spread * ndtri(p))
        return found

    def mean_up_to(self, x: float) -> float:
        """Return E[X; X <= x]: the mean times the CDF shifted by sigma on the standard normal's axis."""
        from scipy.special import ndtr

        if x <= 0:
            return 0.0
        return self.mean() * float(ndtr(math.log(x / self.middle) / self.spread - self.spread))


class Weibull(Distribution):
    """Weibull: tail heavier than exponential for a `shape` below 1, lighter above."""

    kind: Literal["weibull"] = "weibull"
    shape: float = Field(ge=0.1)
    """Exponent of the tail exp(-(x / scale)^shape)."""
    scale: float = Field(gt=0)
    """The 63rd percentile, in seconds, for every shape."""

    def sample(self, generator: np.random.Generator, n: int) -> Floats:
        """Draw `n` values, shape (n,)."""
        return self.scale * generator.weibull(self.shape, n)

    def mean(self) -> float:
        """Return scale times the gamma function at 1 + 1 / shape."""
        return self.scale * math.gamma(1 + 1 / self.shape)

    def cdf(self, x: Floats) -> Floats:
        """Return 1 - exp(-(x / scale)^shape), shape of x."""
        probability: Floats = -np.expm1(-self._power(x))
        return probability

    def quantiles(self, p: Floats) -> Floats:
        """Return scale (-log(1 - p))^(1 / shape), shape of p."""
        with np.errstate(divide="ignore"):
            found: Floats = self.scale * (-np.log1p(-p)) ** (1 / self.shape)
        return found

    def mean_up_to(self, x: float) -> float:
        """Return E[X; X <= x], an incomplete gamma function of (x / scale)^shape."""
        from scipy.special import gammainc

        return self.mean() * float(gammainc(1 + 1 / self.shape, self._power(np.array([x]))[0]))

    def _power(self, x: Floats) -> Floats:
        """(x / scale)^shape, which may overflow to infinity; shape of x."""
        with np.errstate(over="ignore"):
            power: Floats = (np.maximum(x, 0) / self.scale) ** self.shape
        return power


class Pareto(Distribution):
    """A power-law tail: P(X > x) = (minimum / x)^shape; no finite mean for a `shape` up to 1."""

    kind: Literal["pareto"] = "pareto"
    shape: float = Field(ge=0.1)
    """Exponent of the tail; the smaller, the heavier."""
    minimum: float = Field(gt=0)
    """Smallest value, in seconds."""

    def sample(self, generator: np.random.Generator, n: int) -> Floats:
        """Draw `n` values, shape (n,)."""
        return self.minimum * (1 + generator.pareto(self.shape, n))

    def mean(self) -> float:
        """Return the mean in seconds, infinite for a shape up to 1."""
        return self.minimum * self.shape / (self.shape - 1) if self.shape > 1 else math.inf

    def cdf(self, x: Floats) -> Floats:
        """Return 1 - (minimum / x)^shape, shape of x."""
        probability: Floats = 1 - (self.minimum / np.maximum(x, self.minimum)) ** self.shape
        return probability

    def quantiles(self, p: Floats) -> Floats:
        """Return minimum (1 - p)^(-1 / shape), shape of p."""
        with np.errstate(divide="ignore"):
            found: Floats = self.minimum * (1 - p) ** (-1 / self.shape)
        return found

    def mean_up_to(self, x: float) -> float:
        """Return E[X; X <= x], finite for any shape."""
        growth = math.log(max(x / self.minimum, 1))
        slope = 1 - self.shape
        # The integral of u^-shape from 1 to x / minimum; the logarithm for shape = 1.
        integral = growth if slope == 0 else math.expm1(slope * growth) / slope
        return self.minimum * self.shape * integral
