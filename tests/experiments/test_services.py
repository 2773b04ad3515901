"""Several services from YAML: views, cells, tables, traces, and one sentence for what does not fit."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from experiments import api
from experiments.analysis import tables
from experiments.config import loader
from experiments.run.cells import cells
from experiments.run.runner import simulate_cell
from sim.errors import ParmError
from sim.sharing import Priority
from tests.command import parm

SERVICES: dict[str, Any] = {
    "name": "two",
    "trials": 2,
    "workload": {"queries": 1200},
    "services": {
        "chat": {
            "arrivals": {"kind": "poisson", "rate": 200},
            "service": {"kind": "exponential", "mean": 0.02},
            "target": {"p99": "1s"},
            "goodput": "100ms",
            "weight": 2,
        },
        "digest": {
            "arrivals": {"kind": "poisson", "rate": 100},
            "service": {"kind": "exponential", "mean": 0.05},
            "deadline": 2.0,
            "priority": 2,
        },
    },
    "sharing": "priority",
    "cluster": {"instances": 12, "extra": 6},
    "policies": [
        "equal_resources",
        {"kind": "hedged", "after": 0.1},
        {
            "kind": "per_service",
            "name": "mixed",
            "services": {
                "chat": {"kind": "coded", "k": 2, "parity_instances": "budget", "parity_pool": "low_priority"},
                "digest": "equal_resources",
            },
        },
    ],
}


def given(**changes: Any) -> dict[str, Any]:
    """Return the experiment's data with changes at its top level."""
    return {**copy.deepcopy(SERVICES), **changes}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    return api.run(given(), tmp_path_factory.mktemp("runs") / "two", workers=2)


def test_a_view_is_an_experiment_of_the_service_alone() -> None:
    chat, digest = api.load(given()).views
    assert (chat.workload.queries, digest.workload.queries) == (800, 400)  # by the rates
    assert (chat.cluster.service.mean(), digest.cluster.service.mean()) == (0.02, 0.05)
    assert (chat.in_time, digest.in_time) == (0.1, 2.0)
    assert (chat.target, digest.target) == ({"p99": "1s"}, None)
    assert [policy.kind for policy in chat.policies] == ["equal_resources", "hedged", "coded"]
    assert [policy.label for policy in digest.policies] == ["equal_resources", "hedged", "mixed"]
    assert chat.deployed_load == pytest.approx((200 * 0.02 + 100 * 0.05) / 12)  # both load the same instances


def test_separate_services_divide_the_instances_by_weight() -> None:
    chat, digest = api.load(given(sharing="separate")).views
    assert [(view.cluster.instances, view.cluster.extra) for view in (chat, digest)] == [(8, 4), (4, 2)]
    assert digest.deployed_load == pytest.approx(100 * 0.05 / 4)


def test_every_table_has_a_row_per_service(run: api.Run) -> None:
    summary = run.summary()
    assert list(summary["service"]) == ["chat", "digest"] * 3
    assert set(summary["instances"]) == {18}
    assert summary.groupby("service")["queries"].first().to_dict() == {"chat": 1440, "digest": 720}  # after the warm-up
    chat = summary[summary["service"] == "chat"]
    assert list(chat["target"]) == ["p99 <= 1000 ms"] * 3
    assert list(chat["target_met"]) == ["yes"] * 3
    assert summary[summary["service"] == "digest"]["target_met"].eq("").all()
    assert set(run.differences()["service"]) == {"chat", "digest"}
    for name in ("summary.csv", "differences.csv"):
        assert "service" in (run.folder / name).read_text(encoding="utf-8").partition("\n")[0].split(",")


def test_tables_say_who_keeps_the_target(run: api.Run) -> None:
    said = "\n".join(str(part) for part in tables.tables(run.rows))
    assert "target p99 <= 1000 ms: kept by equal_resources, hedged, mixed" in said
    assert said.count("target ") == 1  # digest has none


def test_traces_are_per_service(run: api.Run) -> None:
    frame = run.queries("mixed")
    assert frame.groupby("service", observed=True).size().to_dict() == {"chat": 1600, "digest": 800}
    assert set(run.tasks("mixed", service="chat")["role"]) == {"deployed", "parity"}
    assert set(run.tasks("mixed", service="digest")["role"]) == {"deployed"}
    trace = run.trace("mixed", service="chat")
    again = next(one for one in run.cells if one.policy.label == "mixed" and one.point == {"service": "chat"})
    assert np.array_equal(trace.queries.reply, simulate_cell(again).trace.queries.reply)


