"""ApproxIFER, and what it shares with other codes whose every reply is decoded."""

from __future__ import annotations

from itertools import combinations
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from parity.codes import Approxifer, CurveCode, Nercc
from parity.codes.curve import points
from parity.evaluation import degraded, predict
from parity.objectives import TrainingData
from sim.code import Code

Nodes = Literal["cifar_script", "latency_script"]


@st.composite
def curve_codes(draw: st.DrawFn) -> tuple[CurveCode, int, int, list[int]]:
    """A code, k, n, and which of the n answers are back: k of them or more."""
    k, s = draw(st.integers(2, 12)), draw(st.integers(1, 4))
    nodes: Nodes = draw(st.sampled_from(["cifar_script", "latency_script"]))
    weights = st.sampled_from([0.0, 1e-4, 1e-2, 1.0])
    code: CurveCode = Approxifer(nodes=nodes)
    if draw(st.booleans()):
        code = Nercc(nodes=nodes, lambda_encode=draw(weights), lambda_decode=draw(weights))
    back = draw(st.sets(st.integers(0, k + s - 1), min_size=k, max_size=k + s))
    return code, k, k + s, sorted(back)


def mask(k: int, rows: list[int]) -> int:
    return sum(1 << (k + row) for row in rows)


def by_the_formula(x: list[float], values: np.ndarray, z: float) -> np.ndarray:
    weights = [(-1) ** j / (z - one) for j, one in enumerate(x)]
    return np.asarray(np.array(weights) @ values / sum(weights))


@settings(max_examples=30, deadline=None)
@given(curve_codes(), st.integers(0, 2**31))
def test_nothing_but_the_answers_that_are_back_is_read(case: tuple[CurveCode, int, int, list[int]], seed: int) -> None:
    code, k, n, back = case
    generator = torch.Generator().manual_seed(seed)
    answers = torch.randn(3, n, 4, generator=generator)
    hidden = answers.clone()
    hidden[:, [row for row in range(n) if row not in back]] = torch.nan
    returned = torch.full((3,), mask(k, back))
    decoded = code.decode(torch.full((3, k, 4), torch.nan), hidden, returned)
    assert decoded.shape == (3, k, 4)
    assert decoded.isfinite().all()
    assert torch.equal(decoded, code.decode(torch.zeros(3, k, 4), answers, returned))
    assert code.sufficient(k, n, mask(k, back))
    assert not code.sufficient(k, n, mask(k, back[: k - 1]) | (1 << k) - 1)


