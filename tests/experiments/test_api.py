"""From Python: frames that equal the files, chosen by policy and sweep point, and clear errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pytest

from experiments.analysis import perfetto
from experiments.api import Run, load, open_run, run, simulate
from sim.errors import ParmError

EXPERIMENT: dict[str, Any] = {
    "name": "small",
    "trials": 2,
    "workload": {"arrivals": {"kind": "poisson", "rate": 90}, "queries": 600},
    "cluster": {"instances": 4, "extra": 2, "service": {"kind": "exponential", "mean": 0.03}},
    "policies": ["equal_resources", {"kind": "coded", "name": "two", "k": 2, "parity_instances": "budget"}],
    "sweep": {"workload.arrivals.rate": [60, 90], "cluster.queue": ["single_queue", "round_robin"]},
    "figures": ["ccdf"],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(EXPERIMENT, tmp_path_factory.mktemp("api") / "out", workers=1)


def test_a_run_is_quiet_and_can_be_opened_again(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    again = open_run(finished.folder)
    pd.testing.assert_frame_equal(again.summary(), finished.summary())
    assert repr(again) == f"Run('{finished.folder}': 2 policies x 4 sweep points)"
    assert capsys.readouterr().out == ""


def test_frames_equal_the_files(finished: Run) -> None:
    written = pd.read_csv(finished.folder / "summary.csv")
    frame = finished.summary()
    assert list(frame["policy"].cat.categories) == ["equal_resources", "two"]
    np.testing.assert_allclose(frame["p999_ms"], written["p999"])
    np.testing.assert_allclose(frame["unavailable"], written["unavailable"])
    compared = pd.read_csv(finished.folder / "differences.csv")
    np.testing.assert_allclose(finished.differences()["difference"], compared["difference"])


def test_queries_of_a_policy_at_a_sweep_point(finished: Run) -> None:
    queries = finished.queries("two", rate=60, queue="round_robin")
    assert len(queries) == 2 * 600
    assert set(queries["policy"]) == {"two"}
    np.testing.assert_allclose(queries["latency_ms"], 1000 * (queries["reply"] - queries["arrival"]))
    assert queries.dtypes["route"] == "category"
    rate, queue = "workload.arrivals.rate", "cluster.queue"
    row = finished.summary().query(f"policy == 'two' and `{rate}` == 60 and `{queue}` == 'round_robin'").iloc[0]
    counted = queries[~queries["warmup"]]
    assert counted["latency_ms"].median() == pytest.approx(row["p50_ms"], rel=0.02)  # of a grid of quantiles
    assert len(counted) == row["queries"]


def test_everything_is_read_together_and_only_what_is_asked_for(finished: Run) -> None:
    assert len(finished.queries()) == 8 * 2 * 600
    assert list(finished.queries(columns=["policy", "latency_ms"]).columns) == ["policy", "latency_ms"]
    tasks = finished.tasks("two", rate=90)
    assert set(tasks["role"]) == {"deployed", "parity"}


def test_other_tools_read_the_folders_without_surprises(finished: Run) -> None:
    whole = pd.read_parquet(finished.folder / "queries")
    assert len(whole) == 8 * 2 * 600
    assert set(whole["cluster.queue"]) == {"single_queue", "round_robin"}
    assert whole["workload.arrivals.rate"].dtype == float
    tasks = ds.dataset(finished.folder / "tasks").to_table()
    assert tasks.num_rows == len(finished.tasks())
    assert str(tasks.schema.field("policy").type).startswith("dictionary")


def test_a_trace_as_arrays(finished: Run) -> None:
    trace = finished.trace("two", trial=1, rate=60, queue="single_queue")
    frame = finished.queries("two", rate=60, queue="single_queue")
    np.testing.assert_array_equal(trace.queries.reply, frame[frame["trial"] == 1]["reply"])


def test_one_cell_without_a_run(finished: Run) -> None:
    frame = simulate(EXPERIMENT, "two", trial=1, rate=60, queue="single_queue")
    kept = finished.queries("two", rate=60, queue="single_queue")
    np.testing.assert_array_equal(frame["reply"], kept[kept["trial"] == 1]["reply"])


def test_figures_come_back_as_figures(finished: Run) -> None:
    drawn = finished.figure("ccdf", log=True)
    assert drawn.get_size_inches()[0] > 1
    with pytest.raises(ParmError, match="figure advantage: nothing: unknown key"):
        finished.figure("advantage", nothing=1)


def test_orders_of_policies_against_a_reference(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    found = finished.reversals({"queue": "single_queue"}, "p50")
    assert found.asked.against == {"cluster.queue": "single_queue"}
    assert len(found.pairs) + found.doubtful == 2
    assert set(found.frame()["cluster.queue"]) <= {"round_robin"}
    with pytest.raises(ParmError, match="there is no metric 'p9x'"):
        finished.reversals({"queue": "single_queue"}, "p9x")
    with pytest.raises(ParmError, match="'speed' names no swept key"):
        finished.reversals({"speed": 1})


def test_a_notebook_shows_the_verdict_and_the_summary(finished: Run) -> None:
    html = finished._repr_html_()
    assert "has the lowest p99.9" in html
    assert "<table" in html
    assert "accuracy_overall" not in html


def test_the_slowest_queries_are_the_slowest(finished: Run) -> None:
    excerpts = finished.slowest(5, "two", rate=90, queue="single_queue")
    queries = finished.queries("two", rate=90, queue="single_queue")
    slow = queries[~queries["warmup"]].nlargest(5, "latency_ms")
    assert {query for one in excerpts for query in one.marked} == set(slow["query"])
    assert isinstance(excerpts[0], perfetto.Excerpt)


def test_overrides_and_files(tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(json.dumps(EXPERIMENT))
    assert load(file, {"workload.queries": 50, "policies.two.k": 3}).workload.queries == 50
    assert load(load(EXPERIMENT), {"trials": 7}).trials == 7


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"cluster": {"instnces": 3}}, "experiment: cluster.instnces: unknown key; did you mean 'instances'?"),
        ({"trials": 0}, "experiment: trials: must be at least 1, but is 0."),
    ],
)
def test_mistakes_in_plain_data_are_sentences(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ParmError) as error:
        load(EXPERIMENT | change)
    assert says in str(error.value)


def test_what_a_run_does_not_have_is_said(finished: Run, tmp_path: Path) -> None:
    with pytest.raises(ParmError, match="there is no policy 'three'; there are equal_resources, two"):
        finished.queries("three")
    with pytest.raises(ParmError, match=r"there is no sweep point .*; there are workload.arrivals.rate: 60, 90"):
        finished.queries(rate=61)
    with pytest.raises(ParmError, match="'speed' names no swept key"):
        finished.queries(speed=1)
    with pytest.raises(ParmError, match="holds no trace of trial 9"):
        finished.trace("two", trial=9, rate=60)
    with pytest.raises(ParmError, match="is not a run directory"):
        open_run(tmp_path)
    with pytest.raises(ParmError, match="there is no 'p98' in the summary"):
        finished.verdict(50, "p98")
    bare = run(EXPERIMENT | {"traces": False, "sweep": {}}, tmp_path / "bare", workers=1)
    with pytest.raises(ParmError, match="its experiment does not say 'traces: queries' or 'all'"):
        bare.queries()
    half = run(EXPERIMENT | {"traces": "queries", "sweep": {}}, tmp_path / "half", workers=1)
    assert len(half.queries()) > 0
    with pytest.raises(ParmError, match="its experiment does not say 'traces: all'"):
        half.tasks()
    with pytest.raises(ParmError, match="that needs 'traces: all', but its experiment says 'traces: queries'"):
        half.slowest()
    assert half.report().is_file()
    assert bare.report().is_file()
