"""Exact formulas of queueing theory: oracles for tests, and curves for figures.

Rates are per second and times seconds. Formulas with a queue raise ParmError where it is unstable.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from sim.distributions import Distribution
from sim.distributions.base import Floats, invert
from sim.errors import ParmError


@dataclass(frozen=True)
class MMc:
    """Poisson arrivals, exponential service, one first-come-first-served queue, `servers` servers (M/M/c).

    Source: Erlang (1917); Harchol-Balter, "Performance Modeling and Design of Computer Systems", 2013, chapter 14. A
    query waits with probability C, then for an exponential time of rate c mu - lambda, and is served for another of
    rate mu. With one server the response time is exponential of rate mu - lambda (M/M/1).

    Raises ParmError when constructed with a load of 1 or more.
    """

    rate: float
    """Arrivals per second (lambda)."""
    service: float
    """Mean seconds of a service (1 / mu)."""
    servers: int = 1

    def __post_init__(self) -> None:
        if not (self.rate > 0 and self.service > 0 and self.servers >= 1):
            raise ParmError("a queue needs a positive rate, a positive service time and at least one server")
        _check_stable(self.load, f"{self.servers} server{'s' if self.servers > 1 else ''}")

    @property
    def load(self) -> float:
        """Share of the servers that are busy, below 1."""
        return self.rate * self.service / self.servers

    @property
    def delayed(self) -> float:
        """Probability that a query has to wait: Erlang's C, from his B by its recursion, which cannot overflow."""
        offered = self.rate * self.service
        blocked = 1.0
        for servers in range(1, self.servers + 1):
            blocked = offered * blocked / (servers + offered * blocked)
        return blocked / (1 - self.load * (1 - blocked))

    @property
    def _leaving(self) -> float:
        """Rate of a delayed query's wait: c mu - lambda."""
        return self.servers / self.service - self.rate

    def mean_wait(self) -> float:
        """Return the mean wait, over all queries."""
        return self.delayed / self._leaving

    def mean(self) -> float:
        """Return the mean response time: wait and service."""
        return self.mean_wait() + self.service

    def beyond(self, t: Floats) -> Floats:
        """Return P(response time > t) for every t >= 0; same shape."""
        from scipy.special import exprel

        slow, fast = sorted((self._leaving, 1 / self.service))
        both = np.exp(-slow * t) * (1 + slow * t * exprel(-(fast - slow) * t))  # of the sum of the two times
        beyond: Floats = (1 - self.delayed) * np.exp(-t / self.service) + self.delayed * both
        return beyond

    def quantiles(self, p: Floats) -> Floats:
        """Return the response time's quantiles for every p in [0, 1), by bisection; same shape."""
        high = np.full_like(p, self.service)
        while np.any(short := self.beyond(high) > 1 - p):
            high = np.where(short, 2 * high, high)
        return invert(lambda t: 1 - self.beyond(t), p, np.zeros_like(p), high)


def priority_waits(
    rates: Sequence[float], services: Sequence[float], variations: Sequence[float] | None = None, servers: int = 1
) -> list[float]:
    """Return the mean wait under strict priority without preemption, for each class from the first served to the last.

    Poisson arrivals at `rates` per second, services of mean `services` seconds; `variations` are their squared
    coefficients of variation (variance by squared mean), by default 1 as of exponential services. With sigma the load
    of the classes up to one, the class's wait is R / ((1 - sigma before) (1 - sigma)); R is the mean time until the
    service that an arrival meets ends. Source: Cobham, "Priority Assignment in Waiting Line Problems", Operations
    Research 1954, for one server of any services and for several with exponential services of one mean.

    Raises ParmError where the load is 1 or more, and for several servers with other services.
    """
    variations = [1.0] * len(rates) if variations is None else variations
    loads = [rate * service / servers for rate, service in zip(rates, services, strict=True)]
    _check_stable(sum(loads), f"{servers} server{'s' if servers > 1 else ''}")
    if servers == 1:
        squares = [service**2 * (1 + variation) for service, variation in zip(services, variations, strict=True)]
        residual = sum(rate * square for rate, square in zip(rates, squares, strict=True)) / 2
    elif len(set(services)) > 1 or set(variations) != {1.0}:
        raise ParmError("the waits of several servers are known for exponential services of one mean only")
    else:
        residual = MMc(sum(rates), services[0], servers).delayed * services[0] / servers
    before = [sum(loads[:index]) for index in range(len(loads) + 1)]
    return [residual / ((1 - one) * (1 - other)) for one, other in pairwise(before)]


def redundancy_d(rate: float, service: float, servers: int, copies: int) -> float:
    """Return the mean response time where each query joins d = `copies` random queues and the first answer ends it.

    Poisson arrivals of `rate` in all, copies with independent exponential services of mean `service`, `servers` queues,
    first come, first served; the first answer cancels all other copies, running ones too (cancel on complete).
    Source: Gardner, Harchol-Balter, Scheller-Wolf, Velednitsky, Zbarsky, "Redundancy-d: The Power of d Choices for
    Redundancy", Operations Research 2017, theorem 1. d = 1 is M/M/1 in each queue, d = n one server n times as fast.

    Raises ParmError where the load is 1 or more, and where there are fewer servers than copies.
    """
    if not 1 <= copies <= servers:
        raise ParmError(f"{copies} copies need as many servers, but there are {servers}")
    _check_stable(rate * service / servers, f"{servers} servers")
    most = math.comb(servers - 1, copies - 1)
    return sum(
        1 / (servers / service * most / math.comb(subset - 1, copies - 1) - rate)
        for subset in range(copies, servers + 1)
    )


