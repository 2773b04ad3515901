"""Scalers in experiments: what is counted and paid, what is stored, drawn, said beforehand and refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import matplotlib.text
import numpy as np
import pytest

from experiments.analysis import theory
from experiments.analysis.outcome import Outcome
from experiments.analysis.summary import rows
from experiments.commands.catalogue import catalogue
from experiments.config.schema import Experiment
from experiments.figures.latency_vs_cost import LatencyVsCost
from experiments.figures.over_time import OverTime
from experiments.run.cells import Cell, cells
from experiments.run.progress import Reporter
from experiments.run.runner import run_cells
from experiments.run.session import figure_data
from experiments.run.store import RunStore
from sim.trace import Role
from tests.command import parm
from tests.sim.test_elastic import same

STEP = {"kind": "scheduled", "steps": [[2.0, 8]], "provisioning": 1.0}
QUEUE = {"kind": "queue_length", "above": 2, "below": 0.1, "max_instances": 9, "provisioning": 0.5, "cooldown": 1}
PLAIN: dict[str, Any] = {
    "name": "scaled",
    "trials": 3,
    "warmup": 0,
    "goodput": 0.1,
    "workload": {"arrivals": {"kind": "deterministic", "rate": 100}, "queries": 1000},
    "cluster": {
        "instances": 4,
        "extra": 2,
        "service": {"kind": "exponential", "mean": 0.03},
        "prices": {"parity": 0.5},
        "scaler": STEP,
    },
    "policies": ["none", {"kind": "coded", "k": 2}],
}


def experiment(**changes: Any) -> Experiment:
    return Experiment.model_validate(copy.deepcopy(PLAIN) | changes)


def swept() -> Experiment:
    """Two sizes without a scaler, and two scalers."""
    fixed = {key: value for key, value in PLAIN["cluster"].items() if key != "scaler"}
    names = {"small": fixed, "large": fixed | {"instances": 8, "extra": 4}}
    return experiment(sweep={"cluster": names | {"step": fixed | {"scaler": STEP}, "queue": fixed | {"scaler": QUEUE}}})


def run(folder: Path, mine: Experiment) -> tuple[RunStore, list[Cell], list[Outcome]]:
    store, todo = RunStore(folder), cells(mine)
    store.open(mine)
    return store, todo, [one for _, one in run_cells(todo, store, workers=1, answerer=None, reporter=Reporter())]


def test_instances_are_averages_over_the_measured_time(tmp_path: Path) -> None:
    store, todo, outcomes = run(tmp_path, experiment())
    for cell, outcome in zip(todo, outcomes, strict=True):
        trace = store.trace(cell)
        assert trace is not None
        begun, end = 0.01, trace.end
        deployed = (4 * (2.0 - begun) + 8 * (end - 2.0)) / (end - begun)
        total = deployed * (1.5 if cell.policy.label == "coded" else 1.0)
        assert outcome.cost["instances"] == pytest.approx(total)
        assert outcome.cost["price"] == pytest.approx(deployed * (1.25 if cell.policy.label == "coded" else 1.0))
        paid = total * (end - begun)
        assert outcome.cost["utilisation"] == pytest.approx(trace.occupied_seconds / paid)
    plain, coded = rows(outcomes)
    assert coded.relative_cost == pytest.approx(1.5, rel=0.01)
    assert plain.cost["instances"] == pytest.approx(7.2, abs=0.05)
    assert plain.metrics["goodput"] is not None
    assert plain.metrics["goodput_per_instance"] is not None
    per_instance = plain.metrics["goodput"].value / plain.metrics["goodput_per_instance"].value
    assert per_instance == pytest.approx(plain.cost["instances"], rel=1e-3)


def test_the_warm_up_does_not_count(tmp_path: Path) -> None:
    _, _, outcomes = run(tmp_path, experiment(warmup=400, policies=["none"]))
    assert all(outcome.cost["instances"] == pytest.approx(8) for outcome in outcomes)


def test_a_stored_trace_is_the_simulated_one(tmp_path: Path) -> None:
    store, todo, _ = run(tmp_path, experiment(trials=1))
    for cell in todo:
        there = cell.experiment
        kept = store.trace(cell)
        again = figure_data(store, there, todo, [], []).simulated
        assert kept is not None
        assert again is not None
        assert kept.counts is not None
        assert kept.counts.paid_on_average(0.0, 4.0)[Role.DEPLOYED] == pytest.approx(6)
        for name in ("time", "role", "row", "paid", "serving"):
            assert getattr(kept.counts, name).dtype.kind in "fui"


def test_a_cell_without_a_scaler_keeps_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is hashed has no new key, so that finished runs of earlier versions are continued."""
    hashed: list[Any] = []
    dumps = json.dumps

    def noted(data: Any, **how: Any) -> str:
        hashed.append(data)
        return dumps(data, **how)

    monkeypatch.setattr(json, "dumps", noted)
    scaled = experiment(trials=1, policies=["none"])
    plain = scaled.model_copy(update={"cluster": scaled.cluster.model_copy(update={"scaler": None})})
    assert cells(plain)[0].id != cells(scaled)[0].id
    assert ["scaler" in one["cluster"] for one in hashed if "cluster" in one] == [False, True]


