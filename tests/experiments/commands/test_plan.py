"""`parm plan` through the command itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import cli
from experiments.capacity import trials
from tests.command import parm

ROOT = Path(cli.__file__).resolve().parents[1]
LATENCY = """\
name: tiny
workload: {arrivals: {kind: poisson, rate: 90}, queries: 1000}
cluster: {instances: 4, extra: 2, service: {kind: uniform, low: 0.02, high: 0.04}, prices: {parity: 0.5}}
policies: [none, {kind: coded, name: two, k: 2}, {kind: replication, copies: 4}]
"""
MODEL = LATENCY + "model: {network: {kind: mlp, hidden: [16]}, dataset: digits, recipe: {kind: best, epochs: 1}}\n"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An experiment in a folder of its own, which is the working one."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "experiment.yaml"
    path.write_text(LATENCY)
    return path


def test_a_table_the_answer_and_json(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", file, "--slo", "p99=70ms", "--slo", "mean=0.05s", "--workers", 1, "--out", "plan.json"]
    assert parm(*words, monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr()
    assert "the fewest instances with p99 <= 70 ms and mean <= 50 ms, all at once with 95% confidence" in printed.out
    assert "trials so far" in printed.err
    document = json.loads(Path("plan.json").read_text())
    by_name = {one["policy"]: one for one in document["policies"]}
    assert document["policies"][0]["policy"] == document["best"]
    assert document["targets"][1] == {"metric": "mean", "bound": 50.0, "unit": "ms"}
    two = by_name["two"]
    assert two["instances"] == two["deployed"] + -(-two["deployed"] // 2)
    assert two["price"] == two["deployed"] + 0.5 * -(-two["deployed"] // 2)
    answer = by_name[document["best"]]
    assert f"fewest: {document['best']}, {answer['deployed']} deployed instances" in printed.out
    verdicts = {one["deployed"]: one["verdict"] for one in answer["tried"]}
    assert verdicts[answer["deployed"]] == "meets"
    assert verdicts[answer["deployed"] - 1] != "meets"
    impossible = [one["impossible"] for one in by_name["replication"]["tried"] if one["impossible"]]
    assert all("4" in one for one in impossible)
    for one in document["policies"]:
        for tried in one["tried"]:
            for found in tried["found"].values():
                assert found["certainly_no_better_than"] <= found["mean"] <= found["certainly_no_worse_than"]

    before = {path: path.stat().st_mtime_ns for path in Path("runs/tiny-plan/cells").iterdir()}
    assert parm(*words, monkeypatch=monkeypatch) == 0
    again = capsys.readouterr()
    assert again.out == printed.out
    assert "trials so far" not in again.err
    assert {path: path.stat().st_mtime_ns for path in Path("runs/tiny-plan/cells").iterdir()} == before


def test_the_answers_are_the_same_for_any_number_of_workers(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "WORTH_A_WORKER", 1)
    for workers in (1, 2):
        words = ["plan", file, "--slo", "p50=40ms", "--workers", workers, "--out", f"{workers}.json", "--fresh"]
        words += ["--most", 3, "--set", "policies=[none]"]
        assert parm(*words, monkeypatch=monkeypatch) == 1  # three are too few
    assert Path("1.json").read_text() == Path("2.json").read_text()


def test_accuracy_is_a_target_of_the_clients_answers(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(MODEL)
    common = ["plan", file, "--slo", "mean=60ms", "--workers", 1, "--set", "policies=[none]", "--most", 8]
    assert parm(*common, "--accuracy", 0.1, monkeypatch=monkeypatch) == 0
    assert "accuracy >= 0.1000" in (printed := capsys.readouterr().out)
    assert "fewest: none, " in printed
    assert parm(*common, "--accuracy", 0.999, "--out", "none.json", monkeypatch=monkeypatch) == 1
    printed = capsys.readouterr().out
    assert "No policy is certain to meet the targets with up to 8 deployed instances." in printed
    assert "none up to 8" in printed
    assert "price" in printed
    assert "tried for none: " in printed
    assert json.loads(Path("none.json").read_text())["best"] is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "say what is to be met, such as --slo p999=40ms or --accuracy 0.92."),
        (["--slo", "p100=40ms"], "--slo p100=40ms: 'p100' is not a percentile: it would be the largest value of all"),
        (["--slo", "p999=40"], "it needs a unit"),
        (["--accuracy", "0.9"], "has no 'model', so there is no accuracy."),
        (["--slo", "goodput=250"], "--slo goodput: goodput needs a time within which answers count"),
        (["--slo", "goodput=40ms"], "must be a number of queries per second, such as goodput=250."),
        (["--slo", "p99=40ms", "--within", "3"], "--within 3: needs a unit"),
        (["--slo", "p99=40ms", "--within", "much"], "--within: 'much' is no width"),
        (["--slo", "p99=40ms", "--rate", "--most", "3"], "--rate takes those of the file."),
        (["--slo", "p99=40ms", "--confidence", "95"], "--confidence 95: must be above 0.5 and below 1."),
        (["--slo", "p99=40ms", "--set", "sweep={workload.arrivals.rate: [60, 90]}"], "take the sweep out with"),
        (["--slo", "p99=40ms", "--out", "experiment.yaml/plan.json"], "experiment.yaml/plan.json cannot be written: "),
        (["--slo", "p99=40ms", "--device", "gpu"], "there is no device 'gpu': choose auto, cpu, cuda or cuda:N."),
        (["--slo", "p99=40ms", "--set", "cluster.prices.parity=0"], "cluster.prices.parity: must be greater than 0"),
    ],
)
def test_bad_input_is_one_sentence(
    file: Path, words: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parm("plan", file, *words, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.strip().splitlines()) == 1
    assert not Path("runs").exists()


def test_the_highest_rate(file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", file, "--slo", "goodput=60", "--set", "goodput=0.1", "--set", "workload.queries=300"]
    words += [
        "--set",
        "policies=[none, {kind: replication, copies: 4}]",
        "--trials",
        5,
        "--workers",
        1,
        "--within",
        "5%",
    ]
    assert parm(*words, "--rate", "--out", "rates.json", monkeypatch=monkeypatch) == 0
    said = capsys.readouterr().out
    assert "the highest arrival rate with goodput >= 60/s (within 3/s), all at once with 95% confidence" in said
    document = json.loads(Path("rates.json").read_text())
    assert document["policies"][0]["policy"] == "none"
    assert f"highest rate: none, {document['policies'][0]['rate']:.4g} queries/s" in said
    closed = ["--set", "workload.arrivals={kind: closed_loop, clients: 4, think: 0.1}"]
    assert parm("plan", file, "--slo", "p99=1s", "--rate", *closed, monkeypatch=monkeypatch) == 2
    assert "--rate needs arrivals with a 'rate'" in capsys.readouterr().err


def test_an_interrupt_keeps_the_trials_and_says_how_to_continue(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(LATENCY.replace("queries: 1000", "queries: 60000"))
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "experiments.cli",
            "plan",
            str(path),
            "--slo",
            "p999=70ms",
            "--workers",
            "1",
            "--engine",
            "simpy",
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    cells = tmp_path / "runs" / "tiny-plan" / "cells"
    while process.poll() is None and not (cells.is_dir() and any(cells.glob("*.json"))):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130
    assert "Continue with the same command: parm plan" in error
    assert "Traceback" not in error