@settings(max_examples=30, deadline=None)
@given(curve_codes())
def test_equal_queries_and_equal_answers_stay_what_they_are(case: tuple[CurveCode, int, int, list[int]]) -> None:
    code, k, n, back = case
    query = torch.randn(1, 1, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(k))
    coded = code.encode(query.expand(2, k, 2, 3, 3), n)
    torch.testing.assert_close(coded, query.expand(2, n, 2, 3, 3))
    answer = torch.randn(1, 1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    decoded = code.decode(torch.empty(1, k, 5), answer.expand(1, n, 5), torch.tensor([mask(k, back)]))
    torch.testing.assert_close(decoded, answer.expand(1, k, 5))


@settings(max_examples=20, deadline=None)
@given(curve_codes(), st.floats(-3, 3), st.floats(-3, 3))
def test_an_affine_model_changes_nothing(
    case: tuple[CurveCode, int, int, list[int]], factor: float, shift: float
) -> None:
    code, k, n, back = case
    queries = torch.randn(2, k, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    returned = torch.tensor([mask(k, back)] * 2)
    plain = code.decode(queries, code.encode(queries, n), returned)
    affine = code.decode(queries, factor * code.encode(queries, n) + shift, returned)
    torch.testing.assert_close(affine, factor * plain + shift)


@pytest.mark.parametrize("nodes", ["cifar_script", "latency_script"])
@pytest.mark.parametrize(("k", "s"), [(2, 1), (3, 2), (8, 1), (8, 3), (12, 1)])
def test_both_matrices_are_berruts(nodes: Nodes, k: int, s: int) -> None:
    code, n = Approxifer(nodes=nodes), k + s
    alpha = [np.cos((2 * j + 1) * np.pi / (2 * k)) for j in range(k)]
    z = [np.cos(i * np.pi / (n if nodes == "cifar_script" else n - 1)) for i in range(n)]
    generator = np.random.default_rng(1)
    queries, answers = generator.normal(size=(k, 7)), generator.normal(size=(n, 7))
    coded = code.encode(torch.tensor(queries)[None], n)[0].numpy()
    for i in range(n):
        nearest = int(np.argmin(np.abs(np.array(alpha) - z[i])))
        exact = abs(alpha[nearest] - z[i]) < 1e-12
        wanted = queries[nearest] if exact else by_the_formula(alpha, queries, z[i])
        np.testing.assert_allclose(coded[i], wanted, rtol=1e-9, atol=1e-9)
    for lost in combinations(range(n), s):
        back = [row for row in range(n) if row not in lost]
        decoded = code.decode(torch.empty(1, k, 7), torch.tensor(answers)[None], torch.tensor([mask(k, back)]))[0]
        for j in range(k):
            if min(abs(z[row] - alpha[j]) for row in back) < 1e-12:
                continue
            # The signs alternate over the answers that are back, not over all n.
            wanted = by_the_formula([z[row] for row in back], answers[back], alpha[j])
            np.testing.assert_allclose(decoded[j].numpy(), wanted, rtol=1e-9, atol=1e-9)


def test_where_points_coincide_the_value_itself_is_taken() -> None:
    # k = 3: alpha at 1/6, 3/6, 5/6 of pi; n = 7: z at 0/6 .. 6/6. Their cosines, computed, differ in their last bits.
    code = Approxifer(nodes="latency_script")
    queries = torch.randn(2, 3, 1, 4, 4)
    coded = code.encode(queries, 7)
    assert torch.equal(coded[:, [1, 3, 5]], queries)
    decoded = code.decode(torch.empty(2, 3, 4), torch.randn(2, 7, 4), torch.tensor([mask(3, [0, 2, 4, 6])] * 2))
    assert decoded.isfinite().all()
    answers = torch.randn(2, 7, 4)
    decoded = code.decode(torch.empty(2, 3, 4), answers, torch.tensor([mask(3, [1, 2, 3, 5])] * 2))
    assert torch.equal(decoded, answers[:, [1, 3, 5]])


@pytest.mark.parametrize("code", [Approxifer(), Nercc(lambda_encode=0)])
def test_a_curve_through_more_points_is_closer_to_a_smooth_function(code: CurveCode) -> None:
    errors = []
    for k in (4, 24):
        at, _ = code.angles(k, k + 1)
        values = torch.tensor(np.exp(points(at)))[None, :, None]
        returned = torch.tensor([mask(k, list(range(k + 1)))])
        errors.append(float((code.decode(values, code.encode(values, k + 1), returned) - values).abs().max()))
    assert errors[0] > 2 * errors[1] > 0


@pytest.mark.parametrize(("k", "s", "bound"), [(2, 1, 6.0), (8, 1, 5.0), (8, 3, 10.0), (12, 1, 5.0)])
@pytest.mark.parametrize("code", [Approxifer(), Nercc()])
def test_no_pattern_blows_errors_up(code: CurveCode, k: int, s: int, bound: float) -> None:
    n = k + s
    read, at = code.angles(k, n)
    for count in range(k, n + 1):
        for back in combinations(range(n), count):
            matrix = code.decoder(tuple(at[row] for row in back), read)
            assert np.abs(matrix).sum(1).max() < bound
            if isinstance(
                code, Approxifer
            ):  # a natural spline is straight at its ends: three points there are dependent
                assert np.linalg.matrix_rank(matrix) == k
    assert np.linalg.cond(code.encoder(read, at)) < 2.1


def test_groups_of_different_patterns_are_decoded_side_by_side() -> None:
    code, k, n = Approxifer(), 3, 5
    answers = torch.randn(6, n, 2)
    returned = torch.tensor([mask(k, list(rows)) for rows in list(combinations(range(n), 3))[:6]])
    together = code.decode(torch.empty(6, k, 2), answers, returned)
    for group in range(6):
        alone = code.decode(torch.empty(1, k, 2), answers[group : group + 1], returned[group : group + 1])
        assert torch.equal(together[group : group + 1], alone)


def test_types_stay_what_they_are() -> None:
    code = Approxifer()
    assert code.encode(torch.zeros(1, 2, 3, dtype=torch.float64), 3).dtype == torch.float64
    coded = code.encode(torch.zeros(1, 2, 3), 3)
    assert coded.dtype == torch.float32
    assert code.decode(torch.zeros(1, 2, 3), coded, torch.tensor([0b11100])).dtype == torch.float32


def test_it_refuses_what_it_cannot_serve() -> None:
    code = Approxifer()
    with pytest.raises(ValueError, match=r"replaces k >= 2 queries by k or more coded ones, not k = 4 by 3"):
        code.check(4, 3)
    with pytest.raises(ValueError, match=r"01011.* do not suffice: 2 of 3"):
        code.decode(torch.zeros(1, 2, 3), torch.zeros(1, 3, 3), torch.tensor([0b01011]))
    with pytest.raises(ValueError, match="do not suffice"):
        code.decode(torch.zeros(1, 2, 3), torch.zeros(1, 3, 3), torch.tensor([0b00111]))


def test_it_is_found_by_name_and_needs_no_training() -> None:
    assert Code.model_validate("approxifer") == Approxifer()
    assert Code.model_validate({"kind": "nercc", "lambda_decode": 0.1}) == Nercc(lambda_decode=0.1)
    for code in (Approxifer(), Nercc()):
        assert not code.systematic
        assert code.answered_by == "deployed"
        assert not code.parts(8, 9)
    deployed = nn.Identity()
    coder, answering = Approxifer().bind(2, 3, [], deployed)
    assert coder == Approxifer()
    assert [one is deployed for one in answering] == [True] * 3


def test_a_linear_model_is_reconstructed_far_above_chance(data: TrainingData) -> None:
    torch.manual_seed(3)
    deployed = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).eval()
    outputs = predict(deployed, data.test)
    for code, bar in ((Approxifer(), 0.6), (Nercc(), 0.65)):
        found = degraded(code, 4, 5, [], deployed, data.test, outputs, data.test_labels, data.task, groupings=5)
        assert found.agreement > bar, code
