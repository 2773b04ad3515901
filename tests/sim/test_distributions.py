"""Every member against its own closed forms, against SciPy's, and against what any random variable obeys."""

import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from scipy import stats

from sim.distributions import Distribution
from sim.errors import ParmError

N = 20_000
P = np.array([0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999])
EXPONENTIAL = {"kind": "exponential", "mean": 0.02}
PARETO = {"kind": "pareto", "shape": 2.5, "minimum": 0.01}

# What YAML says, and SciPy's opinion of the same distribution.
PARAMETRIC: list[tuple[dict[str, Any], Any]] = [
    ({"kind": "uniform", "low": 0.01, "high": 0.04}, stats.uniform(0.01, 0.03)),
    (EXPONENTIAL, stats.expon(scale=0.02)),
    ({"kind": "exponential", "rate": 50}, stats.expon(scale=0.02)),
    ({"kind": "shifted_exponential", "shift": 0.01, "mean": 0.005}, stats.expon(loc=0.01, scale=0.005)),
    ({"kind": "gamma", "shape": 0.5, "mean": 0.02}, stats.gamma(0.5, scale=0.04)),
    ({"kind": "gamma", "shape": 3.5, "mean": 0.02}, stats.gamma(3.5, scale=0.02 / 3.5)),
    ({"kind": "erlang", "stages": 4, "mean": 0.02}, stats.gamma(4, scale=0.005)),
    ({"kind": "lognormal", "median": 0.02, "sigma": 0.6}, stats.lognorm(0.6, scale=0.02)),
    ({"kind": "weibull", "shape": 0.7, "scale": 0.02}, stats.weibull_min(0.7, scale=0.02)),
    ({"kind": "weibull", "shape": 2, "scale": 0.02}, stats.weibull_min(2, scale=0.02)),
    (PARETO, stats.pareto(2.5, scale=0.01)),
    ({"kind": "truncated", "of": EXPONENTIAL, "high": 0.03}, stats.truncexpon(1.5, scale=0.02)),
    ({"kind": "truncated", "of": EXPONENTIAL, "low": 0.03}, stats.expon(loc=0.03, scale=0.02)),
    ({"kind": "scaled", "of": EXPONENTIAL, "factor": 3, "shift": 0.01}, stats.expon(loc=0.01, scale=0.06)),
    ({"kind": "sum", "terms": [0.004, EXPONENTIAL, 0.006]}, stats.expon(loc=0.01, scale=0.02)),
]
HYPEREXPONENTIAL = {"kind": "hyperexponential", "means": [0.01, 0.1, 5], "weights": [9, 1, 0]}
MIXTURE = {"kind": "mixture", "parts": [0.01, {"kind": "uniform", "low": 0, "high": 0.04}, 0.02], "weights": [1, 2, 1]}
OTHERS: list[dict[str, Any]] = [
    {"kind": "deterministic", "value": 0.02},
    {"kind": "bimodal", "low": 0.01, "high": 0.1, "probability": 0.05},
    HYPEREXPONENTIAL,
    MIXTURE,
    {"kind": "mixture", "parts": [EXPONENTIAL, PARETO, {"kind": "gamma", "shape": 3, "mean": 1}], "weights": [5, 4, 1]},
    {"kind": "truncated", "of": MIXTURE, "low": 0.005, "high": 0.03},
    {"kind": "truncated", "of": HYPEREXPONENTIAL, "high": 0.2},
    {"kind": "truncated", "of": PARETO, "low": 0.011, "high": 1},
]
WITHOUT_CDF: list[dict[str, Any]] = [
    {"kind": "sum", "terms": [EXPONENTIAL, {"kind": "uniform", "low": 0, "high": 0.04}, 0.01]},
    {"kind": "mixture", "parts": [{"kind": "sum", "terms": [EXPONENTIAL, EXPONENTIAL]}, 0.01], "weights": [1, 1]},
]
WITH_CDF = [yaml for yaml, _ in PARAMETRIC] + OTHERS


def make(yaml: Any) -> Distribution:
    return TypeAdapter(Distribution).validate_python(yaml)


def draws(distribution: Distribution, n: int = N, seed: int = 7) -> np.ndarray:
    return distribution.sample(np.random.Generator(np.random.Philox(seed)), n)


def name(yaml: dict[str, Any]) -> str:
    return f"{yaml['kind']}-{'-'.join(str(value) for key, value in yaml.items() if key != 'kind')}"[:60]


