"""What `parm check` knows before a run, and runs in which no time passes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command import parm

BASE = """
name: e
trials: 2
workload: {{arrivals: {arrivals}, queries: {queries}}}
cluster: {{instances: 4, service: {service}}}
policies: [none]
figures: []
"""


def write(folder: Path, arrivals: str, queries: int, service: str = "0") -> Path:
    (folder / "same.csv").write_text("timestamp\n5\n5\n5\n5\n")
    file = folder / "e.yaml"
    file.write_text(BASE.format(arrivals=arrivals, queries=queries, service=service))
    return file


@pytest.mark.parametrize(
    ("arrivals", "queries"), [("{kind: poisson, rate: 50}", 1), ("{kind: replay, file: same.csv}", 4)]
)
def test_a_run_in_which_no_time_passes_has_no_utilisation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrivals: str, queries: int
) -> None:
    file = write(tmp_path, arrivals, queries)
    assert parm("run", file, "--out", tmp_path / "out", "--workers", "1", monkeypatch=monkeypatch) == 0
    (row,) = json.loads((tmp_path / "out" / "summary.json").read_text())["rows"]
    assert row["metrics"]["p50"]["value"] == 0
    assert row["cost"]["utilisation"] is None
    assert row["cost"]["busy_seconds_per_query"] == 0
    assert parm("figures", tmp_path / "out", monkeypatch=monkeypatch) == 0


def test_check_knows_that_a_log_is_too_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parm("check", write(tmp_path, "{kind: replay, file: same.csv}", 5), monkeypatch=monkeypatch) == 2
    says = "e.yaml:4: workload: queries: must be at most the 4 recorded arrivals, but is 5"
    assert says in capsys.readouterr().err


def test_check_prints_loads_and_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, "{kind: poisson, rate: 50}", 5, service="7200")
    assert parm("check", file, monkeypatch=monkeypatch) == 0
    said = capsys.readouterr().out
    assert "policy none: offered load of the deployed pool 9e+04 (unstable: must be below 1)" in said
    assert "question: cluster.service: its median is 2 hours: is the unit right?" in said
