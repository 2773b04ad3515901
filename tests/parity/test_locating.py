"""Wrong answers are found on rational curves whatever they are, and on smooth curves where they stand out."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from parity.codes import Approxifer, CurveCode, Nercc
from parity.codes.curve import points
from parity.codes.locating import by_outlier_pursuit, by_rational_interpolation
from parity.codes.nercc import smoothing_spline
from sim.policies import CodedNonsystematic

GROUPS, OUTPUTS = 40, 10


def spoiled(answers: Tensor, errors: int, size: float, seed: int) -> tuple[Tensor, Tensor]:
    """Add noise to `errors` answers of each group (g, m, c); return the answers and which are wrong, bool (g, m)."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(answers.shape[:2], generator=generator).argsort(dim=1)
    wrong = order < errors
    noise = size * torch.randn(answers.shape, generator=generator, dtype=torch.float64)
    return torch.where(wrong[:, :, None], answers + noise, answers), wrong


def rational(k: int, at: np.ndarray) -> Tensor:
    """Return random rational functions, both degrees k - 1 and no pole in [-1, 1], at the points: (g, m, c)."""
    generator = np.random.default_rng(k)
    poles = generator.uniform(1.2, 2.0, (GROUPS, k - 1)) * generator.choice([-1, 1], (GROUPS, k - 1))
    below = np.prod(at[None, :, None] - poles[:, None, :], axis=2)
    above = np.polynomial.chebyshev.chebval(at, generator.normal(size=(k, GROUPS, OUTPUTS)))
    return torch.from_numpy(above.transpose(0, 2, 1) / np.abs(below).mean(1)[:, None, None] / below[:, :, None] * 10)


@pytest.mark.parametrize("k", [8, 12])
@pytest.mark.parametrize("errors", [1, 2, 3])
def test_up_to_e_wrong_answers_on_a_rational_curve_are_found_wherever_they_are(k: int, errors: int) -> None:
    code = Approxifer(errors=errors)
    m = code.needs(k)
    assert m == 2 * (k + errors)
    angles = code.angles(k, m + 1)[1][:m]
    right = rational(k, points(angles))
    scale = float(right.abs().median())
    for size in (0.3, 10.0):
        answers, wrong = spoiled(right, errors, size * scale, seed=errors)
        found = code.wrong(answers, angles)
        assert torch.equal(found.sum(1), torch.full((GROUPS,), errors))
        assert float((found & wrong).sum() / wrong.sum()) > 0.97, size


def test_the_solution_is_that_of_the_papers_equations() -> None:
    """Least squares of P(z) = y Q(z) in plain powers, as algorithm 1 states them, name the same answers."""
    k, errors = 3, 1
    at = points(Approxifer().angles(k, 9)[1][:8])
    answers, _ = spoiled(rational(k, at), errors, 0.5, seed=1)
    terms = k + errors
    powers = np.vander(at, terms, increasing=True)
    expected = torch.zeros(GROUPS, len(at))
    for group in range(GROUPS):
        for output in range(OUTPUTS):
            y = answers[group, :, output].numpy()
            equations = np.hstack([powers, -y[:, None] * powers[:, 1:]])
            solved = np.linalg.lstsq(equations, y, rcond=None)[0]
            size = np.abs(1 + powers[:, 1:] @ solved[terms:])
            expected[group, size.argmin()] += 1
    found = by_rational_interpolation(answers, at, errors)
    assert torch.equal(found.int().argmax(1), expected.argmax(1))


def smooth(at: np.ndarray) -> Tensor:
    generator = np.random.default_rng(0)
    waves = generator.uniform(0.5, 2.5, (GROUPS, 1, OUTPUTS)), generator.uniform(0, 6, (GROUPS, 1, OUTPUTS))
    return torch.from_numpy(np.sin(waves[0] * at[None, :, None] + waves[1])) + 0.02 * torch.randn(
        GROUPS, len(at), OUTPUTS, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )


