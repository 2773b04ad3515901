"""Which law the service times without slowdowns follow."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import brentq
from scipy.special import digamma, polygamma

from sim.distributions import Distribution
from sim.distributions.families import Gamma
from sim.distributions.heavy import Lognormal, Weibull
from sim.distributions.profile import Quantiles
from sim.files import Floats

GRID = 4096
"""Points of a density's grid."""
OUTLIER = 1e-7
"""Density, in logarithmic time, below which no service is held impossible: one strange service decides nothing."""
CLOSE = 0.03
"""A law is kept if its p50, p90, p99 and p99.9 are within this of the measured ones, or within their own noise."""


class Density:
    """A distribution on a grid of logarithmic time, where it is looked up quickly."""

    def __init__(self, cdf: Callable[[Floats], Floats], low: float, high: float) -> None:
        """Tabulate a cumulative distribution function between two times in seconds."""
        edges, self._step = np.linspace(math.log(low) - 0.1, math.log(high) + 0.1, GRID, retstep=True)
        self._low = float(edges[0])
        self._below = cdf(np.exp(edges))
        self._log = self._logarithms()

    def _logarithms(self) -> Floats:
        middles = np.log(np.diff(self._below) / self._step + OUTLIER)
        return np.concatenate([middles[:1], (middles[1:] + middles[:-1]) / 2, middles[-1:]])

    def spread(self, sigma: float) -> Density:
        """Return the density of X times an independent lognormal factor of median 1."""
        changed = copy(self)
        changed._below = gaussian_filter1d(self._below, sigma / self._step, mode="nearest") if sigma else self._below
        changed._log = changed._logarithms()
        return changed

    def below(self, logarithm: Floats) -> Floats:
        """Return P(log X <= logarithm), same shape."""
        return self._at(self._below, logarithm)

    def log(self, logarithm: Floats) -> Floats:
        """Return the logarithm of the density of log X, same shape."""
        return self._at(self._log, logarithm)

    def _at(self, table: Floats, logarithm: Floats) -> Floats:
        place = np.clip((logarithm - self._low) / self._step, 0, GRID - 1.001)
        left = place.astype(np.int64)
        found: Floats = table[left] + (place - left) * (table[left + 1] - table[left])
        return found


@dataclass(frozen=True)
class Law:
    """A family with two positive parameters."""

    name: str
    parameters: tuple[str, str]
    make: Callable[[float, float], Distribution]
    fit: Callable[[Floats, Floats], tuple[float, float]]
    """Parameters of greatest likelihood, of times in seconds with weights, each of shape (n,)."""


def _gamma(times: Floats, weights: Floats) -> tuple[float, float]:
    """Minka, "Estimating a Gamma distribution", 2002: Newton's method in 1 / shape."""
    mean = float(np.average(times, weights=weights))
    s = math.log(mean) - float(np.average(np.log(times), weights=weights))
    shape = (3 - s + math.sqrt((s - 3) ** 2 + 24 * s)) / (12 * s)
    for _ in range(10):
        slope = shape**2 * (1 / shape - float(polygamma(1, shape)))
        shape = 1 / (1 / shape + (math.log(shape) - float(digamma(shape)) - s) / slope)
    return mean, shape


def _lognormal(times: Floats, weights: Floats) -> tuple[float, float]:
    logarithms = np.log(times)
    middle = float(np.average(logarithms, weights=weights))
    return math.exp(middle), math.sqrt(float(np.average((logarithms - middle) ** 2, weights=weights)))


def _weibull(times: Floats, weights: Floats) -> tuple[float, float]:
    largest = float(times[weights > 0].max())
    logarithms = np.minimum(np.log(times / largest), 0.0)
    middle = float(np.average(logarithms, weights=weights))

    def slope(shape: float) -> float:
        powers = weights * np.exp(shape * logarithms)
        return float(powers @ logarithms / powers.sum()) - 1 / shape - middle

    shape = float(brentq(slope, 0.1, 1000.0)) if slope(0.1) < 0 < slope(1000.0) else 1.0
    return float(largest * np.average(np.exp(shape * logarithms), weights=weights) ** (1 / shape)), shape


LAWS = (
    Law("gamma", ("mean", "shape"), lambda mean, shape: Gamma(mean=mean, shape=shape), _gamma),
    Law("lognormal", ("median", "sigma"), lambda median, sigma: Lognormal(median=median, sigma=sigma), _lognormal),
    Law("weibull", ("scale", "shape"), lambda scale, shape: Weibull(scale=scale, shape=shape), _weibull),
)


def best_law(times: Floats, weights: Floats, impure: float = 0.0) -> tuple[Law, float, float] | None:
    """Return the most likely law with its parameters, or None if even that one is too far off.

    `times` are seconds, `weights` the probability of each to be one without a slowdown, shape (n,); a share `impure` of
    them was slowed down for a part of the service.
    """
    found = [(law, *law.fit(times, weights)) for law in LAWS]
    logarithms = np.log(times)

    def likelihood(one: tuple[Law, float, float]) -> float:
        return float(weights @ density(one[0].make(*one[1:]), times).log(logarithms))

    law, first, second = max(found, key=likelihood)
    return (law, first, second) if _is_close(law.make(first, second), times, weights, impure) else None


def density(distribution: Distribution, times: Floats) -> Density:
    """Return a distribution's density over the range of some times and of what they would be without slowdowns."""

    def cdf(x: Floats) -> Floats:
        below = distribution.cdf(x)
        assert below is not None
        return below

    return Density(cdf, float(times.min()) / 100, float(times.max()))


def quantiles(times: Floats, weights: Floats) -> Quantiles:
    """Return the quantiles of the times that are probably without a slowdown."""
    return Quantiles.of(times[weights > 0.5])


def _is_close(distribution: Distribution, times: Floats, weights: Floats, impure: float) -> bool:
    order = np.argsort(times)
    ordered, share = times[order], np.cumsum(weights[order]) / weights.sum()
    size = float(weights.sum())
    for p in (0.01, 0.1, 0.5, 0.9, 0.99, 0.999):
        if min(p, 1 - p) * size < 10:
            continue
        theirs = distribution.quantile(p)
        assert theirs is not None
        noise = 4 * math.sqrt(p * (1 - p) / size) + impure
        low, high = (float(ordered[np.searchsorted(share, min(max(q, 0), 1 - 1e-12))]) for q in (p - noise, p + noise))
        if not low * (1 - CLOSE) <= theirs <= high * (1 + CLOSE):
            return False
    return True
