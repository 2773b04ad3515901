"""The interface of distributions, and numerical functions that several of them share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import wraps
from types import FunctionType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from sim.errors import ParmError
from sim.kinds import Kind

Floats = NDArray[np.float64]


class Distribution(Kind):
    """A non-negative random variable: a time in seconds, or a factor.

    Members implement `sample` and `mean`, and `cdf`, `quantiles` and `mean_up_to` if these are known in closed form;
    otherwise they return None for every argument.
    """

    # The option `mean` is the field `average`, since `mean` is a method.
    model_config = ConfigDict(serialize_by_alias=True)

    family: ClassVar[str] = "distribution"

    def __init_subclass__(cls, **options: Any) -> None:
        """Wrap the class's own `sample`, including those of plugins, in a check of its results."""
        super().__init_subclass__(**options)
        if "sample" in cls.__dict__:
            setattr(cls, "sample", _checked(cls.__dict__["sample"]))  # noqa: B010, mypy takes methods for constants

    @classmethod
    def from_shorthand(cls, value: Any) -> Any:
        """Convert a bare number to a deterministic distribution, and a bare word to the member of that name."""
        if isinstance(value, str):
            try:
                value = float(value)  # YAML 1.1 reads 1e-3, having no point, as a string
            except ValueError:
                return super().from_shorthand(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {"kind": "deterministic", "value": value}
        return value

    @abstractmethod
    def sample(self, generator: np.random.Generator, n: int) -> Floats:
        """Draw `n` independent values, shape (n,); the same generator state gives the same values."""

    @abstractmethod
    def mean(self) -> float | None:
        """Return the mean, which may be `math.inf`, or None if it is not known in closed form."""

    def cdf(self, x: Floats) -> Floats | None:
        """Return P(X <= x) for every x, of any sign or infinite; same shape."""
        del x
        return None

    def quantiles(self, p: Floats) -> Floats | None:
        """Return the smallest x with P(X <= x) >= p for every p in [0, 1]; p = 1 gives the supremum. Same shape."""
        del p
        return None

    def mean_up_to(self, x: float) -> float | None:
        """Return E[X; X <= x], the contribution of values up to x (finite) to the mean."""
        del x
        return None

    def quantile(self, p: float) -> float | None:
        """Return the smallest x with P(X <= x) >= p, or None if unknown. Raises ValueError for p outside [0, 1]."""
        if not 0 <= p <= 1:
            raise ValueError(f"the probability of a quantile must be between 0 and 1, but is {p}")
        found = self.quantiles(np.array([p]))
        return None if found is None else float(found[0])

    def at_batch(self, size: int) -> Distribution | None:
        """Return the measured service time of a batch of `size` queries, or None if there is none.

        Only `profile`, and distributions made of one, have it. Call once per size and keep the result.
        """
        del size
        return None

    def for_code(self, code: str | None) -> Distribution:
        """Return the times measured with `code`, such as 'addition k=2 r=1', which the policy determines.

        Affects only a `profile` without a `code` of its own, and distributions made of one. Raises ValueError if the
        code was not measured.
        """
        changed: dict[str, Any] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Distribution):
                changed[name] = value.for_code(code)
            elif isinstance(value, tuple) and any(isinstance(part, Distribution) for part in value):
                changed[name] = tuple(part.for_code(code) for part in value)
        return self.model_copy(update=changed) if changed else self


def _checked(sample: FunctionType) -> Any:
    """Return `sample` with a check of its result: raises ParmError unless it is (n,) finite non-negative numbers."""

    @wraps(sample)
    def checked(self: Distribution, generator: np.random.Generator, n: int) -> Floats:
        drawn = sample(self, generator, n)
        if not (isinstance(drawn, np.ndarray) and drawn.shape == (n,) and drawn.dtype.kind in "fiu"):
            shape = f"shape {drawn.shape} of {drawn.dtype}" if isinstance(drawn, np.ndarray) else type(drawn).__name__
            raise ParmError(f"{_place(self, sample)} returned {shape} instead of an array of {n} numbers")
        if n and not (drawn.min() >= 0 and drawn.max() < np.inf):  # neither holds of NaN
            wrong = drawn[~(np.isfinite(drawn) & (drawn >= 0))][0]
            raise ParmError(f"{_place(self, sample)} drew {wrong:g}; draws must be finite and not negative")
        return drawn

    return checked


def _place(one: Distribution, sample: FunctionType) -> str:
    code = sample.__code__
    name = one.name_in_yaml() or type(one).__name__
    return f"distribution '{name}' (sample, {code.co_filename}:{code.co_firstlineno})"


def above_zero(factor: Distribution) -> Distribution:
    """Return `factor`, a factor on service times, after checking that it is always above 0.

    Raises ValueError if it may be 0.
    """
    at_zero = factor.cdf(np.zeros(1))
    if at_zero is not None and at_zero[0] > 0:
        raise ValueError(f"a factor must be above 0, but this one is 0 with probability {at_zero[0]:.3g}")
    return factor


def shares(weights: Sequence[float]) -> Floats:
    """Return the weights divided by their sum, shape (len(weights),)."""
    normalised: Floats = np.array(weights) / np.sum(weights)
    return normalised


def mixed(parts: Floats, probabilities: Sequence[Floats]) -> Floats:
    """Return the mean of the probabilities, weighted by `parts`, which sum to 1; arrays of equal shape."""
    total = np.zeros_like(probabilities[0])
    for part, probability in zip(parts, probabilities, strict=True):
        total += part * probability
    return np.minimum(total, 1)  # rounding may give more than 1


def check_weights(weights: Sequence[float], parts: int, of_what: str) -> None:
    """Raise ValueError unless there is one weight per part and a positive one among them."""
    if len(weights) != parts:
        raise ValueError(f"there must be one weight per {of_what}, but there are {len(weights)} for {parts}")
    if not sum(weights) > 0:
        raise ValueError("at least one of the weights must be positive")


def choose(generator: np.random.Generator, weights: Sequence[float], n: int) -> NDArray[np.intp]:
    """Draw `n` indices of `weights` with probabilities in proportion to them, shape (n,)."""
    chosen: NDArray[np.intp] = np.searchsorted(np.cumsum(shares(weights))[:-1], generator.random(n), side="right")
    return chosen


def invert(cdf: Callable[[Floats], Floats], p: Floats, low: Floats, high: Floats) -> Floats:
    """Return the smallest x with cdf(x) >= p, known to lie in [low, high], by bisection to the last bit; shape of p."""
    high = np.where(cdf(low) >= p, low, high)
    for _ in range(200):  # 64 suffice unless the result is tiny compared with `high`
        middle = low / 2 + high / 2
        between = (low < middle) & (middle < high)
        if not between.any():
            break
        enough = cdf(middle) >= p
        high = np.where(between & enough, middle, high)
        low = np.where(between & ~enough, middle, low)
    return high
