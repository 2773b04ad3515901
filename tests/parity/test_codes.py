from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from parity.codes import Addition, Exact, LinearCode, singular_submatrix
from sim.code import Code

sizes = st.tuples(st.integers(2, 6), st.integers(1, 3))


@st.composite
def codes(draw: st.DrawFn) -> tuple[LinearCode, int, int]:
    """Default weights, or a Vandermonde matrix on other nodes with its columns scaled and signed."""
    k, r = draw(sizes)
    if draw(st.booleans()):
        return Exact(), k, r
    nodes = draw(st.lists(st.integers(1, 12), min_size=k, max_size=k, unique=True))
    scales = draw(st.lists(st.sampled_from([-2.0, -1.0, -0.5, 0.5, 1.0, 3.0]), min_size=k, max_size=k))
    rows = tuple(tuple(s * (x / 4) ** j for s, x in zip(scales, nodes, strict=True)) for j in range(r))
    return Exact(weights=rows), k, r


def outputs_of(groups: int, k: int, seed: int) -> torch.Tensor:
    """Raw outputs of both signs, kept off zero so that their float32 spacing exceeds float64's rounding errors."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.rand(groups, k, 5, generator=generator) * 15.5 + 0.5
    return size * torch.where(torch.rand(groups, k, 5, generator=generator) < 0.5, -1, 1)


@settings(max_examples=60, deadline=None)
@given(codes(), st.integers(0, 2**31))
def test_promise_11_exact_parities_reconstruct_exactly_for_every_pattern(
    code: tuple[LinearCode, int, int], seed: int
) -> None:
    member, k, r = code
    patterns = [p for p in range(2 ** (k + r)) if member.sufficient(k, r, p)]
    assert patterns == [p for p in range(2 ** (k + r)) if p.bit_count() >= k]
    returned = torch.tensor(patterns)
    outputs = outputs_of(len(patterns), k, seed)
    parities = member.targets(outputs, r)
    there = (returned[:, None] >> torch.arange(k + r)) & 1 == 1
    lossy, lossy_parities = outputs.clone(), parities.clone()
    lossy[~there[:, :k]] = torch.nan
    lossy_parities[~there[:, k:]] = torch.nan

    decoded = member.decode(lossy, lossy_parities, returned)

    assert decoded.dtype == torch.float32
    assert torch.equal(decoded, outputs)


@settings(max_examples=30, deadline=None)
@given(codes(), st.integers(0, 2**31))
def test_single_losses_agree_with_decoding(code: tuple[LinearCode, int, int], seed: int) -> None:
    member, k, r = code
    outputs = outputs_of(8, k, seed)
    parities = outputs_of(8, r, seed + 1)
    for row, slot in itertools.product(range(r), range(k)):
        returned = torch.full((8,), (2**k - 1) ^ (1 << slot) | 1 << (k + row))
        expected = member.decode(outputs, parities, returned)[:, slot]
        found = member.single_losses(outputs, parities[:, row], r, row)[:, slot]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@given(sizes)
@settings(max_examples=20, deadline=None)
def test_default_weights_have_no_singular_submatrix_and_start_with_the_sum(size: tuple[int, int]) -> None:
    k, r = size
    matrix = Addition().matrix(k, r)
    assert matrix.shape == (r, k)
    assert (matrix[0] == 1).all()
    assert singular_submatrix(matrix) is None


def test_encode_weights_queries_of_any_shape() -> None:
    queries = torch.randn(3, 2, 1, 4, 5)
    found = Addition().encode(queries, 2)
    assert found.shape == (3, 2, 1, 4, 5)
    torch.testing.assert_close(found[:, 0], queries[:, 0] + queries[:, 1])
    torch.testing.assert_close(found[:, 1], queries[:, 0] + 2 * queries[:, 1])


def test_decode_prefers_own_answers_then_parity_rows_in_order() -> None:
    code = Exact()
    outputs = outputs_of(1, 3, 1)
    parities = code.targets(outputs, 3)
    lossy = outputs.clone()
    lossy[0, 1] = torch.nan
    parities[0, 1:] = torch.nan
    # All parities are back, one is needed: the first. Reading a later one would bring NaN in.
    assert torch.equal(code.decode(lossy, parities, torch.tensor([0b111101])), outputs)
    # Nothing is missing: parities are not looked at.
    assert torch.equal(code.decode(outputs, parities * torch.nan, torch.tensor([0b111111])), outputs)


def test_decode_refuses_what_it_cannot_correct() -> None:
    outputs, parities = outputs_of(2, 3, 2), outputs_of(2, 2, 3)
    with pytest.raises(ValueError, match=r"10001.*do not suffice for k = 3, r = 2"):
        Addition().decode(outputs, parities, torch.tensor([0b00111, 0b10001]))
    with pytest.raises(ValueError, match="do not suffice"):
        Addition().decode(outputs, parities, torch.tensor([0b00111, 0b1000111]))
    with pytest.raises(ValueError, match="do not belong together"):
        Addition().decode(outputs, parities[:1], torch.tensor([0b00111, 0b00111]))


def test_trap_two_targets_from_one_symmetric_sum_cannot_decode_two_losses() -> None:
    generator = torch.Generator().manual_seed(3)
    queries = torch.randn(400, 2, 6, generator=generator).double()
    outputs = queries @ torch.randn(6, 4, generator=generator).double()
    swapped = queries.flip(1)
    assert torch.equal(queries.sum(1), swapped.sum(1))

    # The least-squares model of F1 + 2 F2 from P, trained on both orders, as random grouping brings them:
    features = torch.cat([queries.sum(1), swapped.sum(1)])
    wanted = torch.cat([outputs[:, 0] + 2 * outputs[:, 1], outputs[:, 1] + 2 * outputs[:, 0]])
    second = queries.sum(1) @ torch.linalg.lstsq(features, wanted).solution
    torch.testing.assert_close(second, 1.5 * outputs.sum(1))
    both_lost = torch.full((400,), 0b1100)
    trapped = Addition().decode(outputs * torch.nan, torch.stack([outputs.sum(1), second], 1), both_lost)
    torch.testing.assert_close(trapped[:, 0], trapped[:, 1])
    assert ((trapped - outputs).abs().amax((1, 2)) > 0.1).all()

    # Weighted queries: the same family of (linear) models now answers both rows, and both losses decode.
    parity_queries = Addition().encode(queries, 2)
    wanted = Addition().targets(outputs, 2)
    answers = [
        q @ torch.linalg.lstsq(q, t).solution for q, t in zip(parity_queries.unbind(1), wanted.unbind(1), strict=True)
    ]
    decoded = Addition().decode(outputs * torch.nan, torch.stack(answers, 1), both_lost)
    torch.testing.assert_close(decoded, outputs)


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        (((1.0, 1.0), (2.0, 2.0)), r"rows \[0, 1\] and columns \[0, 1\] \(from 0\) is singular"),
        (((1.0, 0.0, 1.0),), r"rows \[0\] and columns \[1\] \(from 0\) is singular"),
        (((1.0, 1.0, 1.0), (1.0, 2.0, 3.0), (2.0, 3.0, 4.0)), r"rows \[0, 1, 2\] and columns \[0, 1, 2\]"),
        (((1.0, 1.0), (1.0, 2.0, 3.0)), "every row needs the same number"),
        ((), "at least 1 item"),
        (((), ()), "at least one weight"),
    ],
)
def test_weights_that_cannot_decode_are_refused(weights: tuple[tuple[float, ...], ...], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        Addition(weights=weights)


def test_weights_of_another_size_are_refused_with_both_sizes() -> None:
    code = Addition(weights=((1.0, 1.0),))
    code.check(2, 1)
    assert code.matrix(2, 1).tolist() == [[1.0, 1.0]]
    with pytest.raises(ValueError, match=r"1 x 2 given .* k = 3 need 2 x 3"):
        code.check(3, 2)


def test_codes_are_found_by_name_and_say_whether_they_need_training() -> None:
    assert {"addition", "exact"} <= set(Code.members())
    assert Code.model_validate("exact") == Exact()
    assert Addition.answered_by == "parity"
    assert Exact.answered_by == "oracle"


def test_row_identity_does_not_depend_on_the_other_rows() -> None:
    assert Addition().identity(3, 1, 0) == Addition().identity(3, 2, 0)
    assert Addition().identity(3, 2, 0) != Addition().identity(3, 2, 1)
    assert Addition(weights=((1.0, 1.0),)).identity(2, 1, 0) == Addition().identity(2, 1, 0)


def test_what_yaml_names_is_importable_without_torch() -> None:
    program = "import sys, parity.codes, parity.networks, parity.recipes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_singular_submatrix_finds_the_smallest_one() -> None:
    assert singular_submatrix(np.array([[1.0, 2.0, 5.0], [2.0, 4.0, 1.0]])) == ([0, 1], [0, 1])