@pytest.mark.parametrize(("yaml", "theirs"), PARAMETRIC, ids=[name(yaml) for yaml, _ in PARAMETRIC])
def test_agrees_with_scipy(yaml: dict[str, Any], theirs: Any) -> None:
    ours = make(yaml)
    assert ours.mean() == pytest.approx(theirs.mean(), rel=1e-9)
    np.testing.assert_allclose(ours.quantiles(P), theirs.ppf(P), rtol=1e-9)
    x = theirs.ppf(P)
    np.testing.assert_allclose(ours.cdf(x), P, rtol=1e-9)
    np.testing.assert_array_equal(ours.cdf(np.array([-math.inf, -1.0, math.inf])), [0, 0, 1])
    for p in (0.3, 0.95):
        top = float(theirs.ppf(p))
        # Substituting x = Q(u^4) takes the poles that some densities have at 0 out of the quadrature's way.
        area = np.mean(theirs.ppf(p * GRID**4) * p * 4 * GRID**3)
        assert ours.mean_up_to(top) == pytest.approx(area, rel=1e-6)
    assert ours.mean_up_to(1e6) == pytest.approx(theirs.mean(), rel=1e-6)


GRID = (np.arange(20_000) + 0.5) / 20_000


@pytest.mark.parametrize("yaml", WITH_CDF, ids=name)
def test_samples_follow_the_cdf(yaml: dict[str, Any]) -> None:
    ours = make(yaml)
    x = np.sort(draws(ours))
    at, before = ours.cdf(x), ours.cdf(np.nextafter(x, -1))
    assert at is not None
    assert before is not None
    distance = max(
        np.abs(np.searchsorted(x, x, side="right") / N - at).max(),
        np.abs(np.searchsorted(x, x, side="left") / N - before).max(),
    )
    assert distance < 2.2 / math.sqrt(N)  # Kolmogorov-Smirnov: a right sampler exceeds it once in 8,000 seeds


@pytest.mark.parametrize("yaml", WITH_CDF + WITHOUT_CDF, ids=name)
def test_samples_have_the_mean(yaml: dict[str, Any]) -> None:
    ours = make(yaml)
    x = draws(ours)
    assert ours.mean() == pytest.approx(x.mean(), abs=4.5 * x.std() / math.sqrt(N) + 1e-12)


@pytest.mark.parametrize("yaml", WITH_CDF, ids=name)
def test_empirical_quantiles_bracket_the_quantile(yaml: dict[str, Any]) -> None:
    ours = make(yaml)
    x = np.sort(draws(ours))
    for p in (0.05, 0.5, 0.9, 0.99):
        slack = 4.5 * math.sqrt(p * (1 - p) / N)  # the binomial count below a quantile, in standard deviations
        low, high = x[int(N * (p - slack))], x[min(N - 1, int(N * (p + slack)))]
        found = ours.quantile(p)
        assert found is not None
        assert low - 1e-12 <= found <= high + 1e-12


@pytest.mark.parametrize("yaml", OTHERS, ids=name)
def test_partial_means_are_the_area_under_the_quantiles(yaml: dict[str, Any]) -> None:
    ours = make(yaml)
    for x in (0.0, 0.01, 0.02, 0.03, 0.1, 0.5):
        at = ours.cdf(np.array([x]))
        assert at is not None
        expected = float(np.mean(ours.quantiles(GRID * at[0])) * at[0]) if at[0] > 0 else 0.0
        assert ours.mean_up_to(x) == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_infinite_and_finite_tails() -> None:
    heavy = make({"kind": "pareto", "shape": 1, "minimum": 0.01})
    assert heavy.mean() == math.inf
    assert heavy.quantile(1) == math.inf
    assert make({"kind": "mixture", "parts": [heavy, 1], "weights": [1, 1]}).mean() == math.inf
    assert make({"kind": "mixture", "parts": [heavy, 1], "weights": [0, 1]}).mean() == 1
    assert make({"kind": "sum", "terms": [heavy, 1]}).mean() == math.inf
    assert make({"kind": "truncated", "of": heavy, "low": 1}).mean() == math.inf
    # The density is 0.01 / x^2, hence the integral of 0.01 / x up to 1 over the probability 0.99.
    assert make({"kind": "truncated", "of": heavy, "high": 1}).mean() == pytest.approx(0.01 * math.log(100) / 0.99)
    # In general the integral of shape 0.01^shape / x^shape, which passes smoothly through shape = 1.
    little = {"kind": "pareto", "shape": 0.3, "minimum": 0.01}
    expected = 0.01 * 0.3 / 0.7 * (100**0.7 - 1) / (1 - 0.01**0.3)
    assert make({"kind": "truncated", "of": little, "high": 1}).mean() == pytest.approx(expected)
    beside = make({"kind": "pareto", "shape": 1 + 1e-13, "minimum": 0.01})
    assert beside.mean_up_to(1) == pytest.approx(heavy.mean_up_to(1))


