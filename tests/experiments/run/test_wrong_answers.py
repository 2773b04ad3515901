"""Wrong answers from YAML to the tables: a run with a small model, its counts, and what is said of mistakes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from experiments.api import load, run
from experiments.config.schema import Experiment
from experiments.run.cells import cells
from experiments.run.models import needs
from sim.errors import ParmError
from tests.command import parm

FILE = """
name: wrong
trials: 2
model:
  network: {kind: mlp, hidden: [16]}
  dataset: digits
  recipe: {kind: best, epochs: 6}
workload: {arrivals: {kind: poisson, rate: 100}, queries: 400}
cluster: {instances: 8, extra: 4, service: 0.02}
corruption:
  - {kind: adversarial, towards: 3, instances: 3}
policies:
  - none
  - {name: vote, kind: replication, copies: 3, vote: {}}
  - {name: locator, kind: coded_nonsystematic, k: 3, code: {kind: approxifer, errors: 1}}
figures: []
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def file(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(models)  # models are kept below it, trained once for all tests
    path = tmp_path / "wrong.yaml"
    path.write_text(FILE)
    return path


def test_a_run_counts_wrong_answers_and_shows_them(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = file.parent / "out"
    assert parm("run", file, "--out", out, "--workers", "1", monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr().out
    assert "misses" in printed and "false" in printed and "gap" not in printed
    with (out / "summary.csv").open(newline="") as table:
        plain, vote, locator = csv.DictReader(table)
    assert 0.2 < float(plain["wrong"]) < 0.55  # 3 of 8 instances
    assert (float(plain["misses"]), float(plain["false_alarms"])) == (1.0, 0.0)
    assert 0.15 < float(vote["wrong"]) < 0.35  # 3 of 12
    assert 0 < float(vote["misses"]) < 0.6
    assert float(vote["accuracy_overall"]) > float(plain["accuracy_overall"]) + 0.1
    assert float(locator["wrong"]) > 0.1 and 0 < float(locator["misses"]) < 1
    assert 0 < float(locator["false_alarms"]) < 0.13  # one of eight answers is always located
    assert float(vote["p50"]) == pytest.approx(float(plain["p50"]), rel=0.05)
    outcome = json.loads(next(iter(sorted((out / "cells").glob("*.json")))).read_text())
    assert outcome["wrong"]["found"] <= outcome["wrong"]["located"] <= outcome["wrong"]["used"]
    again = file.parent / "again"
    assert parm("run", file, "--out", again, "--workers", "1", monkeypatch=monkeypatch) == 0
    assert (again / "summary.csv").read_bytes() == (out / "summary.csv").read_bytes()
    assert parm("report", out, monkeypatch=monkeypatch) == 0
    assert "wrong answers" in next(iter(out.glob("*.html"))).read_text()


def test_a_run_without_corruption_has_no_such_columns_and_keeps_its_cells(file: Path) -> None:
    right = load(file, {"corruption": [], "policies": ["none"]})
    finished = run(right, file.parent / "right", workers=1)
    assert not {"wrong", "misses", "false_alarms"} & set(finished.summary().columns)
    assert "wrong" not in finished.tasks("none").columns
    wrong = run(right, file.parent / "wrong", overrides={"corruption": ["random_class"]}, workers=1)
    tasks = wrong.tasks("none")
    assert set(tasks["wrong"]) == {0, 1}
    assert tasks[tasks["wrong"] == 1].groupby("trial")["instance"].nunique().tolist() == [1, 1]
    assert [cell.id for cell in cells(right)] != [cell.id for cell in cells(load(file, {"policies": ["none"]}))]


def test_a_stale_model_is_trained_like_the_deployed_one(file: Path) -> None:
    stale = {"kind": "stale_model", "instances": 6, "recipe": {"kind": "best", "epochs": 2}}
    experiment = load(file, {"corruption": [stale], "policies": ["none"]})
    assert [str(one) for one in needs(cells(experiment))] == ["deployed mlp on digits", "stale mlp on digits"]
    finished = run(experiment, file.parent / "stale", workers=1)
    queries, tasks = finished.queries("none"), finished.tasks("none")
    marked = queries.merge(tasks[["trial", "owner", "wrong"]], left_on=["trial", "batch"], right_on=["trial", "owner"])
    shares = marked.groupby("wrong")["correct"].mean()
    assert 0.2 < shares[1] < shares[0]


def experiment(**changes: object) -> Experiment:
    data = {
        "name": "e",
        "workload": {"arrivals": {"kind": "poisson", "rate": 50}, "queries": 100},
        "cluster": {"instances": 4, "service": 0.01},
        "policies": ["none"],
    }
    return Experiment.model_validate(data | changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"corruption": [{"kind": "random_class", "instances": 5}]}, "5 corrupt instances are more than the 4"),
        ({"corruption": [{"kind": "random_class", "instances": [4]}]}, "there is no instance 4 to corrupt"),
        ({"corruption": ["randomclass"]}, "did you mean 'random_class'"),
        (
            {"corruption": ["noise"], "execution": "in_the_loop", "model": {"network": "lenet5", "dataset": "digits"}},
            "is computed after the simulation: use 'execution: deferred'",
        ),
        (
            {"engine": "compiled", "policies": [{"kind": "replication", "vote": {}}]},
            "the compiled engine cannot simulate votes",
        ),
    ],
)
def test_mistakes_are_said_in_a_sentence(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        experiment(**changes)


def test_a_class_that_the_model_does_not_have_is_refused(file: Path) -> None:
    with pytest.raises(ParmError, match=r"there is no class 10 to answer wrongly with: the model has 10, from 0 on"):
        run(load(file, {"corruption.0.towards": 10}), file.parent / "x", workers=1)


def test_without_a_model_wrong_answers_delay_votes_alone() -> None:
    from experiments.api import simulate

    right, wrong = (
        simulate(experiment(
            policies=["none", {"kind": "replication", "copies": 3, "vote": {}}], corruption=causes,
            cluster={"instances": 8, "service": {"kind": "exponential", "mean": 0.01}},
        ), "replication")
        for causes in ([], [{"kind": "random_class", "instances": 3}])
    )  # fmt: skip
    assert wrong["latency_ms"].mean() > right["latency_ms"].mean() * 1.05
