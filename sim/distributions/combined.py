"""Distributions made of other distributions: truncated, bimodal, mixture, sum and scaled."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Literal, Self, TypeVar

import numpy as np
from pydantic import Field, model_validator

from sim.distributions.base import Distribution, Floats, check_weights, choose, invert, mixed, shares
from sim.distributions.families import Deterministic
from sim.errors import ParmError

T = TypeVar("T")

LEAST_KEPT = 1e-4
"""A truncation that keeps less probability is rejected as a mistake."""


def all_known(values: Iterable[T | None]) -> list[T] | None:
    """Return the values as a list, or None if any of them is None."""
    known: list[T] = []
    for value in values:
        if value is None:
            return None
        known.append(value)
    return known


def batched(parts: tuple[Distribution, ...], size: int) -> tuple[Distribution, ...] | None:
    """Return each part at batch size `size`, unchanged if it has no batch sizes; None if no part has any."""
    changed = [part.at_batch(size) for part in parts]
    if all(part is None for part in changed):
        return None
    return tuple(new or old for new, old in zip(changed, parts, strict=True))


class Truncated(Distribution):
    """Another distribution, conditioned on values above `low` and up to `high`."""

    kind: Literal["truncated"] = "truncated"
    of: Distribution
    """The distribution to truncate."""
    low: float = Field(0.0, ge=0)
    """Lower limit in seconds, exclusive; 0: none."""
    high: float | None = None
    """Upper limit in seconds, inclusive; default: none."""

    @model_validator(mode="after")
    def _keeps_something(self) -> Self:
        if self.low == 0 and self.high is None:
            raise ValueError("a truncated distribution needs 'low', 'high' or both")
        if self.high is not None and not self.low < self.high:
            raise ValueError(f"'low' ({self.low:g}) must be below 'high' ({self.high:g})")
        window = self._window()
        if window is not None and window[1] - window[0] < LEAST_KEPT:
            raise ValueError(self._too_little())
        return self

    def _too_little(self) -> str:
        high = "" if self.high is None else f" and up to {self.high:g} s"
        return f"fewer than one value in 10,000 would lie above {self.low:g} s{high}: too few to draw from"

    def _window(self) -> tuple[float, float] | None:
        """The probabilities of the limits."""
        found = self.of.cdf(np.array([self.low, self._top()]))
        return None if found is None else (float(found[0]) if self.low > 0 else 0.0, float(found[1]))

    def _top(self) -> float:
        return math.inf if self.high is None else self.high

    def sample(self, generator: np.random.Generator, n: int) -> Floats:
        """Draw `n` values, shape (n,): by the inverse CDF if it is known, else by rejection.

        Raises ParmError if almost all draws are rejected.
        """
        window = self._window()
        if window is not None:
            if window[1] - window[0] < LEAST_KEPT:
                raise ParmError(self._too_little())
            p = window[0] + (window[1] - window[0]) * generator.random(n)
            found = self.of.quantiles(np.minimum(p, np.nextafter(1, 0)))  # rounding up to 1 would give infinity
            if found is not None:
                return np.clip(found, self.low, self._top())
        kept = np.empty(0)
        drawn = 0
        while len(kept) < n:
            values = self.of.sample(generator, max(n, 4096))
            drawn += len(values)
            kept = np.append(kept, values[((values > self.low) | (self.low == 0)) & (values <= self._top())])
            if drawn >= 100 / LEAST_KEPT and len(kept) < drawn * LEAST_KEPT:
                raise ParmError(self._too_little())
        return kept[:n]

    def mean(self) -> float | None:
        """Return the conditional mean, in seconds."""
        window, below = self._window(), self.of.mean_up_to(self.low) if self.low > 0 else 0.0
        total = self.of.mean() if self.high is None else self.of.mean_up_to(self.high)
        if window is None or below is None or total is None:
            return None
        return (total - below) / (window[1] - window[0])

    def cdf(self, x: Floats) -> Floats | None:
        """Return P(X <= x), shape of x."""
        window, whole = self._window(), self.of.cdf(x)
        if window is None or whole is None:
            return None
        return (np.clip(whole, *window) - window[0]) / (window[1] - window[0])

    def quantiles(self, p: Floats) -> Floats | None:
        """Return the quantiles, shape of p."""
        window = self._window()
        if window is None:
            return None
        found = self.of.quantiles(np.minimum(window[0] + (window[1] - window[0]) * p, window[1]))
        return None if found is None else np.clip(found, self.low, self._top())

    def mean_up_to(self, x: float) -> float | None:
        """Return E[X; X <= x]."""
        window, below = self._window(), self.of.mean_up_to(self.low) if self.low > 0 else 0.0
        above = self.of.mean_up_to(min(max(x, self.low), self._top()))
        if window is None or below is None or above is None:
            return None
        return (above - below) / (window[1] - window[0])

    def at_batch(self, size: int) -> Distribution | None:
        """Truncate the inner distribution's service time at that batch size."""
        inner = self.of.at_batch(size)
        return None if inner is None else self.model_copy(update={"of": inner})