def test_the_two_ways_to_write_a_lognormal_agree() -> None:
    sigma = 0.6
    one = make({"kind": "lognormal", "median": 0.02, "sigma": sigma})
    other = make({"kind": "lognormal", "mean": one.mean(), "cv": math.sqrt(math.expm1(sigma**2))})
    np.testing.assert_allclose(one.quantiles(P), other.quantiles(P), rtol=1e-12)
    x = draws(other)
    assert x.std() / x.mean() == pytest.approx(math.sqrt(math.expm1(sigma**2)), rel=0.05)


def test_a_mixture_of_constants_has_exact_quantiles() -> None:
    ours = make({"kind": "mixture", "parts": [3, 0.1, 0.7], "weights": [1, 2, 1]})
    np.testing.assert_array_equal(
        ours.quantiles(np.array([0, 0.3, 0.5, 0.51, 0.75, 0.76, 1])), [0.1, 0.1, 0.1, 0.7, 0.7, 3, 3]
    )
    assert ours.mean() == pytest.approx(0.975)


def test_other_weights_choose_other_values_but_draw_the_same() -> None:
    parts = [EXPONENTIAL, {"kind": "shifted_exponential", "shift": 1, "mean": 1}]
    few, more = (draws(make({"kind": "mixture", "parts": parts, "weights": [1 - w, w]})) for w in (0.1, 0.2))
    same = few == more
    assert 0.88 < same.mean() < 0.92
    assert (few[~same] < more[~same]).all()


@pytest.mark.parametrize("yaml", WITHOUT_CDF, ids=name)
def test_no_quantiles_where_there_is_no_cdf(yaml: dict[str, Any]) -> None:
    for ours in (make(yaml), make({"kind": "scaled", "of": yaml, "factor": 2})):
        assert ours.quantile(0.5) is None
        assert ours.cdf(P) is None
        assert ours.mean_up_to(1) is None
    cut = make({"kind": "truncated", "of": yaml, "low": 0.02, "high": 0.05})
    assert (cut.mean(), cut.quantile(0.5)) == (None, None)


def test_truncation_without_a_cdf_keeps_what_lies_between() -> None:
    erlang = {"kind": "sum", "terms": [EXPONENTIAL, EXPONENTIAL]}
    x = np.sort(draws(make({"kind": "truncated", "of": erlang, "low": 0.02, "high": 0.05})))
    known = make({"kind": "truncated", "of": {"kind": "erlang", "stages": 2, "mean": 0.04}, "low": 0.02, "high": 0.05})
    at = known.cdf(x)
    assert at is not None
    assert np.abs((np.arange(N) + 0.5) / N - at).max() < 2.2 / math.sqrt(N)


def test_truncation_gives_up_where_nothing_is_kept() -> None:
    erlang = {"kind": "sum", "terms": [EXPONENTIAL, EXPONENTIAL]}
    with pytest.raises(ParmError, match="fewer than one value in 10,000 would lie above 9 s and up to 10 s"):
        draws(make({"kind": "truncated", "of": erlang, "low": 9, "high": 10}), 1)


def test_a_truncated_tail_stays_finite_at_the_last_random_number() -> None:
    class Last:
        def random(self, n: int) -> np.ndarray:
            return np.full(n, 1 - 2.0**-53)

    tail = make({"kind": "truncated", "of": EXPONENTIAL, "low": 0.1})
    assert 0.1 < tail.sample(Last(), 1)[0] < 1  # 0.02 log(2^53) is 0.73


def test_shorthands() -> None:
    assert make(0.02) == make("2e-2") == make({"kind": "deterministic", "value": 0.02})
    assert make(make(EXPONENTIAL)) == make(EXPONENTIAL)
    assert make({"kind": "sum", "terms": [0.1, 0.2]}).quantile(0.5) == pytest.approx(0.3)


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_a_quantile_needs_a_probability(p: float) -> None:
    with pytest.raises(ValueError, match="must be between 0 and 1"):
        make(0.02).quantile(p)


