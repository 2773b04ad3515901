import io

import numpy as np
import pytest
from rich.console import Console

from experiments import summary
from experiments.compare import compare
from experiments.outcome import COSTS, GRID, Measured, Outcome
from sim.errors import ParmError


def measured(generator, queries, scale, degraded, model):
    latency = generator.exponential(scale, queries)
    p50, p99, p999 = np.quantile(latency, (0.5, 0.99, 0.999))
    values = {"mean": latency.mean(), "p50": p50, "p99": p99, "p999": p999, "gap": p999 - p50}
    lost = int(degraded * queries)
    routes = {"own": queries - lost, "reconstruction": lost, "replica": 0, "backup": 0, "default": 0}
    accuracy = None
    if model:
        right = {"available": 0.97, "degraded": 0.9}
        accuracy = {"available": queries - lost, "degraded": lost}
        for name, share in right.items():
            correct = int(generator.binomial(accuracy[name], share))
            accuracy |= {f"{name}_correct": correct, f"{name}_top5": correct, f"{name}_agrees": correct}
    return {
        "queries": queries,
        "latency": {name: float(value) for name, value in values.items()},
        "routes": routes,
        "accuracy": accuracy,
    }, latency


def outcome(policy, trial, scale=0.01, degraded=0.0, model=True, instances=12, point=None, queries=20_000, **more):
    generator = np.random.default_rng([trial, *policy.encode()])
    whole, latency = measured(generator, queries, scale, degraded, model)
    parts = [Measured(**measured(generator, queries // 10, scale, degraded, model)[0]) for _ in range(10)]
    fields = {
        "policy": policy,
        "kind": policy.split("_")[0],
        "point": point or {},
        "trial": trial,
        "warmup": 100,
        "settled": True,
        "cost": dict(zip(COSTS, (instances, 0.5, 0.012, 2500.0), strict=True)),
        "quantiles": {"probabilities": GRID.tolist(), "seconds": np.quantile(latency, GRID).tolist()},
        "blocks": tuple(parts),
    }
    return Outcome(**(whole | fields | more))


def write(folder, scale=0.01, policies=("plain", "coded"), rates=(1, 2), model=True):
    cells = [
        outcome(policy, trial, scale, 0.1, model, point={"rate": rate})
        for rate in rates
        for policy in policies
        for trial in range(3)
    ]
    summary.write(cells, folder)
    return folder


def test_the_same_run_twice_differs_in_nothing(tmp_path):
    found = compare([write(tmp_path / "a"), write(tmp_path / "b")])
    assert found.names == ["a", "b"]
    assert len(found.rows) == 2 * 2 * len(summary.METRICS)
    assert all(row.difference == 0 and row.overlap for row in found.rows)
    assert found.unmatched == []


def test_a_slower_run_is_apart_in_latency_and_not_in_accuracy(tmp_path):
    found = compare([write(tmp_path / "a"), write(tmp_path / "b", scale=0.02), write(tmp_path / "c")])
    by = {(row.run, row.policy, row.metric): row for row in found.rows}
    assert not by["b", "coded", "p50"].overlap
    assert by["b", "coded", "p50"].difference == pytest.approx(0.01 * np.log(2) * 1000, rel=0.05)
    assert by["b", "coded", "accuracy_overall"].overlap
    assert by["c", "coded", "p50"].overlap


def test_rows_that_only_one_run_has_are_named(tmp_path):
    one, two = (
        write(tmp_path / "a", policies=("plain", "old")),
        write(tmp_path / "b", policies=("new", "plain"), rates=(2,)),
    )
    found = compare([one, two])
    assert {(row.policy, row.point["rate"]) for row in found.rows} == {("plain", 2)}
    assert "old at rate = 2 is in a but not in b" in found.unmatched
    assert "new at rate = 2 is in b but not in a" in found.unmatched
    assert "plain at rate = 1 is in a but not in b" in found.unmatched


def test_a_run_without_model_is_compared_in_latency_alone(tmp_path):
    found = compare([write(tmp_path / "a"), write(tmp_path / "b", model=False)])
    assert {row.metric for row in found.rows} == {*summary.LATENCIES, "unavailable"}


def test_the_table_says_which_intervals_overlap(tmp_path):
    found = compare([write(tmp_path / "a"), write(tmp_path / "b", scale=0.02)])
    buffer = io.StringIO()
    Console(file=buffer, width=120).print(found.table())
    text = buffer.getvalue()
    assert "apart" in text and "overlap" in text
    assert text.count("p999 ms") == 4
    assert "…" not in text


def test_directories_of_the_same_name_are_told_apart(tmp_path):
    found = compare([write(tmp_path / "x" / "run"), write(tmp_path / "y" / "run")])
    assert found.names == ["x/run", "y/run"]


def test_what_cannot_be_compared_is_refused(tmp_path):
    folder = write(tmp_path / "a")
    with pytest.raises(ParmError, match="at least two"):
        compare([folder])
    with pytest.raises(ParmError, match="named twice"):
        compare([folder, folder])
    with pytest.raises(ParmError, match=r"holds no summary\.json"):
        compare([folder, tmp_path])
    with pytest.raises(ParmError, match="a and c have no policy at the same sweep point in common"):
        compare([folder, write(tmp_path / "c", rates=(7,))])
