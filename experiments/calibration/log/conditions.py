"""Finds the slow services of a log: a hidden Markov model with two conditions of a host, by hmmlearn.

What a service takes in either condition may have any distribution: logarithms of the times are sorted into bins, and
each condition has a probability for each bin. The two are told apart by the order of services: the distributions of a
hidden Markov model are identified by the dependence alone (Gassiat, Cleynen, Robin, "Inference in finite state space
non parametric Hidden Markov Models and applications", Statistics and Computing 2016).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc

from sim.errors import ParmError
from sim.files import Floats
from sim.trace import Ints

LAGS = 10
"""Lags of the test for dependence."""
SURE = 1e-3
"""Probability of calling an independent log dependent."""
BINS = 60
"""Bins of equal numbers of services."""
STEPS = 60
"""Most steps of the EM algorithm."""
LEARNT = 40_000
"""Most services that it learns from."""


@dataclass(frozen=True)
class Conditions:
    """Which services were slow, and how conditions follow each other from one service of a host to the next."""

    by_others: Floats
    """Probability that each service was slow, from the other services of its host; shape (n,)."""
    by_all: Floats
    """The same from its own duration, too; shape (n,)."""
    begins: float
    """Probability that a slow service follows one that is not."""
    ends: float
    """Probability that a service that is not slow follows a slow one."""


def dependence(values: Floats, counts: Ints) -> tuple[Floats, float]:
    """Return the autocorrelation of ranks within hosts at lags 1 to 10, and the probability of so much by chance.

    `values` are ordered by host and time, with `counts` of each host. The test is Ljung and Box's (Biometrika 1978).
    """
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(np.float64)
    host = np.repeat(np.arange(len(counts)), counts)
    ranks -= (np.bincount(host, ranks) / counts)[host]
    size, variance = len(ranks), float(ranks @ ranks)
    found = np.zeros(LAGS)
    for lag in range(1, min(LAGS, size - 1) + 1):
        same = host[lag:] == host[:-lag]
        found[lag - 1] = float((ranks[lag:] * ranks[:-lag])[same].sum()) / variance if variance else 0.0
    statistic = size * (size + 2) * float((found**2 / (size - np.arange(1, LAGS + 1))).sum())
    return found, float(chdtrc(LAGS, statistic))


def conditions(values: Floats, counts: Ints) -> Conditions:
    """Return the two conditions of hosts whose services took exp(`values`), ordered by host and time; shape (n,).

    Raises ParmError without hmmlearn.
    """
    try:
        from hmmlearn.hmm import CategoricalHMM
    except ImportError as error:
        raise ParmError("finding slow periods needs hmmlearn: pip install 'parm[fit]'") from error
    logging.getLogger("hmmlearn.base").setLevel(logging.ERROR)  # it says when a step gains nothing
    edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]))
    bins = np.searchsorted(edges, values, side="right")[:, None]
    learnt = _first(counts, LEARNT)
    hosts = np.minimum(counts, -(-LEARNT // len(counts)))
    models = [_learnt(CategoricalHMM, values[learnt], bins[learnt], hosts, len(edges) + 1, smooth) for smooth in (1, 7)]
    model = max(models, key=lambda one: float(one.monitor_.history[-1]))
    posterior = model.predict_proba(bins, counts)
    others = posterior / model.emissionprob_[:, bins[:, 0]].T
    others /= others.sum(1, keepdims=True)
    means = [float(np.average(values, weights=others[:, one])) for one in (0, 1)]
    slower = int(means[1] > means[0])
    begins, ends = float(model.transmat_[1 - slower, slower]), float(model.transmat_[slower, 1 - slower])
    return Conditions(others[:, slower], posterior[:, slower], begins, ends)


def _first(counts: Ints, most: int) -> NDArray[np.bool_]:
    """Return which services are the first of each host, about `most` of all; shape (n,)."""
    place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    found: NDArray[np.bool_] = place < -(-most // len(counts))
    return found


def _learnt(hmm: Any, values: Floats, bins: Ints, counts: Ints, size: int, smooth: int) -> Any:
    """Return a model that has learnt, starting from slowness of the mean of so many services."""
    model = hmm(2, emissionprob_prior=1.05, n_iter=STEPS, tol=1.0, init_params="", n_features=size)
    slow = _slower(np.convolve(values, np.ones(smooth) / smooth, "same"))
    model.startprob_ = np.array([1 - slow.mean(), slow.mean()])
    stay = 1 - 1 / (4 * smooth)
    model.transmat_ = stay * np.eye(2) + (1 - stay) * model.startprob_
    shares = np.stack([np.bincount(bins[:, 0], weight, size) + 1.0 for weight in (1 - slow, slow)])
    model.emissionprob_ = shares / shares.sum(1, keepdims=True)
    model.fit(bins, counts)
    return model


def _slower(values: Floats) -> Floats:
    """Return 1 for the upper of two classes of values, by Otsu's threshold (IEEE Trans. SMC 1979); shape (n,)."""
    ordered = np.sort(values)
    places = np.unique((np.linspace(0.02, 0.995, 200) * len(ordered)).astype(np.int64))
    sums = np.cumsum(ordered)
    below = places / len(ordered)
    gap = sums[places - 1] / places - (sums[-1] - sums[places - 1]) / (len(ordered) - places)
    cut = ordered[places[np.argmax(below * (1 - below) * gap**2)]]
    found: Floats = (values >= cut).astype(np.float64)
    return found
