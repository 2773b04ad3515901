"""Finds wrong answers among those to coded queries, which lie on a smooth curve where they are right.

*Rational interpolation*, ApproxIFER's error locator (Soleymani et al., AAAI 2022, algorithms 1 and 2), which goes back
to Berlekamp and Welch (1986). Answers y_i at points z_i, of which at most E are wrong, satisfy P(z_i) = y_i Q(z_i) with
polynomials of degree K + E - 1, where Q vanishes at the wrong ones. With Q(0) = 1, 2(K + E) answers give as many
equations for 2(K + E) - 1 coefficients; they are solved by least squares, one output (class) after the other. Each
output names the E answers with the smallest |Q(z_i)|, and the E that are named most often are located.

*Outlier pursuit*, for the smoothing spline: with the matrix S = I - H of the smoother H, the penalised sum of squares
of values y is y'Sy, and falls by (S y)_i^2 / S_ii if answer i is left out. The answer that makes it fall most, over all
outputs together, is left out if that is more than `threshold` squared times the median over the answers, and so on, up
to E times. Leaving an answer out is a step of Gaussian elimination of S, exact for a fixed weight of the bending.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.polynomial import chebyshev

if TYPE_CHECKING:
    from torch import Tensor

    from parity.codes.curve import Matrix

TINY = 1e-12
"""Pivots below this belong to answers through which the spline goes anyway; they are never outliers."""


def by_rational_interpolation(answers: Tensor, points: Matrix, errors: int) -> Tensor:
    """Return which answers are located, bool (g, m); `errors` of each group, no fewer.

    `answers` (g, m, c) in float64 belong to the `points` (m,) in [-1, 1]. Raises ValueError for fewer than two or an
    odd number of answers.
    """
    import torch

    groups, m, outputs = answers.shape
    if m < 2 or m % 2:
        raise ValueError(f"the error locator needs an even number of answers, 2(K + E), not {m}")
    terms = m // 2
    # Polynomials in Chebyshev's basis, where the least squares are well conditioned; 1 is the basis for Q(0) = 1.
    powers = chebyshev.chebvander(points, terms - 1)
    free = powers[:, 1:] - chebyshev.chebvander(np.zeros(1), terms - 1)[:, 1:]
    # P is eliminated: what it cannot reach is all that is left of the equations.
    left = np.linalg.svd(powers)[0][:, terms:].T
    basis = torch.from_numpy(free).to(answers.device)
    rest = torch.from_numpy(np.ascontiguousarray(left)).to(answers.device)
    scaled = answers / answers.abs().amax((1, 2), keepdim=True).clamp_min(TINY)
    known = rest @ scaled  # (g, terms, c)
    unknown = torch.einsum("em,gmc,mj->gcej", rest, scaled, basis)
    solved = torch.linalg.lstsq(unknown, -known.transpose(1, 2)[..., None]).solution[..., 0]
    size = (1 + solved @ basis.T).abs()  # |Q|, (g, c, m)
    named = size.argsort(dim=2, stable=True)[..., :errors].reshape(groups, -1)
    votes = answers.new_zeros(groups, m).scatter_add_(1, named, answers.new_ones(groups, outputs * errors))
    most = votes.argsort(dim=1, descending=True, stable=True)[:, :errors]
    return torch.zeros(groups, m, dtype=torch.bool, device=answers.device).scatter_(1, most, True)


def by_outlier_pursuit(answers: Tensor, smoother: Matrix, errors: int, threshold: float) -> Tensor:
    """Return which answers are located, bool (g, m); at most `errors` of each group.

    `answers` (g, m, c) in float64, `smoother` (m, m) the matrix H from values at the points to the spline there.
    """
    import torch

    groups, m, _ = answers.shape
    each = torch.arange(groups, device=answers.device)
    rest = torch.from_numpy(np.eye(m) - smoother).to(answers.device).expand(groups, m, m)
    scaled = answers / answers.abs().amax((1, 2), keepdim=True).clamp_min(TINY)
    bent = rest @ scaled
    located = torch.zeros(groups, m, dtype=torch.bool, device=answers.device)
    going = torch.ones(groups, dtype=torch.bool, device=answers.device)
    for _ in range(errors):
        pivots = rest.diagonal(dim1=1, dim2=2)
        falls = torch.where(pivots > TINY, bent.square().sum(2) / pivots, 0.0).masked_fill(located, torch.nan)
        usual = falls.nanmedian(dim=1).values
        most, worst = falls.nan_to_num(-1.0).max(dim=1)
        going = going & (most > threshold**2 * usual)
        column = rest[each, :, worst]
        step = column * torch.where(going, 1 / pivots[each, worst].clamp_min(TINY), 0.0)[:, None]
        bent = bent - step[:, :, None] * bent[each, worst][:, None]
        rest = rest - step[:, :, None] * column[:, None]
        located[each, worst] |= going
    return located
