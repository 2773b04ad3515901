"""How long slow periods last, or how sticky slowness is: by likelihood, with services as periods cut them.

A host's services with durations S after idle times D are a hidden Markov chain of two states, normal and slow by a
factor f. With the density g of services without slowdowns and its distribution function G,

- *slow periods* change in time, with rates a (to slow) and b (back). A service with u seconds in a slow period is a
  draw of S - u (1 - 1 / f). Its likelihood is exp(-a S) g(S) or exp(-b S) g(S / f) / f without a change of state; with
  one it is a / f (slow at the end) or b (normal at the end) times the integral of exp(-a (S - u) - b u)
  g(S - u (1 - 1 / f)) over u from 0 to S; with two it is the integral of a b (S - u) (normal at both ends) or a b u / f
  (slow at both) times the same. Three changes within one service are left out.
- *sticky* slowness changes between services: each has its predecessor's state with probability s, else a new draw.

The likelihood is a product of 2 x 2 matrices, one for each service, which are multiplied in pairs, so that NumPy does
it. Long stretches in which no service was slow are one number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from experiments.calibration.log.service import Density
from sim.files import Floats

Matrices = NDArray[np.float64]
"""2 x 2 matrices, shape (2, 2, n)."""
PIECES = 4
"""Pieces of the integral over a service with a change; in each the exponential is constant."""
TYPICAL = 256
"""Durations that stand for all of services that are not slow."""
STEP = 0.02
"""Step of numerical derivatives, in logarithms of parameters."""
UNLIKELY = 1e-4
"""Probability of being slow below which a service counts as normal, if its neighbours are unlikely, too."""
ODDS = ("stickiness", "probability")
"""Parameters between 0 and 1."""
TIMES_AND_ODDS = (*ODDS, "mean_normal", "mean_slow")
"""Parameters that are no factors."""


@dataclass(frozen=True)
class Services:
    """Services in the order of their hosts, and of their starts within each host."""

    seconds: Floats
    """Their durations, without the host's constant factor; shape (n,)."""
    idle: Floats
    """Seconds since the end of the host's service before; infinite at a host's first one; shape (n,)."""
    slow: Floats
    """About how probable it is that each was slow; shape (n,)."""

    @cached_property
    def kept(self) -> NDArray[np.bool_]:
        """Services that may be slow or next to slow ones, and each host's first; shape (n,)."""
        near = self.slow > UNLIKELY
        for _ in range(2):
            near[1:] |= near[:-1].copy()
            near[:-1] |= near[1:].copy()
        return near | np.isinf(self.idle)

    @cached_property
    def logarithms(self) -> Floats:
        """Logarithms of the durations of kept services."""
        found: Floats = np.log(self.seconds[self.kept])
        return found

    @cached_property
    def rest(self) -> tuple[Floats, Floats]:
        """Typical durations of the services that are not kept, and how many there are of each; shapes (up to 256,)."""
        ordered = np.sort(self.seconds[~self.kept])
        edges = np.unique(np.linspace(0, len(ordered), TYPICAL + 1).astype(np.int64))
        counts = np.diff(edges).astype(np.float64)
        sums = np.concatenate([[0.0], np.cumsum(ordered)])
        return np.diff(sums[edges]) / counts, counts

    @cached_property
    def cut(self) -> NDArray[np.bool_]:
        """Kept services after which one comes that is not; shape (kept,)."""
        return ~np.append(self.kept[1:], True)[self.kept]


@dataclass(frozen=True)
class Densities:
    """Densities of normal services, and of slow ones over their factor: wider, if factors differ."""

    normal: Density
    slow: Density