def test_figures(tmp_path: Path) -> None:
    mine = swept()
    store, todo, outcomes = run(tmp_path, mine.model_copy(update={"traces": False}))
    material = figure_data(store, mine.model_copy(update={"traces": False}), todo, outcomes, rows(outcomes))
    drawn = OverTime(at={"cluster": ["small", "step", "queue"]}, windows=10, trials=2).draw(material)
    assert drawn is not None
    assert len(drawn.axes) == 9
    lines = [line.get_ydata() for line in drawn.axes[4].lines]  # the middle row's second panel: instances under `step`
    assert [(line[0], line[-1]) for line in lines] == [(4, 8), (6, 12)]
    text = " ".join(one.get_text() for one in drawn.findobj(matplotlib.text.Text))
    assert "2 trials, 95% intervals; 10 windows of 1 s" in text
    assert OverTime(at={"cluster": "huge"}).reason(material) == "no sweep point has these values"
    assert OverTime(at={"cluster.extra": 3}).reason(material) == "'cluster.extra' is not swept"
    plane = LatencyVsCost(joined=("small", "large"), log=True).draw(material)
    assert plane is not None
    joined = [line for line in plane.axes[0].lines if len(line.get_xdata()) == 2]
    assert [line.get_xdata().tolist() for line in joined] == [[4, 8], [6, 12]]
    assert len(plane.axes[0].lines) == 2 + 4
    assert "queue" in " ".join(one.get_text() for one in plane.findobj(matplotlib.text.Text))


def test_each_moment_of_a_figure_counts_what_is_paid_then(tmp_path: Path) -> None:
    mine = experiment(trials=1)
    store, todo, outcomes = run(tmp_path, mine)
    material = figure_data(store, mine, todo, outcomes, rows(outcomes))
    assert material.simulated is not None
    assert material.trace is not None
    kept, again = material.trace(outcomes[0]), material.simulated(outcomes[0])
    assert kept is not None
    assert again is not None
    same(kept, again)
    drawn = OverTime().draw(material)
    assert drawn is not None
    (line, _) = drawn.axes[1].lines
    times, paid = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    assert np.array_equal(paid, np.where(times < 2.0, 4, 8))


def test_no_exact_formula_is_drawn_over_a_scaled_cluster() -> None:
    one = experiment(workload={"arrivals": {"kind": "poisson", "rate": 90}, "queries": 10})
    scaled, plain = one.cluster, one.cluster.model_copy(update={"scaler": None})
    assert theory.theory(one.policies[0], plain, one.workload.arrivals) is not None
    assert theory.theory(one.policies[0], scaled, one.workload.arrivals) is None


YAML = """
name: scaled
trials: 1
workload: {arrivals: {kind: poisson, rate: 90}, queries: 300}
cluster:
  instances: 4
  service: 0.03
  scaler: {kind: queue_length, above: 2, below: 0.5, min_instances: 2, max_instances: 9, provisioning: 30}
policies: [none]
figures: []
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "scaled.yaml").write_text(YAML)
    return tmp_path / "scaled.yaml"


def test_check_says_between_how_many_instances(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parm("check", file, monkeypatch=monkeypatch) == 0
    says = "policy none: 4 instances at first, then 2 to 9 of the deployed model by the scaler"
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("cluster.scaler.max_instances=3", "but the scaler allows 2 to 3"),
        ("cluster.scaler.kind=queue_lenght", "there is no scaler 'queue_lenght' (did you mean 'queue_length'?)"),
        ("cluster.scaler.cooldwn=3", "cluster.scaler.cooldwn: unknown key; did you mean 'cooldown'?"),
        ("engine=compiled", "the compiled engine cannot simulate scaler 'queue_length'"),
    ],
)
def test_mistakes_are_one_sentence(
    file: Path, change: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parm("check", file, "--set", change, monkeypatch=monkeypatch) != 0
    assert says in " ".join(capsys.readouterr().err.split())


def test_a_plan_of_the_fewest_instances_refuses_scalers(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parm("plan", file, "--slo", "p99=1s", monkeypatch=monkeypatch) != 0
    assert "a plan is for a fixed number of instances, which a scaler changes" in capsys.readouterr().err


def test_the_catalogue_has_the_scalers() -> None:
    text = catalogue("scaler")
    for kind in ("scheduled", "target_utilisation", "queue_length"):
        assert f"  {kind}: " in text
    assert "factor: distribution, required - Factor on their service times" in catalogue("scaler.cold")
