"""The cluster behind a log: laws of service, hosts' factors, slowness and arrivals, each with its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc

from experiments.calibration.log.answers import Answers
from experiments.calibration.log.arrivals import ArrivalProcess, arrival_process
from experiments.calibration.log.conditions import SURE, Conditions, conditions, dependence
from experiments.calibration.log.service import Density, Law, best_law, density, quantiles
from experiments.calibration.log.slowness import Densities, Services, Slowness, newton, slow_periods, sticky
from sim.distributions.profile import Quantiles
from sim.files import Floats
from sim.trace import Ints

Z = 1.959964
"""Standard errors on either side of a 95% interval."""
NORMAL = 0.05
"""A service counts as normal where the others of its host make it slow with a probability below this."""
FACTOR = 1.05
"""Least factor of slow periods."""
DECIDES = 3.0
"""Difference in the logarithm of the likelihood that decides between two explanations."""
Queue = Literal["single_queue", "round_robin", "shortest_queue", "random"]


@dataclass(frozen=True)
class Service:
    """Service times without slowdowns, of a host with factor 1."""

    law: Law | None
    """None: no law is close enough, so the quantiles are used."""
    values: tuple[float, float]
    """The law's parameters."""
    errors: tuple[float, float]
    """Standard errors of their logarithms."""
    measured: Quantiles
    count: int
    """Services from which they come."""

    def density(self, seconds: Floats) -> Density:
        """Return the density over the range of some times, shape (n,)."""
        if self.law is not None:
            return density(self.law.make(*self.values), seconds)
        return Density(self.measured.probability, float(seconds.min()) / 100, float(seconds.max()))

    def interval(self, which: int) -> tuple[float, float]:
        """Return the 95% interval of a parameter of the law."""
        value, half = self.values[which], Z * self.errors[which]
        return value * math.exp(-half), value * math.exp(half)


@dataclass(frozen=True)
class Cluster:
    """What was estimated from a log."""

    answers: Answers
    service: Service
    factors: Floats
    """Each host's factor on service times, with geometric mean 1; shape (hosts,)."""
    factor_errors: Floats
    """Standard errors of their logarithms; shape (hosts,)."""
    heterogeneous: bool
    """Whether hosts differ by more than chance; otherwise all factors are 1."""
    correlation: float
    """Rank correlation of a service with the next one of its host."""
    slowness: Slowness | None
    """None: services of one host are independent, as far as can be told."""
    other: Slowness | None
    """The other explanation of dependent services."""
    sigma: float
    """Standard deviation of the logarithms of periods' factors, or 0: they do not differ by more than chance."""
    slow: Floats
    """Probability that each service was slow; shape (n,)."""
    arrivals: ArrivalProcess
    queue: Queue | None
    """How queries reach hosts; None where the log does not tell."""

    @property
    def periods(self) -> int:
        """Number of runs of slow services."""
        return int(_runs(self.slow, self.answers.host).max())


def estimate(answers: Answers) -> Cluster:
    """Estimate everything. Raises ParmError without hmmlearn, if it is needed."""
    logarithms, host, counts = np.log(answers.seconds), answers.host, answers.counts
    levels = np.array([float(np.median(logarithms[host == one])) for one in range(len(counts))])
    found = dependence(logarithms - levels[host], counts)
    dependent = found[1] < SURE
    states = conditions(logarithms - levels[host], counts) if dependent else None
    normal = np.where(states.by_others < NORMAL, 1 - states.by_others, 0.0) if states else np.ones(len(answers))
    levels, errors, differ = _levels(logarithms, host, normal, levels)
    seconds = answers.seconds / np.exp(levels)[host]
    service = _service(seconds, normal, states.begins if states else 0.0)
    slowness, other, sigma = None, None, 0.0
    if states is not None:
        sigma = _spread(np.log(seconds), _runs(states.by_all, host))
        slowness, other = _slowness(answers, seconds, service, states, normal, sigma)
    return Cluster(
        answers,
        service,
        np.exp(levels),
        errors,
        differ,
        float(found[0][0]),
        slowness,
        other,
        sigma if slowness else 0.0,
        states.by_all if states and slowness else np.zeros(len(answers)),
        arrival_process(answers.start, exact=False) if answers.arrival is None else arrival_process(answers.arrival),
        _queue(answers),
    )


def _levels(logarithms: Floats, host: Ints, normal: Floats, levels: Floats) -> tuple[Floats, Floats, bool]:
    """Return hosts' mean logarithms around their own mean, with standard errors, and whether they differ.

    The test is the one-way analysis of variance, on services that are probably normal; without a difference all are 0.
    """
    chosen = normal > 0
    sizes = np.bincount(host[chosen], minlength=len(levels)).astype(np.float64)
    known = sizes >= 2
    means = np.bincount(host[chosen], logarithms[chosen], len(levels)) / np.maximum(sizes, 1)
    means = np.where(known, means, levels)
    within = float(((logarithms - means[host])[chosen] ** 2).sum()) / max(sizes.sum() - len(levels), 1)
    errors = np.sqrt(within / np.maximum(sizes, 1))
    grand = float(sizes @ means / sizes.sum())
    between = float(sizes @ (means - grand) ** 2) / max(len(levels) - 1, 1)
    chance = float(fdtrc(max(len(levels) - 1, 1), sizes.sum() - len(levels), between / within)) if within > 0 else 0.0
    if len(levels) == 1 or chance > SURE:
        return np.zeros(len(levels)), errors, False
    return means - means.mean(), errors, True


