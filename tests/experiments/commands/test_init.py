"""`parm init` and what `parm check` says of cost: a file that runs as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.api import load
from experiments.run.cells import cells
from experiments.run.forecast import forecast
from tests.command import parm


def test_the_template_runs_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    assert parm("init", file, monkeypatch=monkeypatch) == 0
    assert parm("check", file, monkeypatch=monkeypatch) == 0
    said = capsys.readouterr().out
    assert "60 cells: 4 policies x 3 sweep points x 5 trials" in said
    assert "sweep workload.arrivals.rate: 180, 240, 300" in said
    words = ["--out", tmp_path / "out", "--workers", 1, "--set", "trials=1", "--set", "workload.queries=500"]
    assert parm("run", file, *words, monkeypatch=monkeypatch) == 0
    assert (tmp_path / "out/summary.csv").is_file()


def test_no_file_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("precious")
    assert parm("init", file, monkeypatch=monkeypatch) == 2
    assert "exists already" in capsys.readouterr().err
    assert file.read_text() == "precious"


def test_a_forecast_counts_all_queries_and_the_disk_of_traces() -> None:
    experiment = load(Path("experiments/template.yaml"), {"workload.queries": 1000, "traces": True})
    once = cells(experiment.model_copy(update={"trials": 1}))
    found = forecast(once, trials=5)
    assert found.queries == 5 * 12 * 1000
    assert found.cpu_seconds > 0
    assert 20 < found.bytes / found.queries < 500
    without = load(Path("experiments/template.yaml"), {"workload.queries": 1000, "traces": False})
    assert forecast(cells(without.model_copy(update={"trials": 1})), 1).bytes == 0