class Bimodal(Distribution):
    """One of two values: `high` with a given probability, else `low`."""

    kind: Literal["bimodal"] = "bimodal"
    low: float = Field(ge=0)
    """The usual value, in seconds."""
    high: float = Field(ge=0)
    """The other value, in seconds; at least `low`."""
    probability: float = Field(ge=0, le=1)
    """Probability of `high`."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"'low' ({self.low:g}) must not be above 'high' ({self.high:g})")
        return self

    def sample(self, generator: np.random.Generator, n: int) -> Floats:
        """Draw `n` values, shape (n,)."""
        return np.where(generator.random(n) < self.probability, self.high, self.low)

    def mean(self) -> float:
        """Return the mean, in seconds."""
        return self.low + self.probability * (self.high - self.low)

    def cdf(self, x: Floats) -> Floats:
        """Return the two steps, shape of x."""
        return np.where(x >= self.high, 1.0, np.where(x >= self.low, 1 - self.probability, 0.0))

    def quantiles(self, p: Floats) -> Floats:
        """Return `low` up to p = 1 - probability, `high` above; shape of p."""
        return np.where((p <= 1 - self.probability) & (self.probability < 1), self.low, self.high)

    def mean_up_to(self, x: float) -> float:
        """Return E[X; X <= x]."""
        return self.mean() if x >= self.high else (1 - self.probability) * self.low if x >= self.low else 0.0


class Mixture(Distribution):
    """Mixture of distributions: each value is from `parts[i]` with probability proportional to `weights[i]`."""

    kind: Literal["mixture"] = "mixture"
    parts: tuple[Distribution, ...] = Field(min_length=1)
    """The distributions."""
    weights: tuple[Annotated[float, Field(ge=0)], ...]
    """Relative probability of each part; the sum need not be 1."""

    @model_validator(mode="after")
    def _one_weight_each(self) -> Self:
        check_weights(self.weights, len(self.parts), "part")
        return self

    def _used(self) -> list[tuple[float, Distribution]]:
        """The parts with positive probability, so that the infinite mean of an impossible part does not count."""
        pairs = zip(shares(self.weights).tolist(), self.parts, strict=True)
        return [(share, part) for share, part in pairs if share > 0]

    def sample(self, generator: np.random.Generator, n: int) -> Floats:
        """Draw `n` values, shape (n,)."""
        chosen = choose(generator, self.weights, n)
        # Every part draws all n, so that changed weights select among the same values.
        values: Floats = np.stack([part.sample(generator, n) for part in self.parts])[chosen, np.arange(n)]
        return values

    def mean(self) -> float | None:
        """Return the weighted mean of the parts' means, in seconds."""
        means = all_known(part.mean() for _, part in self._used())
        return (
            None if means is None else sum(share * mean for (share, _), mean in zip(self._used(), means, strict=True))
        )

    def cdf(self, x: Floats) -> Floats | None:
        """Return the weighted mean of the parts' probabilities, shape of x."""
        found = all_known(part.cdf(x) for _, part in self._used())
        if found is None:
            return None
        return mixed(np.array([share for share, _ in self._used()]), found)

    def quantiles(self, p: Floats) -> Floats | None:
        """Return the quantiles by bisection between the smallest and the largest of the parts', shape of p."""
        inner = all_known(part.quantiles(p) for _, part in self._used())
        if inner is None or self.cdf(p) is None:
            return None
        highest = np.max(inner, axis=0)
        found = invert(self._known_cdf, p, np.min(inner, axis=0), highest)
        return np.where(p == 1, highest, found)  # where a part's weight is lost to rounding, its supremum is not

    def _known_cdf(self, x: Floats) -> Floats:
        found = self.cdf(x)
        assert found is not None
        return found

    def mean_up_to(self, x: float) -> float | None:
        """Return E[X; X <= x]."""
        found = all_known(part.mean_up_to(x) for _, part in self._used())
        return None if found is None else sum(share * one for (share, _), one in zip(self._used(), found, strict=True))

    def at_batch(self, size: int) -> Distribution | None:
        """Mix the parts' service times at that batch size."""
        parts = batched(self.parts, size)
        return None if parts is None else self.model_copy(update={"parts": parts})


