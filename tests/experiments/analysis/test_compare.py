import io

import numpy as np
import pytest
from rich.console import Console

from experiments.analysis import summary
from experiments.analysis.compare import compare
from sim.errors import ParmError
from tests.outcomes import outcome


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
    assert len(found.rows) == 2 * 2 * sum(not metric.startswith("goodput") for metric in summary.METRICS)
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