@dataclass(frozen=True)
class Slowness:
    """The estimate of one kind of slowness."""

    kind: Literal["slow_periods", "sticky"]
    values: dict[str, float]
    """Its options in YAML; the mean lengths in seconds."""
    errors: dict[str, float]
    """Standard errors of their logarithms (of log-odds for probabilities), from the curvature of the likelihood."""
    likelihood: float
    """The logarithm of the likelihood, up to what both kinds have in common."""

    def with_spread_factors(self, sigma: float, error: float) -> Slowness:
        """Return this with the median factor of periods, and a further standard error of its logarithm.

        Factors are lognormal with `sigma`. A slow period has services in inverse proportion to its factor, so that the
        median over services, from which the likelihood estimates, is that over periods times exp(-sigma^2).
        """
        more = {name: one if name in TIMES_AND_ODDS else math.hypot(one, error) for name, one in self.errors.items()}
        values = dict(self.values)
        if self.kind == "slow_periods":
            values["factor"] *= math.exp(sigma**2)
        return replace(self, values=values, errors=more)

    def interval(self, name: str) -> tuple[float, float]:
        """Return the ends of a parameter's 95% interval."""
        value, half = self.values[name], 1.959964 * self.errors[name]
        odds = value / (1 - value) if name in ODDS else value
        ends = odds * math.exp(-half), odds * math.exp(half)
        low, high = (one / (1 + one) if name in ODDS else one for one in ends)
        return low, high


def slow_periods(services: Services, dense: Densities, normal: float, slow: float, factor: float) -> Slowness:
    """Estimate slow periods, starting from mean lengths in seconds and a factor."""
    start = {"mean_normal": normal, "mean_slow": slow, "factor": factor}
    return _maximised("slow_periods", start, lambda at: _of_periods(services, dense, *at))


def sticky(services: Services, dense: Densities, stickiness: float, probability: float, slowdown: float) -> Slowness:
    """Estimate sticky slowness, starting from these values."""
    start = {"stickiness": stickiness, "probability": probability, "slowdown": slowdown}
    return _maximised("sticky", start, lambda at: _of_sticky(services, dense, *at))


def _maximised(
    kind: Literal["slow_periods", "sticky"], start: dict[str, float], likelihood: Callable[[list[float]], float]
) -> Slowness:
    odds = np.array([name in ODDS for name in start])
    given = np.array(list(start.values()))
    theta = np.where(odds, np.log(given / np.where(odds, 1 - given, 1.0)), np.log(given))

    def natural(at: Floats) -> list[float]:
        found: list[float] = np.where(odds, 1 / (1 + np.exp(-at)), np.exp(at)).tolist()
        return found

    best, highest, curvature = newton(lambda at: likelihood(natural(at)), theta)
    errors = np.sqrt(np.diag(np.linalg.inv(curvature)))
    return Slowness(
        kind, dict(zip(start, natural(best), strict=True)), dict(zip(start, errors.tolist(), strict=True)), highest
    )


def newton(likelihood: Callable[[Floats], float], at: Floats) -> tuple[Floats, float, Floats]:
    """Return where a log-likelihood is highest, its value there, and its negative curvature; shapes (p,), (), (p, p).

    Newton's method with numerical derivatives. Curvatures of the wrong sign are turned around; steps are at most 0.5.
    """
    here = likelihood(at)
    for _ in range(30):
        slope, curvature = _derivatives(likelihood, at, here)
        values, vectors = np.linalg.eigh(curvature)
        curvature = vectors @ np.diag(np.maximum(np.abs(values), 1e-3)) @ vectors.T
        step = np.clip(np.linalg.solve(curvature, slope), -0.5, 0.5)
        gain = float(slope @ step)
        while gain > 1e-2 and not (there := likelihood(at + step)) > here:
            step, gain = step / 4, gain / 4
        if gain <= 1e-2:
            break
        at, here = at + step, there
    return at, here, curvature


def _derivatives(likelihood: Callable[[Floats], float], at: Floats, here: float) -> tuple[Floats, Floats]:
    steps = STEP * np.eye(len(at))
    ups, downs = (np.array([likelihood(at + sign * step) for step in steps]) for sign in (1, -1))
    curvature = np.diag((2 * here - ups - downs) / STEP**2)
    for i in range(len(at)):
        for j in range(i):
            both = likelihood(at + steps[i] + steps[j]) + likelihood(at - steps[i] - steps[j])
            mixed = (both + 2 * here - ups[i] - downs[i] - ups[j] - downs[j]) / (2 * STEP**2)
            curvature[i, j] = curvature[j, i] = -mixed
    return (ups - downs) / (2 * STEP), curvature