class Scaled(Distribution):
    """Another distribution times `factor`, plus `shift`."""

    kind: Literal["scaled"] = "scaled"
    of: Distribution
    """The distribution to scale."""
    factor: float = Field(gt=0)
    """Factor on its values."""
    shift: float = Field(0.0, ge=0)
    """Added after scaling, in seconds."""

    def sample(self, generator: np.random.Generator, n: int) -> Floats:
        """Draw `n` values, shape (n,)."""
        return self.of.sample(generator, n) * self.factor + self.shift

    def mean(self) -> float | None:
        """Return the mean, in seconds."""
        inner = self.of.mean()
        return None if inner is None else inner * self.factor + self.shift

    def cdf(self, x: Floats) -> Floats | None:
        """Return P(X <= x), shape of x."""
        return self.of.cdf((x - self.shift) / self.factor)

    def quantiles(self, p: Floats) -> Floats | None:
        """Return the quantiles, shape of p."""
        inner = self.of.quantiles(p)
        return None if inner is None else inner * self.factor + self.shift

    def mean_up_to(self, x: float) -> float | None:
        """Return E[X; X <= x]."""
        inner = (x - self.shift) / self.factor
        mean, below = self.of.mean_up_to(inner), self.of.cdf(np.array([inner]))
        return None if mean is None or below is None else mean * self.factor + self.shift * float(below[0])

    def at_batch(self, size: int) -> Distribution | None:
        """Scale the inner distribution's service time at that batch size."""
        inner = self.of.at_batch(size)
        return None if inner is None else self.model_copy(update={"of": inner})


class Sum(Distribution):
    """The sum of independent values, one from each term; its quantiles are known if at most one term is random."""

    kind: Literal["sum"] = "sum"
    terms: tuple[Distribution, ...] = Field(min_length=1)
    """The distributions to add; bare numbers are constants."""

    def _simpler(self) -> Distribution | None:
        """An equivalent distribution without a sum; None if more than one term is random."""
        constant = math.fsum(term.value for term in self.terms if isinstance(term, Deterministic))
        random = [term for term in self.terms if not isinstance(term, Deterministic)]
        if not random:
            return Deterministic(value=constant)
        return Scaled(of=random[0], factor=1, shift=constant) if len(random) == 1 else None

    def sample(self, generator: np.random.Generator, n: int) -> Floats:
        """Draw `n` values, shape (n,)."""
        total = np.zeros(n)
        for term in self.terms:
            total += term.sample(generator, n)
        return total

    def mean(self) -> float | None:
        """Return the sum of the terms' means, in seconds."""
        means = all_known(term.mean() for term in self.terms)
        return None if means is None else sum(means)

    def cdf(self, x: Floats) -> Floats | None:
        """Return P(X <= x), shape of x; None if more than one term is random."""
        simpler = self._simpler()
        return None if simpler is None else simpler.cdf(x)

    def quantiles(self, p: Floats) -> Floats | None:
        """Return the quantiles, shape of p; None if more than one term is random."""
        simpler = self._simpler()
        return None if simpler is None else simpler.quantiles(p)

    def mean_up_to(self, x: float) -> float | None:
        """Return E[X; X <= x]; None if more than one term is random."""
        simpler = self._simpler()
        return None if simpler is None else simpler.mean_up_to(x)

    def at_batch(self, size: int) -> Distribution | None:
        """Add up the terms' service times at that batch size."""
        terms = batched(self.terms, size)
        return None if terms is None else self.model_copy(update={"terms": terms})
