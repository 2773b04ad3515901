"""NeRCC: smoothing splines as matrices, and how their weights are tuned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.interpolate import CubicSpline, make_smoothing_spline

from parity.codes import Nercc
from parity.codes.curve import points
from parity.codes.nercc import smoothing_spline, tune
from parity.evaluation import degraded, predict
from parity.networks import Mlp
from parity.objectives import TrainingData
from parity.recipes import Best
from parity.store import ModelStore

sizes = st.tuples(st.integers(2, 12), st.integers(1, 4))
weights = st.sampled_from([0.0, 1e-6, 1e-3, 0.1, 10.0])


@settings(max_examples=40, deadline=None)
@given(st.tuples(st.integers(5, 12), st.integers(1, 4)), st.sampled_from([1e-6, 1e-3, 0.1, 10.0]))
def test_it_is_the_smoothing_spline(size: tuple[int, int], weight: float) -> None:
    k, s = size
    at, read = Nercc().angles(k, k + s)
    x, z = points(at), points(read)
    values = np.random.default_rng(k).normal(size=k)
    found = smoothing_spline(at, read, weight) @ values
    # Its criterion has the sum where ours has the mean.
    expected = make_smoothing_spline(x[::-1], values[::-1], lam=k * weight)
    inside = (z >= x.min()) & (z <= x.max())
    np.testing.assert_allclose(found[inside], expected(z[inside]), rtol=1e-5, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.tuples(st.integers(3, 12), st.integers(1, 4)))
def test_weight_zero_interpolates(size: tuple[int, int]) -> None:
    k, s = size
    at, read = Nercc().angles(k, k + s)
    np.testing.assert_allclose(smoothing_spline(at, at, 0.0), np.eye(k), atol=1e-9)
    x, z = points(at), points(read)
    values = np.random.default_rng(k).normal(size=k)
    spline = CubicSpline(x[::-1], values[::-1], bc_type="natural")
    inside = (z >= x.min()) & (z <= x.max())
    np.testing.assert_allclose((smoothing_spline(at, read, 0.0) @ values)[inside], spline(z[inside]), atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(sizes, weights, weights)
def test_a_straight_line_stays_one_within_the_knots_and_beyond(
    size: tuple[int, int], first: float, then: float
) -> None:
    k, n = size[0], sum(size)
    code = Nercc(lambda_encode=first, lambda_decode=then)
    at, read = code.angles(k, n)
    x = torch.tensor(points(at))
    queries = torch.stack([2 - 3 * x, x], dim=1)[None]
    coded = code.encode(queries, n)
    z = torch.tensor(points(read))
    torch.testing.assert_close(coded[0], torch.stack([2 - 3 * z, z], dim=1), rtol=1e-6, atol=1e-7)
    decoded = code.decode(queries, coded, torch.tensor([((1 << n) - 1) << k]))
    torch.testing.assert_close(decoded, queries, rtol=1e-6, atol=1e-7)


def test_a_huge_weight_gives_the_least_squares_line() -> None:
    at, read = Nercc().angles(8, 9)
    values = np.random.default_rng(2).normal(size=8)
    line = np.polyval(np.polyfit(points(at), values, 1), points(read))
    np.testing.assert_allclose(smoothing_spline(at, read, 1e9) @ values, line, atol=1e-6)


def test_beyond_the_outer_knots_the_curve_goes_on_without_a_kink() -> None:
    at, _ = Nercc().angles(6, 7)
    x = points(at)
    for end, sign in ((x.max(), 1), (x.min(), -1)):
        h = 1e-4
        around = [smoothing_spline(at, _angle(end + sign * step), 1e-3)[0] for step in (-h, 0, h, 2 * h)]
        np.testing.assert_allclose(around[2] - around[1], around[1] - around[0], atol=1e-6)
        np.testing.assert_allclose(around[3] - around[2], around[2] - around[1], atol=1e-12)


def _angle(x: float) -> tuple[float]:
    return (float(np.arccos(x) / np.pi),)


def test_weights_are_not_negative() -> None:
    with pytest.raises(ValidationError, match="lambda_decode"):
        Nercc(lambda_decode=-1)


def test_tuning_finds_the_pair_that_does_best(data: TrainingData, tmp_path: Path) -> None:
    deployed = ModelStore(tmp_path).classifier(Mlp(hidden=(32,)), data, Best(epochs=4), 0).module
    images, labels = data.train[:100], data.train_labels[:100]
    grid = (0.0, 1e-2)
    best = tune(Nercc(), 4, 5, deployed, images, labels, data.task, losses=1, grid=grid)
    outputs = predict(deployed, images)
    every = {
        (e, d): degraded(
            Nercc(lambda_encode=e, lambda_decode=d), 4, 5, [], deployed, images, outputs, labels, data.task, groupings=1
        ).quality
        for e in grid
        for d in grid
    }
    assert best.quality == max(every.values()) > min(every.values())
    assert every[best.code.lambda_encode, best.code.lambda_decode] == best.quality