def _of_periods(services: Services, dense: Densities, mean_normal: float, mean_slow: float, factor: float) -> float:
    a, b = 1 / mean_normal, 1 / mean_slow
    kept = services.kept
    share, others = a / (a + b), services.idle[~kept]
    changed = -np.expm1(-(a + b) * services.idle[kept])
    before = np.empty((2, 2, len(changed)))
    before[0, 1], before[1, 0] = share * changed, (1 - share) * changed
    before[0, 0], before[1, 1] = 1 - before[0, 1], 1 - before[1, 0]
    within = _within(services.seconds[kept], services.logarithms, dense, a, b, factor)
    alone = float(np.log1p(share * np.expm1(-(a + b) * others)).sum())
    typical, counts = services.rest
    alone += float(counts @ np.log(_within(typical, np.log(typical), dense, a, b, factor)[0, 0]))
    return alone + _product(_times(before, within), services.cut)


def _within(seconds: Floats, logs: Floats, dense: Densities, a: float, b: float, factor: float) -> Matrices:
    """Return the likelihood of services by the states in which they begin and end, over that of normal ones."""
    normal = dense.normal.log(logs)
    # In pieces of u from 0 to S the draw runs from S down to S / f. G' is a density in time, g in logarithmic time.
    ends = np.log(np.linspace(1, 1 / factor, PIECES + 1))
    mass = np.array([high - low for high, low in pairwise(dense.normal.below(logs + end) for end in ends)]) / (
        1 - 1 / factor
    )
    inside = (np.arange(PIECES)[:, None] + 0.5) / PIECES
    changing = mass * np.exp((a - b) * inside * seconds - a * seconds - normal) * seconds
    once, slow_part = changing.sum(0), (changing * inside).sum(0) * seconds
    found = np.empty((2, 2, len(seconds)))
    found[0, 0] = np.exp(-a * seconds) + a * b * (once * seconds - slow_part)
    found[1, 1] = np.exp(dense.slow.log(logs - math.log(factor)) - normal - b * seconds) + a * b / factor * slow_part
    found[0, 1], found[1, 0] = a / factor * once, b * once
    return found


def _of_sticky(services: Services, dense: Densities, stickiness: float, probability: float, slowdown: float) -> float:
    logs, kept = services.logarithms, services.kept
    relative = np.exp(dense.slow.log(logs - math.log(slowdown)) - dense.normal.log(logs))
    stays = np.where(np.isinf(services.idle[kept]), 0.0, stickiness)
    found = np.empty((2, 2, len(logs)))
    for last in (0, 1):
        found[last, 0] = (1 - stays) * (1 - probability) + stays * (last == 0)
        found[last, 1] = ((1 - stays) * probability + stays * (last == 1)) * relative
    alone = float((~kept).sum()) * math.log((1 - stickiness) * (1 - probability) + stickiness)
    return alone + _product(found, services.cut)


def _times(left: Matrices, right: Matrices) -> Matrices:
    found = np.empty_like(left)
    for i in (0, 1):
        for j in (0, 1):
            found[i, j] = left[i, 0] * right[0, j] + left[i, 1] * right[1, j]
    return found


def _product(matrices: Matrices, cut: NDArray[np.bool_]) -> float:
    """Return the logarithm of the sum of the product's first row.

    The first of a host's matrices has equal rows, so that hosts are independent and any row will do. After a `cut` the
    state is normal.
    """
    matrices[:, 1, cut] = 0.0
    total = 0.0
    while (size := matrices.shape[2]) > 1:
        even = size - size % 2
        pairs = _times(matrices[:, :, 0:even:2], matrices[:, :, 1:even:2])
        matrices = np.concatenate([pairs, matrices[:, :, even:]], axis=2)
        largest = matrices.max((0, 1))
        total += float(np.log(largest).sum())
        matrices = matrices / largest
    return total + math.log(float(matrices[0, :, 0].sum()))