def order_statistic_quantiles(service: Distribution, p: Floats, k: int, n: int) -> Floats:
    """Return the quantiles of the k-th smallest of n independent times, for every p in [0, 1]; same shape.

    k = 1 is the first of n copies, k = n the last of n pieces. By the quantile transform: the k-th smallest of n
    uniforms has a beta(k, n + 1 - k) distribution (David and Nagaraja, "Order Statistics", 2003, section 2.1).

    Raises ParmError unless 1 <= k <= n, and where the quantiles of `service` are unknown.
    """
    from scipy.special import betaincinv

    if not 1 <= k <= n:
        raise ParmError(f"the k-th smallest of {n} times needs 1 <= k <= {n}, not k = {k}")
    return _at_uniform(service, np.asarray(betaincinv(k, n + 1 - k, p), dtype=np.float64))


@dataclass(frozen=True)
class FirstOf:
    """The response time where each query goes to `copies` idle servers at once, and the first answer is the reply.

    No query waits and services are independent, so it is their minimum.
    """

    service: Distribution
    copies: int = 1

    def mean(self) -> float:
        """Return the mean response time."""
        alone = self.service.mean() if self.copies == 1 else None
        return mean_of(self.quantiles) if alone is None else alone

    def quantiles(self, p: Floats) -> Floats:
        """Return the quantiles for every p in [0, 1); same shape. Raises ParmError as `order_statistic_quantiles`."""
        return order_statistic_quantiles(self.service, p, 1, self.copies)


@dataclass(frozen=True)
class HedgedOnce:
    """The response time of a hedged request that never waits: see `hedged_beyond`."""

    service: Distribution
    after: float
    probability: float = 1.0

    def mean(self) -> float:
        """Return the mean response time."""
        return mean_of(self.quantiles)

    def quantiles(self, p: Floats) -> Floats:
        """Return the quantiles for every p in [0, 1), by bisection below those of one service; same shape."""
        alone = _at_uniform(self.service, p)
        return invert(
            lambda t: 1 - hedged_beyond(self.service, t, self.after, self.probability), p, np.zeros_like(p), alone
        )


def coded_quantiles(service: Distribution, p: Floats, k: int, r: int = 1) -> Floats:
    """Return the quantiles of a query's latency in a coding group, for every p in [0, 1); same shape.

    The k queries are sent at the same moment with r parity queries, nothing queues, and all k + r times are independent
    and like `service`. The reply is the query's own prediction, or a reconstruction once any k of the other k - 1 + r
    answers are back: P(L > t) = (1 - F) (1 - I_F(k, r)), with F = F(t) and I the regularised
    incomplete beta function, the distribution of the k-th smallest of k - 1 + r uniforms. For r = 1 it is
    (1 - F) (1 - F^k).

    Raises ParmError unless k >= 1 and r >= 1, and where the quantiles of `service` are unknown.
    """
    from scipy.special import betainc

    if k < 1 or r < 1:
        raise ParmError(f"a coding group needs at least one query and one parity, not {k} and {r}")

    def within(u: Floats) -> Floats:
        return 1 - (1 - u) * (1 - np.asarray(betainc(k, r, u), dtype=np.float64))

    return _at_uniform(service, invert(within, p, np.zeros_like(p), np.ones_like(p)))


def hedged_beyond(service: Distribution, t: Floats, after: float, probability: float = 1.0) -> Floats:
    """Return P(latency > t) of a hedged request for every t, if nothing queues; same shape.

    A second, independent copy is sent `after` seconds after the first with a probability q:
    (1 - F(t)) (1 - q F(t - after)), since F is 0 below 0. The copies per query are 1 + q (1 - F(after)). Sources: Dean
    and Barroso, "The Tail at Scale", CACM 2013 (q = 1); Kaler, He and Elnikety, "Optimal Reissue Policies for Reducing
    Tail Latency", SPAA 2017 (SingleR).

    Raises ParmError where the distribution function of `service` is unknown.
    """
    first, second = service.cdf(t), service.cdf(t - after)
    if first is None or second is None:
        raise ParmError(f"the distribution function of '{service.name_in_yaml()}' is unknown")
    return (1 - first) * (1 - probability * second)


def mean_of(quantiles: Callable[[Floats], Floats], parts: int = 200_000) -> float:
    """Return the mean of a distribution with these quantiles: their integral over p by the midpoint rule.

    It lacks the part of a heavy tail beyond the last of `parts` midpoints.
    """
    return float(np.mean(quantiles((np.arange(parts) + 0.5) / parts)))


def waits(arrivals: Iterable[float], services: Iterable[float], servers: int) -> Floats:
    """Return every query's wait in one first-come-first-served queue with `servers` servers, shape (queries,).

    Any arrival times, in order, and any service times. Source: Kiefer and Wolfowitz, "On the Theory of Queues with Many
    Servers", Trans. AMS 1955: their vector of remaining work, kept here as the times at which servers become free.

    Raises ParmError for fewer than one server.
    """
    if servers < 1:
        raise ParmError("a queue needs at least one server")
    free = [-math.inf] * servers
    found: list[float] = []
    for arrival, service in zip(arrivals, services, strict=True):
        start = max(arrival, free[0])
        found.append(start - arrival)
        heapq.heapreplace(free, start + service)
    return np.array(found)


def _check_stable(load: float, servers: str) -> None:
    if not load < 1:
        raise ParmError(f"unstable: the load of {servers} is {load:.3g}, and must be below 1")


def _at_uniform(service: Distribution, u: Floats) -> Floats:
    quantiles = service.quantiles(u)
    if quantiles is None:
        raise ParmError(f"the quantiles of '{service.name_in_yaml()}' are unknown")
    return quantiles
