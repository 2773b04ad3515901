"""A percentile has one meaning wherever it is named: targets, claims, references, figures and calibrations."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from experiments.analysis import percentiles
from experiments.analysis.estimates import LatencyMetric, Metric
from experiments.calibration.options import FittedMetric


@pytest.mark.parametrize(
    ("name", "one", "probability"),
    [
        ("p50", "p50", 0.5),
        ("p05", "p05", 0.05),
        ("p5.5", "p05.5", 0.055),
        ("p12.5", "p12.5", 0.125),
        ("p90.0", "p90", 0.9),
        ("p95", "p95", 0.95),
        ("p975", "p975", 0.975),
        ("p99.5", "p995", 0.995),
        ("p99.9", "p999", 0.999),
        ("P99.90", "p999", 0.999),
        ("p999", "p999", 0.999),
        ("p99.99", "p9999", 0.9999),
        ("p99999", "p99999", 0.99999),
    ],
)
def test_a_point_may_be_written_or_left_out_from_p90_on(name: str, one: str, probability: float) -> None:
    assert percentiles.canonical(name) == one
    assert percentiles.canonical(one) == one
    assert percentiles.probability(name) == pytest.approx(probability, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("p100", "the largest value of all, which depends on how many there are; did you mean 'p99.9'?"),
        ("p1000", "1000% is more than all; did you mean 'p10'?"),
        ("p125", "did you mean 'p12.5'?"),
        ("p500", "did you mean 'p50'?"),
        ("p990", "did you mean 'p99'?"),
        ("p0", "the lowest percentile is p01"),
        ("p00", "these go from p01 to p99.999"),
        ("p5", "write p05 for the one above 5% of all values, or p50"),
        ("p100.0", "these go from p01 to p99.999"),
        ("p101.5", "these go from p01 to p99.999"),
        ("p999999", "these go from p01 to p99.999"),
        ("99", "is not a percentile, such as p50, p99 or p99.9"),
    ],
)
def test_what_is_none_or_could_be_several_is_refused_with_the_nearest(name: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"^'\S+' is not a percentile") as error:
        percentiles.canonical(name)
    assert says in str(error.value)


@pytest.mark.parametrize("metric", [Metric, LatencyMetric, FittedMetric])
def test_every_option_that_takes_a_percentile_agrees(metric: object) -> None:
    adapter: TypeAdapter[str] = TypeAdapter(metric)
    assert adapter.validate_python("p99.9") == adapter.validate_python("p999") == "p999"
    assert adapter.validate_python("mean") == "mean"
    for name in ("p100", "p1000", "p00"):
        with pytest.raises(ValidationError, match=f"'{name}' is not a percentile"):
            adapter.validate_python(name)
