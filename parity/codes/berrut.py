"""ApproxIFER: Berrut's rational interpolation lays the curve, through the queries and through the answers.

Source: Soleymani, Ali, Mahdavifar, Avestimehr, "ApproxIFER: A Model-Agnostic Approach to Resilient and Robust
Prediction Serving Systems", AAAI 2022; Berrut, "Rational functions for guaranteed and experimentally well-conditioned
global interpolation", 1988. Through values v_j at points x_j in their order, the curve is

    u(z) = sum_j w_j(z) v_j / sum_j w_j(z),    w_j(z) = (-1)^j / (z - x_j),    u(x_j) = v_j

which has no pole on the real line as long as the signs alternate: they are dealt anew over the answers that are back.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from parity.codes.curve import Angles, CurveCode, Matrix, points
from parity.codes.locating import by_rational_interpolation

if TYPE_CHECKING:
    from torch import Tensor


class Approxifer(CurveCode):
    """Berrut's rational interpolation of queries and of answers (ApproxIFER); any k of k + s answers, no training."""

    kind: Literal["approxifer"] = "approxifer"

    def encoder(self, at: Angles, read: Angles) -> Matrix:
        """See `CurveCode.encoder`."""
        return berrut(at, read)

    def decoder(self, at: Angles, read: Angles) -> Matrix:
        """See `CurveCode.decoder`."""
        return berrut(at, read)

    def wrong(self, answers: Tensor, at: Angles) -> Tensor:
        """See `CurveCode.wrong`: always as many as `errors`, however few are wrong, as in the paper."""
        return by_rational_interpolation(answers, points(at), self.errors)


@lru_cache(maxsize=4096)
def berrut(at: Angles, read: Angles) -> Matrix:
    """Return Berrut's interpolant through values at the points cos(pi a) of `at`, read at those of `read`.

    The matrix, (len(read), len(at)), is remembered and read-only. `at` is in order, without repetitions.
    """
    a, b = np.array(at, dtype=np.float64), np.array(read, dtype=np.float64)[:, None]
    same = np.equal.outer(np.array(read, dtype=object), np.array(at, dtype=object)).astype(bool)
    # cos(pi b) - cos(pi a) is -2 times these sines' product, which loses no digits where b is close to a.
    distances = np.sin(np.pi / 2 * (b + a)) * np.sin(np.pi / 2 * (b - a))
    weights = (-1.0) ** np.arange(len(at)) / np.where(same, 1.0, distances)
    weights = np.where(same.any(1, keepdims=True), same, weights)
    matrix: Matrix = weights / weights.sum(1, keepdims=True)
    matrix.setflags(write=False)
    return matrix
