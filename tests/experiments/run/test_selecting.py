"""Runs that add trials until the best policy is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from experiments.analysis import summary
from experiments.analysis.selection import Standing
from experiments.api import open_run
from experiments.config.schema import Experiment
from experiments.run.cells import cells
from experiments.run.session import Session
from sim.errors import ParmError
from tests.command import parm
from tests.experiments.run.test_store import PLAIN, experiment

THREE: dict[str, Any] = {
    "traces": False,
    "figures": [],
    "policies": [
        "none",
        {"name": "queued", "kind": "replication"},
        {"name": "stopped", "kind": "replication", "cancel": "all"},
    ],
    "cluster": {"instances": 4, "extra": 4, "service": {"kind": "exponential", "mean": 0.03}},
}


def ran(folder: Path, **select: Any) -> dict[str, tuple[int, str]]:
    """Run into the folder; return the trials and the standing of each policy."""
    Session(workers=1).run(experiment(**THREE, select=select), folder)
    return {row.policy: (row.trials, row.standing) for row in summary.read(folder)}


def test_losers_are_not_simulated_any_longer_and_the_search_is_extended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = ran(tmp_path, metric="p99", within="50%")
    assert {trials for trials, _ in first.values()} == {10}
    assert "p99, all at 95% confidence: not worse than the best by more than 50%: " in capsys.readouterr().out
    second = ran(tmp_path, metric="p99", within="1ms", max_trials=400)
    assert second == {"none": (10, "worse"), "queued": (23, "undecided"), "stopped": (23, "within 1 ms")}
    assert "30 of 30 cells are reused" in capsys.readouterr().err
    assert ran(tmp_path, metric="p99", within="1ms", max_trials=400) == second  # nothing is left to do
    before = (tmp_path / "summary.csv").read_bytes()
    finished = open_run(tmp_path)
    assert [one.policy for one in finished.outcomes] == ["none"] * 10 + ["queued"] * 23 + ["stopped"] * 23
    assert list(finished.summary()["standing"]) == ["worse", "undecided", "within 1 ms"]
    ((_, marks),) = finished.standings("p99", "50%")
    assert marks[2].standing in (Standing.BEST, Standing.CLOSE)
    with pytest.raises(ParmError, match="needs a unit"):
        finished.standings("p99", 3)
    kept = json.loads((tmp_path / "selection.json").read_text())
    assert kept["points"][0]["settled"] is True
    with pytest.MonkeyPatch.context() as patch:
        assert parm("figures", tmp_path, monkeypatch=patch) == 0
        assert (tmp_path / "summary.csv").read_bytes() == before
        (tmp_path / "selection.json").unlink()
        capsys.readouterr()
        assert parm("figures", tmp_path, monkeypatch=patch) == 2
    assert "holds no selection.json" in capsys.readouterr().err


def test_it_is_undecided_at_max_trials_or_when_the_time_is_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = ran(tmp_path / "most", metric="p99", within="0.001ms", max_trials=16)
    assert max(trials for trials, _ in found.values()) == 15
    assert "undecided" in capsys.readouterr().out
    over = ran(tmp_path / "time", within="0.001ms", max_minutes=1e-9)
    assert {trials for trials, _ in over.values()} == {10}


def test_a_run_with_a_precision_is_taken_up(tmp_path: Path) -> None:
    Session(workers=1).run(experiment(**THREE, precision={"p50": "50%"}), tmp_path)
    assert {trials for trials, _ in ran(tmp_path, metric="p50", within="20ms").values()} == {10}
    assert open_run(tmp_path).experiment.select is not None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"select": {}}, "within"),
        ({"select": {"within": "wide"}}, "is no width"),
        ({"select": {"within": 3}}, "needs a unit"),
        ({"select": {"within": "1ms", "metric": "unavailable"}}, "is a time, but unavailable is none"),
        ({"select": {"within": "1ms", "metric": "p100"}}, "is not a percentile"),
        ({"select": {"within": "1%", "metric": "accuracy_overall"}}, "needs a 'model'"),
        ({"select": {"within": "1ms", "confidence": 1}}, "less than 1"),
        ({"select": {"within": "1ms"}, "precision": {"p999": "5%"}}, "both say when to stop"),
        ({"select": {"within": "1ms"}, "policies": ["none"]}, "two policies or more"),
    ],
)
def test_what_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        experiment(**(THREE | options))


def test_cells_keep_their_ids() -> None:
    given = experiment(**THREE, select={"metric": "p99.9", "within": "1ms"})
    assert given.select is not None
    assert given.select.metric == "p999"
    assert [one.id for one in cells(given)] == [one.id for one in cells(experiment(**THREE))]
    assert Experiment.model_validate(given.resolved()) == given


def test_check_says_the_least_and_the_most_that_it_may_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(json.dumps(PLAIN | THREE))
    assert (
        parm("check", file, "--set", "select.within=1ms", "--set", "select.max_trials=40", monkeypatch=monkeypatch) == 0
    )
    said = capsys.readouterr().out
    assert "select p99.9 within 1 ms at 95% confidence: at least 10 trials (30 cells, 9,000 queries)" in said
    assert "at most 35 (105 cells, 31,500 queries)" in said