def test_adding_a_service_changes_no_arrivals_of_another(run: api.Run) -> None:
    more = given(workload={"queries": 1600}, policies=[{"kind": "hedged", "after": 0.1}])
    more["services"]["third"] = {"arrivals": {"kind": "poisson", "rate": 100}, "service": 0.01}
    found = api.simulate(more, "hedged", service="chat")
    before = run.queries("hedged", service="chat")
    assert list(found["arrival"]) == list(before[before["trial"] == 0]["arrival"])


def test_a_model_answers_the_queries_of_each_service(tmp_path: Path) -> None:
    model = {"network": {"kind": "mlp", "hidden": [16]}, "dataset": "digits", "recipe": {"kind": "best", "epochs": 2}}
    slow = [{"kind": "slow_periods", "factor": 10, "mean_normal": 1, "mean_slow": 0.3}]
    data = given(model=model, trials=1, stragglers=slow, policies=[SERVICES["policies"][2]])
    found = api.run(data, tmp_path / "out", models=tmp_path / "models", workers=1)
    rows = {str(row.point["service"]): row for row in found.rows}
    for name, row in rows.items():
        answered = found.queries("mixed", service=name)
        available, overall = row.metrics["accuracy_available"], row.metrics["accuracy_overall"]
        assert available is not None
        assert overall is not None
        assert available.value > 0.3
        assert overall.value == pytest.approx(answered[~answered["warmup"]]["correct"].mean())
    assert rows["chat"].metrics["accuracy_degraded"] is not None
    assert rows["digest"].metrics["accuracy_degraded"] is None


def test_a_run_is_resumed_service_by_service(run: api.Run, tmp_path: Path) -> None:
    """If one service's cell is lost, the simulation runs again and gives the same bytes."""
    folder = tmp_path / "two"
    api.run(given(), folder, workers=1)
    lost = cells(api.load(given()))[3]
    cell, trace = folder / "cells" / f"{lost.id}.json", folder / "queries" / f"{lost.name}.parquet"
    bytes_before = trace.read_bytes()
    assert bytes_before == (run.folder / "queries" / f"{lost.name}.parquet").read_bytes()  # whatever the workers
    cell.unlink()
    trace.unlink()
    api.run(given(), folder, workers=1)
    assert trace.read_bytes() == bytes_before


def test_cells_of_one_simulation_stand_together_and_differ_in_their_ids() -> None:
    todo = cells(api.load(given(sweep={"sharing": ["fcfs", "priority"]})))
    assert len({cell.id for cell in todo}) == len(todo) == 2 * 3 * 2 * 2
    assert [cell.simulation for cell in todo[::2]] == [cell.simulation for cell in todo[1::2]]
    assert len({cell.simulation for cell in todo}) == len(todo) / 2
    assert todo[0].point == {"sharing": "fcfs", "service": "chat"}


def test_options_of_a_service_and_the_sharing_can_be_swept() -> None:
    swept = given(sweep={"services.chat.arrivals.rate": [100, 200], "sharing": ["fcfs", "separate"]})
    experiment = api.load(swept)
    assert len(experiment.points()) == 8
    there = experiment.at({"services.chat.arrivals.rate": 100, "sharing": "separate", "service": "digest"})
    assert (there.service, there.workload.queries, there.cluster.instances) == ("digest", 600, 4)
    last = api.load(given(sharing={"kind": "priority", "redundancy": "last"}))
    assert last.sharing == Priority(redundancy="last")


def test_another_target_of_a_service_is_asked_of_the_cells_there_are(tmp_path: Path) -> None:
    first = api.run(given(), tmp_path / "two", workers=2)
    before = {file.name: file.stat().st_mtime_ns for file in (first.folder / "cells").iterdir()}
    stricter = given()
    stricter["services"]["chat"]["target"] = {"p99": "1us"}
    summary = api.run(stricter, first.folder, workers=2).summary()
    assert list(summary[summary["service"] == "chat"]["target_met"]) == ["no"] * 3
    assert {file.name: file.stat().st_mtime_ns for file in (first.folder / "cells").iterdir()} == before
    with pytest.raises(ParmError, match=r"'services\.chat\.target\.p99' cannot be swept: it is asked of results"):
        api.load(stricter | {"sweep": {"services.chat.target.p99": ["1s", "2s"]}})


