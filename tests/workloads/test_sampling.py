import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.sampling import InOrder, Sampling, Uniform, Zipf


def generator(seed=3):
    return np.random.default_rng(seed)


@given(kind=st.sampled_from(["uniform", "in_order", "zipf"]), queries=st.integers(1, 200), samples=st.integers(1, 50))
def test_every_sample_number_exists(kind, queries, samples):
    drawn = Sampling.model_validate(kind).draw(queries, samples, generator())
    assert drawn.shape == (queries,)
    assert drawn.dtype == np.int64
    assert 0 <= drawn.min() <= drawn.max() < samples


def test_uniform_draws_all_samples_equally():
    counts = np.bincount(Uniform().draw(100_000, 10, generator()), minlength=10)
    np.testing.assert_allclose(counts, 10_000, rtol=0.05)


def test_in_order_begins_again_after_the_last():
    assert InOrder().draw(7, 3, generator()).tolist() == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize("exponent", [0, 0.8, 1.5])
def test_zipf_popularity_falls_as_a_power_of_the_rank(exponent):
    counts = np.sort(np.bincount(Zipf(exponent=exponent).draw(400_000, 8, generator()), minlength=8))[::-1]
    expected = np.arange(1.0, 9) ** -exponent
    np.testing.assert_allclose(counts / counts.sum(), expected / expected.sum(), rtol=0.05)


def test_zipf_ranks_are_a_permutation_of_the_generator():
    favourites = {np.bincount(Zipf(exponent=2).draw(1000, 50, generator(seed))).argmax() for seed in range(10)}
    assert len(favourites) > 5


def test_the_first_draws_do_not_depend_on_how_many_follow():
    for sampling in (Uniform(), InOrder(), Zipf()):
        first = sampling.draw(100, 37, generator())
        np.testing.assert_array_equal(first, sampling.draw(1000, 37, generator())[:100])