def _service(seconds: Floats, normal: Floats, impure: float) -> Service:
    chosen = normal > 0
    seconds, weights = seconds[chosen], normal[chosen]
    found = best_law(seconds, weights, impure)
    measured = quantiles(seconds, weights)
    if found is None:
        return Service(None, (0.0, 0.0), (0.0, 0.0), measured, len(seconds))
    law, *start = found
    logarithms = np.log(seconds)

    def likelihood(at: Floats) -> float:
        return float(weights @ density(law.make(*np.exp(at).tolist()), seconds).log(logarithms))

    best, _, curvature = newton(likelihood, np.log(start))
    first, second = np.exp(best).tolist()
    error, other = np.sqrt(np.diag(np.linalg.inv(curvature))).tolist()
    return Service(law, (first, second), (error, other), measured, len(seconds))


def _runs(slow: Floats, host: Ints) -> Ints:
    """Return the number of each service's run of slow services on its host, from 1, or 0 outside runs; shape (n,)."""
    there = slow > 0.5
    begins = there & ~(np.append(False, there[:-1]) & (np.diff(host, prepend=-1) == 0))
    found: Ints = np.where(there, np.cumsum(begins), 0)
    return found


def _spread(logarithms: Floats, runs: Ints) -> float:
    """Return the standard deviation between runs of slow services, or 0 if it is not clear or below 5%.

    One-way random effects, on services that are neither the first nor the last of their run, which periods cut.
    """
    inner = (runs > 0) & (np.append(0, runs[:-1]) == runs) & (np.append(runs[1:], 0) == runs)
    _, index, sizes = np.unique(runs[inner], return_inverse=True, return_counts=True)
    total, count = len(index), len(sizes)
    if count < 10 or total < 2 * count:
        return 0.0
    means = np.bincount(index, logarithms[inner]) / sizes
    between = float(sizes @ (means - logarithms[inner].mean()) ** 2) / (count - 1)
    within = float(((logarithms[inner] - means[index]) ** 2).sum()) / (total - count)
    typical = (total - float(sizes @ sizes) / total) / (count - 1)
    sigma = math.sqrt(max(between - within, 0.0) / typical)
    clear = float(fdtrc(count - 1, total - count, between / within)) < SURE
    return sigma if clear and sigma > 0.05 else 0.0


def _slowness(
    answers: Answers, seconds: Floats, service: Service, states: Conditions, normal: Floats, sigma: float
) -> tuple[Slowness | None, Slowness | None]:
    """Return the chosen and the other explanation, or None twice if slowness is not clear or hardly slow.

    Sticky slowness is chosen if it is clearly likelier.
    """
    slow = np.where(states.by_others > 1 - NORMAL, states.by_others, 0.0)
    if slow.sum() == 0 or normal.sum() == 0:
        slow, normal = states.by_others, 1 - states.by_others
    factor = max(float(np.average(seconds, weights=slow) / np.average(seconds, weights=normal)), 1.01)
    same = np.append(np.diff(answers.host) == 0, False)
    cycle = np.append(np.diff(answers.start), 0.0)
    each = [
        float(np.average(cycle[same], weights=np.maximum(weights[same], 1e-12)))
        for weights in (1 - states.by_all, states.by_all)
    ]
    dense = service.density(seconds)
    both = Densities(dense, dense.spread(sigma))
    unusual = dense.below(np.log(seconds)) > 0.99
    chain = Services(seconds, answers.idle, np.where(unusual, 1.0, states.by_all))
    begins, ends = (min(max(one, 1e-4), 0.9) for one in (states.begins, states.ends))
    found = [
        slow_periods(chain, both, each[0] / begins, each[1] / ends, factor),
        sticky(chain, both, max(1 - begins - ends, 0.05), begins / (begins + ends), factor),
    ]
    if found[1].likelihood > found[0].likelihood + DECIDES:
        found.reverse()
    # Schwarz's criterion against no slowness, whose logarithm of likelihood is 0: three parameters more.
    clear = found[0].likelihood > 1.5 * math.log(len(answers)) + 5
    by = found[0].values.get("factor") or found[0].values["slowdown"]
    if not clear or by < FACTOR:
        return None, None
    # The likelihood takes the law of normal services for known, and the periods for many.
    spread = float(np.log(service.measured.at(0.84) / service.measured.at(0.16))) / 2
    runs = max(int(_runs(states.by_all, answers.host).max()), 1)
    return found[0].with_spread_factors(
        sigma, math.hypot(spread / math.sqrt(service.count), sigma / math.sqrt(runs))
    ), found[1]


def _queue(answers: Answers) -> Queue | None:
    """Return the discipline that the waiting queries' hosts agree with."""
    if answers.arrival is None or len(answers.hosts) == 1:
        return None
    order = np.argsort(answers.arrival, kind="stable")
    arrival, start = answers.arrival[order], answers.start[order]
    host, ends = answers.host[order], (answers.start + answers.seconds)[order]
    slack = 0.01 * float(np.median(answers.seconds))
    waited = start > arrival + slack
    begun, ended = np.sort(start), np.sort(ends)

    def idle(at: Floats) -> NDArray[np.bool_]:
        busy = np.searchsorted(begun, at, side="right") - np.searchsorted(ended, at, side="right")
        return np.asarray(busy < len(answers.hosts))

    if not waited.any() or float((idle(arrival) | idle(start - slack))[waited].mean()) < 0.05:
        return "single_queue"
    steps = np.diff(host) % len(answers.hosts)
    if float((steps == np.bincount(steps).argmax()).mean()) > 0.99:
        return "round_robin"
    there = np.stack(
        [
            np.searchsorted(arrival[host == one], arrival, side="left")
            - np.searchsorted(np.sort(ends[host == one]), arrival, side="right")
            for one in range(len(answers.hosts))
        ]
    )
    own = there[host, np.arange(len(host))]
    return "shortest_queue" if float((own <= there.min(0)).mean()) > 0.95 else "random"
