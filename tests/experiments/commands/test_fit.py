"""`parm fit`: from a log to an experiment that runs, and a sentence for every log that cannot be used."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from experiments.config import loader
from tests import logs
from tests.command import parm

PERIODS = {"kind": "slow_periods", "factor": 4, "mean_normal": 9.5, "mean_slow": 0.5}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    known = logs.experiment(6000, 3, stragglers=[PERIODS])
    return logs.write(known, tmp_path_factory.mktemp("logs") / "gpu.csv")


def rows(log: Path) -> list[list[str]]:
    return [line.split(",") for line in log.read_text().splitlines()[1:]]


def test_a_log_becomes_an_experiment_that_runs(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.yaml"
    words = ["fit", log, "--column", "seconds", "--arrival", "arrival", "--out", out, "--figure", tmp_path / "fit.pdf"]
    assert parm(*words, monkeypatch=monkeypatch) == 0
    said = capsys.readouterr().out
    assert "From 6,000 arrivals: 18" in said
    assert "runs of slow services: mean_normal" in said
    assert "service, observed / simulated: p50" in said
    assert "latency from arrival, observed / simulated" in said
    assert "rank correlation of a host's services with the next" in said
    assert (tmp_path / "fit.pdf").read_bytes().startswith(b"%PDF")
    text = out.read_text()
    assert text.startswith("# Made by 'parm fit' from gpu.csv: 6,000 answers of 8 hosts")
    experiment = loader.load(out)
    assert experiment.cluster.instances == 8
    assert [one.name_in_yaml() for one in experiment.stragglers] == ["slow_periods"]
    assert len(experiment.policies) == 4
    assert parm(*words, monkeypatch=monkeypatch) == 0  # again, over its own file
    assert out.read_text() == text
    small = ["--set", "workload.queries=500", "--set", "trials=2", "--workers", 1, "--out", tmp_path / "run"]
    assert parm("run", out, *small, monkeypatch=monkeypatch) == 0


def test_dates_lines_of_json_and_other_units_are_the_same_log(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ISO dates with microseconds and milliseconds in JSON lines, against seconds in CSV."""
    file = tmp_path / "gpu.jsonl"
    with file.open("w") as lines:
        for _, start, _, seconds, _, host in rows(log):
            when = datetime.fromtimestamp(1_700_000_000 + float(start), UTC).isoformat(timespec="microseconds")
            lines.write(json.dumps({"when": when, "ms": float(seconds) * 1e3, "pod": host}) + "\n")
    assert parm("fit", file, "--column", "ms", "--unit", "ms", monkeypatch=monkeypatch) == 0
    assert parm("fit", log, "--column", "seconds", "--out", tmp_path / "csv.yaml", monkeypatch=monkeypatch) == 0
    first, second = loader.load(tmp_path / "gpu.yaml"), loader.load(tmp_path / "csv.yaml")
    assert first.cluster.service.mean() == pytest.approx(second.cluster.service.mean(), rel=1e-4)
    assert len(first.stragglers) == len(second.stragglers) == 1


def test_without_a_column_of_hosts_there_is_one_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = {"instances": 1, "extra": 1, "service": {"kind": "exponential", "mean": 0.01}}
    file = logs.write(logs.experiment(1500, 1, 50, cluster=cluster), tmp_path / "one.csv")
    file.write_text("\n".join(line.rpartition(",")[0] for line in file.read_text().splitlines()) + "\n")
    assert parm("fit", file, "--column", "seconds", monkeypatch=monkeypatch) == 0
    assert "no column is named like a host (name it with --host), so all answers are one host's" in (
        capsys.readouterr().out
    )
    assert loader.load(tmp_path / "one.yaml").cluster.instances == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--column", "second"], "has no column 'second' (did you mean 'seconds'?)"),
        (["--column", "seconds", "--host", "hots"], "has no column 'hots' (did you mean 'host'?)"),
        (["--column", "seconds", "--time", "begin"], "has no column 'begin'"),
        (["--column", "seconds", "--unit", "m"], "--unit m: must be one of s, ms, us, ns."),
        (["--column", "seconds", "--time-unit", "h"], "--time-unit h: must be one of s, ms, us, ns."),
        (["--column", "seconds", "--at", "middle"], "--at middle: must be one of start, end, arrival."),
        (
            ["--column", "seconds", "--time", "start", "--unit", "s", "--time-unit", "ms"],
            "are --unit and --time-unit right",
        ),
        (["--column", "latency", "--time", "arrival"], "say '--at arrival'"),
        (["--column", "latency", "--time", "host"], "where a time belongs"),
        (["--column", "seconds", "--arrival", "end"], "began before their query arrived"),
        (["--column", "seconds", "--out", "mine.json"], "the experiment's name has to end in .yaml"),
        (["--column", "seconds", "--figure", "fit.bmp"], "has to end in one of .png, .pdf, .svg"),
    ],
)
def test_bad_words_are_refused(
    log: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parm("fit", log, *words, monkeypatch=monkeypatch) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert not (log.parent / "gpu.yaml").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: rows[:100], "has 100 answers; at least 500 are needed"),
        (lambda rows: [*rows, ["0", "1", "2", "-0.1", "1", "h0"]], "has '-0.1' where a time of at least 0 belongs"),
        (lambda rows: [*rows, ["0", "1", "2", "0", "1", "h0"]], "has a 'seconds' of 0; it must be above 0"),
        (lambda rows: [*rows, ["0", "1", "2", "soon", "1", "h0"]], "has 'soon' where a time of at least 0 belongs"),
        (lambda rows: [[*row[:5], "h0"] for row in rows], "began while their host served another one"),
        (lambda rows: [[str(float(row[0]) - 1e9), *row[1:]] for row in rows], "do arrivals and times have one clock"),
    ],
)
def test_logs_that_cannot_be_used_are_refused(
    log: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: object,
    says: str,
) -> None:
    assert callable(change)
    bad = tmp_path / "bad.csv"
    lines = [",".join(row) for row in change(rows(log))]
    bad.write_text("\n".join(["arrival,start,end,seconds,latency,host", *lines]) + "\n")
    assert parm("fit", bad, "--column", "seconds", "--arrival", "arrival", monkeypatch=monkeypatch) == 2
    assert says in capsys.readouterr().err


def test_services_of_hosts_that_serve_several_at_once_are_not_guessed(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.csv"
    lines = [",".join([*row[:5], "h0"]) for row in rows(log)]
    bad.write_text("\n".join(["arrival,start,end,seconds,latency,host", *lines]) + "\n")
    assert parm("fit", bad, "--at", "arrival", monkeypatch=monkeypatch) == 2
    assert "serve several at once, or not in the order of arrival" in capsys.readouterr().err


def test_a_file_of_the_users_own_is_not_overwritten(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("name: mine\n")
    assert parm("fit", log, "--column", "seconds", "--out", mine, monkeypatch=monkeypatch) == 2
    assert "exists already and was not made by parm fit" in capsys.readouterr().err
    assert mine.read_text() == "name: mine\n"