def test_experiments_without_services_are_written_as_before() -> None:
    plain = given(workload={"queries": 10, "arrivals": {"kind": "poisson", "rate": 1}}, policies=["none"])
    del plain["services"], plain["sharing"]
    plain["cluster"]["service"] = 0.01
    resolved = api.load(plain).resolved()
    assert not resolved.keys() & {"services", "sharing", "target"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sharing": "prio"}, "sharing: there is no sharing 'prio' (did you mean 'priority'?)"),
        (
            {"services": {"chat": {"arrivals": {"kind": "poisson", "rate": 1}, "service": 0.1}, "digest": {}}},
            "workload.arrivals: is missing",
        ),
        (
            {"services": {"a b": {"arrivals": {"kind": "poisson", "rate": 1}, "service": 0.1}}},
            "services.a b: is not a valid name",
        ),
        ({"services": {"chat": {"wieght": 2}}}, "services.chat.wieght: unknown key; did you mean 'weight'"),
        ({"services": {"chat": {"target": {"p99": "5%"}}}}, "'5%' is no time: write 100ms, or a number of seconds"),
        ({"services": {"chat": {"target": {"goodput": 1}}}}, "'goodput' is no latency: write mean, or a percentile"),
        ({"engine": "compiled"}, "engine: the compiled engine cannot simulate several services"),
        ({"corruption": [{"kind": "random_class"}]}, "corruption: is for one service: leave out 'services'"),
        ({"execution": "in_the_loop"}, "execution: in_the_loop runs one service only"),
        ({"warmup": 500}, "warmup: must be less than the 400 queries of service 'digest'"),
        ({"cluster": {"instances": 1}, "sharing": "separate"}, "services: 1 instances are too few"),
        ({"policies": [{"kind": "per_service", "services": {"chat": "none"}}]}, "gives service 'digest' no policy"),
        (
            {"policies": [{"kind": "per_service", "services": {"chat": "none", "digest": "equal_resources"}}]},
            "policies.0: 'chat' wants 12 instances for its deployed model and 'digest' 18, but they share them",
        ),
        (
            {"stragglers": [{"kind": "crashes", "mean_up": 1, "repair": 0.1, "retry": False}]},
            "stragglers.0: loses work permanently",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ParmError, match=re.escape(says)):
        api.load(given(**changes))


def test_what_a_service_needs_is_said() -> None:
    closed = given()
    closed["services"]["chat"]["arrivals"] = {"kind": "closed_loop", "clients": 4, "think": 0.1}
    with pytest.raises(ParmError, match="service 'chat' needs 'queries', since the mean rate of its arrivals is not"):
        api.load(closed)
    closed["services"]["chat"]["queries"] = 300
    assert [view.workload.queries for view in api.load(closed).views] == [300, 1200]
    alone = given(workload={"queries": 10, "arrivals": {"kind": "poisson", "rate": 1}}, policies=["none"])
    del alone["services"]
    alone["cluster"]["service"] = 0.01
    with pytest.raises(ParmError, match="sharing: needs 'services' that share the cluster"):
        api.load(alone)
    with pytest.raises(ParmError, match="gives each of several 'services' a policy, but there are none"):
        api.load({**alone, "sharing": "fcfs", "policies": [{"kind": "per_service", "services": {"chat": "none"}}]})


def test_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(yaml.safe_dump(given(trials=1)), encoding="utf-8")
    assert parm("check", file, monkeypatch=monkeypatch) == 0
    checked = capsys.readouterr().out
    assert "6 cells: 3 policies x 2 sweep points x 1 trials, of 1200 queries each, of 2 services together" in checked
    assert "policy equal_resources: offered load of the deployed pool 0.5" in checked
    assert parm("run", file, "--out", tmp_path / "run", monkeypatch=monkeypatch) == 0
    assert "target p99 <= 1000 ms: kept by" in capsys.readouterr().out
    for words in (("plan", file, "--slo", "p99=1s"), ("validate", file)):
        assert parm(*words, monkeypatch=monkeypatch) == 2
        assert f"'parm {words[0]}' knows one service only" in capsys.readouterr().err


def test_the_file_that_comes_with_parm() -> None:
    experiment = loader.load(Path(api.__file__).parent / "services.yaml")
    assert [*experiment.services] == ["chat", "digest"]
    assert len(cells(experiment)) == 4 * 4 * 6 * 2