times = st.floats(1e-4, 10)
weights = st.floats(0, 5)
simple = st.one_of(
    st.builds(lambda v: {"kind": "deterministic", "value": v}, st.floats(0, 10)),
    st.builds(lambda a, b: {"kind": "uniform", "low": a, "high": a + b}, st.floats(0, 10), times),
    st.builds(lambda m: {"kind": "exponential", "mean": m}, times),
    st.builds(lambda r: {"kind": "exponential", "rate": r}, times),
    st.builds(lambda s, m: {"kind": "shifted_exponential", "shift": s, "mean": m}, st.floats(0, 10), times),
    st.builds(lambda k, m: {"kind": "gamma", "shape": k, "mean": m}, st.floats(0.2, 50), times),
    st.builds(lambda k, m: {"kind": "erlang", "stages": k, "mean": m}, st.integers(1, 50), times),
    st.builds(lambda m, s: {"kind": "lognormal", "median": m, "sigma": s}, times, st.floats(0.01, 4)),
    st.builds(lambda m, c: {"kind": "lognormal", "mean": m, "cv": c}, times, st.floats(0.01, 10)),
    st.builds(lambda k, s: {"kind": "weibull", "shape": k, "scale": s}, st.floats(0.2, 40), times),
    st.builds(lambda k, s: {"kind": "pareto", "shape": k, "minimum": s}, st.floats(0.1, 20), times),
    st.builds(
        lambda a, b, p: {"kind": "bimodal", "low": a, "high": a + b, "probability": p}, times, times, st.floats(0, 1)
    ),
    st.builds(lambda a, b, w: {"kind": "hyperexponential", "means": [a, b], "weights": [w, 1]}, times, times, weights),
)


def composed(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        st.builds(lambda d, f, s: {"kind": "scaled", "of": d, "factor": f, "shift": s}, inner, times, st.floats(0, 5)),
        st.builds(lambda a, b, w: {"kind": "mixture", "parts": [a, b], "weights": [w, 1]}, inner, inner, weights),
        st.builds(lambda d, c: {"kind": "sum", "terms": [d, c]}, inner, st.floats(0, 5)),
        st.builds(lambda d: {"kind": "truncated", "of": d, "high": 1e3}, inner),
    )


@settings(max_examples=300, deadline=None)
@given(yaml=st.recursive(simple, composed, max_leaves=4), p=st.floats(1e-6, 1 - 1e-6), seed=st.integers(0, 2**32))
def test_what_every_distribution_obeys(yaml: dict[str, Any], p: float, seed: int) -> None:
    ours = make(yaml)
    x = draws(ours, 50, seed)
    assert x.shape == (50,)
    assert x.dtype == np.float64
    assert np.isfinite(x).all()
    assert (x >= 0).all()
    np.testing.assert_array_equal(x, draws(ours, 50, seed))

    grid = np.array([0, p / 2, p, (1 + p) / 2, 1])
    quantiles = ours.quantiles(grid)
    assert quantiles is not None
    assert (np.diff(quantiles[:-1]) >= 0).all()
    assert quantiles[-1] >= quantiles[-2]
    assert (x >= quantiles[0] * (1 - 1e-12)).all()
    assert (x <= quantiles[-1] * (1 + 1e-12)).all()
    # The quantile is where the CDF passes p: not below it from there on, not above it before.
    # A millionth to either side leaves room for rounding where the CDF is steep.
    beside = ours.cdf(quantiles[2] * np.array([1 - 1e-6, 1 + 1e-6]) + [-1e-12, 1e-12])
    assert beside is not None
    assert beside[0] <= p + 1e-9
    assert beside[1] >= p - 1e-9

    mean = ours.mean()
    parts = [ours.mean_up_to(float(one)) for one in quantiles[:-1]]
    assert mean is not None
    assert all(part is not None and 0 <= part <= mean * (1 + 1e-9) + 1e-12 for part in parts)
    assert quantiles[0] * (1 - 1e-9) - 1e-12 <= mean <= quantiles[-1] * (1 + 1e-9) + 1e-12

    again = make(ours.model_dump(mode="json", serialize_as_any=True))
    assert again == ours == pickle.loads(pickle.dumps(ours))
    assert hash(again) == hash(ours)
    assert ours.at_batch(2) is None
