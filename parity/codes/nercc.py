"""NeRCC: smoothing splines lay the curve, so that it need not go through queries and answers and bends less.

Source: Moradi, Maddah-Ali, "Nested regression coded computing" (2024), and "LeTCC" (NeurIPS 2024). Near values v_j at m
points x_j lies the curve u that minimises

    sum_j (u(x_j) - v_j)^2 / m + weight * integral of u''(x)^2 dx

It is a natural cubic spline with knots x_j (Reinsch 1967). With its values g at the knots and its second derivatives
there, gamma (zero at both ends), and with the band matrices Q and R of the knots' distances (Green and Silverman,
"Nonparametric regression and generalized linear models", 1994, section 2.3.3):

    (R + m weight Q'Q) gamma = Q'v,    g = v - m weight Q gamma

The published schemes leave the points open; they are ApproxIFER's here. At weight 0 the curve goes through all values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from parity.codes.curve import Angles, CurveCode, Matrix, points
from parity.codes.locating import by_outlier_pursuit

if TYPE_CHECKING:
    from torch import Tensor, nn

    from parity.tasks import LearningTask

GRID = (0.0, 1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1)
"""Weights that `tune` tries for either curve."""


class Nercc(CurveCode):
    """Smoothing splines near queries and near answers (NeRCC); any k of k + s answers, two weights to tune."""

    kind: Literal["nercc"] = "nercc"
    lambda_encode: float = Field(default=1e-6, ge=0)
    """Weight of the first curve's bending against its distance from the queries, tuned for LeNet-5 on Fashion-MNIST."""
    lambda_decode: float = Field(default=0.0, ge=0)
    """Weight of the second curve's bending against its distance from the answers, tuned likewise; 0: through all."""
    lambda_locate: float = Field(default=1e-3, gt=0)
    """Weight of the bending of the curve from which `errors` wrong answers stand out, tuned likewise."""
    threshold: float = Field(default=2.25, ge=0)
    """How many times as far from that curve as the median answer one has to be to be taken for wrong, tuned likewise;
    0: the farthest always are."""

    def encoder(self, at: Angles, read: Angles) -> Matrix:
        """See `CurveCode.encoder`."""
        return smoothing_spline(at, read, self.lambda_encode)

    def decoder(self, at: Angles, read: Angles) -> Matrix:
        """See `CurveCode.decoder`."""
        return smoothing_spline(at, read, self.lambda_decode)

    def wrong(self, answers: Tensor, at: Angles) -> Tensor:
        """See `CurveCode.wrong`: outliers from the curve of `lambda_locate`."""
        smoother = smoothing_spline(at, at, self.lambda_locate)
        return by_outlier_pursuit(answers, smoother, self.errors, self.threshold)


@lru_cache(maxsize=4096)
def smoothing_spline(at: Angles, read: Angles, weight: float) -> Matrix:
    """Return the smoothing spline near values at the points cos(pi a) of `at`, read at those of `read`.

    The matrix, (len(read), len(at)), is remembered and read-only. `at` holds two points or more, in order. Beyond the
    outer knots the spline goes on straight.
    """
    x = points(at)[::-1]  # growing
    s = points(read)
    m, h = len(x), np.diff(x)
    q, r = np.zeros((m, m - 2)), np.zeros((m - 2, m - 2))
    for j in range(m - 2):
        q[j : j + 3, j] = 1 / h[j], -1 / h[j] - 1 / h[j + 1], 1 / h[j + 1]
        r[j, j] = (h[j] + h[j + 1]) / 3
        if j:
            r[j, j - 1] = r[j - 1, j] = h[j] / 6
    bends = np.linalg.solve(r + m * weight * q.T @ q, q.T)  # gamma of each unit vector v
    values = np.eye(m) - m * weight * q @ bends
    bends = np.pad(bends, ((1, 1), (0, 0)))
    left = np.clip(np.searchsorted(x, s, side="right") - 1, 0, m - 2)
    width = h[left][:, None]
    before, after = s[:, None] - x[left][:, None], x[left + 1][:, None] - s[:, None]
    straight = (before * values[left + 1] + after * values[left]) / width
    inside = -before * after / 6 * ((1 + before / width) * bends[left + 1] + (1 + after / width) * bends[left])
    # The tangents at the outer knots, where the second derivative is zero.
    below, above = -before * width / 6 * bends[left + 1], -after * width / 6 * bends[left]
    matrix = straight + np.where(before < 0, below, np.where(after < 0, above, inside))
    matrix = np.ascontiguousarray(matrix[:, ::-1])
    matrix.setflags(write=False)
    return matrix


@dataclass(frozen=True)
class Tuned:
    """The best pair of weights, and its quality."""

    code: Nercc
    quality: float
    """Mean quality of the predictions, 0 to 1, with `losses` answers lost."""


def tune(
    code: Nercc,
    k: int,
    n: int,
    deployed: nn.Module,
    images: Tensor,
    labels: Tensor,
    task: LearningTask,
    *,
    losses: int,
    grid: Sequence[float] = GRID,
) -> Tuned:
    """Try every pair of weights on held-out images (m, *shape), and return the best; of equal ones the first.

    Use training images that the deployed model was not fitted to: a choice made on test images is biased.
    """
    from parity.evaluation import degraded, predict

    outputs = predict(deployed, images)
    best: Tuned | None = None
    for encode in grid:
        for decode in grid:
            tried = code.model_copy(update={"lambda_encode": encode, "lambda_decode": decode})
            found = degraded(tried, k, n, [], deployed, images, outputs, labels, task, groupings=1, losses=losses)
            if best is None or found.quality > best.quality:
                best = Tuned(tried, found.quality)
    assert best is not None, "an empty grid"
    return best