@pytest.mark.parametrize("k", [8, 12])
@pytest.mark.parametrize("errors", [1, 2, 3])
def test_outliers_of_a_smooth_curve_are_found_and_none_where_there_is_none(k: int, errors: int) -> None:
    code = Nercc(errors=errors)
    angles = code.angles(k, code.needs(k) + 1)[1][: code.needs(k)]
    right = smooth(points(angles))
    answers, wrong = spoiled(right, errors, 1.0, seed=2)
    assert float((code.wrong(answers, angles) == wrong).double().mean()) > 0.99
    assert float(code.wrong(right, angles).double().mean()) < 0.03
    one, there = spoiled(right, 1, 1.0, seed=3)
    found = code.wrong(one, angles)
    assert bool((found & there).sum(1).bool().all())
    always = Nercc(errors=errors, threshold=0.0).wrong(right, angles)
    assert torch.equal(always.sum(1), torch.full((GROUPS,), errors))


@pytest.mark.parametrize("seed", range(10))
def test_leaving_answers_out_lowers_the_criterion_as_if_the_spline_were_laid_anew(seed: int) -> None:
    angles = tuple(Fraction(2 * i + 1, 20) for i in range(9))
    m, weight = len(angles), 1e-3
    values = np.random.default_rng(seed).normal(size=m)

    def criterion(kept: list[int]) -> float:
        rest = np.eye(len(kept)) - spline([angles[i] for i in kept], weight * m / len(kept))  # the same total weight
        return float(values[kept] @ rest @ values[kept])

    def spline(at: list[Fraction], weight: float) -> np.ndarray:
        return smoothing_spline(tuple(at), tuple(at), weight)

    kept = list(range(m))
    rest = np.eye(m) - spline(list(angles), weight)
    falls = [criterion(kept) - criterion([i for i in kept if i != one]) for one in kept]
    assert falls == pytest.approx((rest @ values) ** 2 / np.diag(rest))
    for _ in range(4):
        kept.remove(min(kept, key=lambda one: criterion([i for i in kept if i != one])))
    found = by_outlier_pursuit(torch.from_numpy(values)[None, :, None], np.eye(m) - rest, 4, 0.0)[0]
    assert np.flatnonzero(~found.numpy()).tolist() == kept


@pytest.mark.parametrize("code", [Approxifer(errors=2), Nercc(errors=2)], ids=["approxifer", "nercc"])
def test_located_answers_are_named_by_their_bits_and_those_that_are_not_back_never(code: CurveCode) -> None:
    k = 4
    n = code.needs(k) + 2
    at = code.angles(k, n)[1]
    answers, wrong = spoiled(rational(k, points(at)), 2, 50.0, seed=5)
    returned = torch.full((GROUPS,), ((1 << n) - 1) << k, dtype=torch.int64)
    returned[::2] &= ~(0b11 << k)  # the first two coded answers are late
    returned[1::2] &= ~(0b11 << (k + n - 2))
    answers[::2, :2] = answers[1::2, -2:] = torch.nan
    there = (returned[:, None] >> torch.arange(k, k + n)) & 1 == 1
    located = code.located(answers.float(), returned, k)
    assert not (located & ~returned).any()
    found = (located[:, None] >> torch.arange(k, k + n)) & 1 == 1
    missed = wrong & there & ~found
    assert float(missed.sum()) / float((wrong & there).sum()) < 0.05


def test_with_errors_more_answers_are_awaited() -> None:
    for code in (Approxifer(errors=3), Nercc(errors=3)):
        policy = CodedNonsystematic(k=8, stragglers=2, code=code)
        assert policy.group == (8, 2 * (8 + 3) + 2)
        assert not code.sufficient(8, 24, ((1 << 21) - 1) << 8)
        assert code.sufficient(8, 24, ((1 << 22) - 1) << 10)
    assert CodedNonsystematic(k=8, code=Approxifer()).group == (8, 9)
    with pytest.raises(ValueError, match=r"with 'errors: 3' has 2\(k \+ errors\) = 54 to 62 - k = 38 coded queries"):
        CodedNonsystematic(k=24, code=Approxifer(errors=3))
    with pytest.raises(ValueError, match="needs an even number of answers"):
        by_rational_interpolation(torch.zeros(1, 5, 2, dtype=torch.float64), np.zeros(5), 1)
