"""Cells run in any number of processes and leave the same bytes; what goes wrong in one is said in one sentence."""

from __future__ import annotations

import copy
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from experiments.analysis.outcome import Outcome
from experiments.config.schema import Experiment
from experiments.run.cells import Cell, cells
from experiments.run.models import Models, needs
from experiments.run.progress import Reporter
from experiments.run.runner import Answered, draw_samples, in_order, run_cells, simulate_cell
from experiments.run.store import RunStore
from sim.errors import ParmError
from sim.trace import Trace

LATENCY: dict[str, Any] = {
    "name": "tiny",
    "trials": 2,
    "workload": {"arrivals": {"kind": "poisson", "rate": 90}, "queries": 600},
    "cluster": {"instances": 4, "extra": 2, "service": {"kind": "exponential", "mean": 0.03}},
    "stragglers": [{"kind": "slow_periods", "factor": 4, "mean_normal": 9, "mean_slow": 1}],
    "policies": ["equal_resources", "replication", {"kind": "coded", "k": 2, "parity_instances": "budget"}],
    "warmup": 50,
}
MODEL: dict[str, Any] = {
    "model": {
        "network": {"kind": "mlp", "hidden": [16]},
        "dataset": "digits",
        "recipe": {"kind": "best", "epochs": 1},
    }
}


def run(folder: Path, workers: int, **changes: Any) -> list[tuple[Cell, Outcome]]:
    experiment = Experiment.model_validate(copy.deepcopy(LATENCY) | changes)
    todo = cells(experiment)
    store, reporter = RunStore(folder / "run"), Reporter()
    store.open(experiment)
    answerer = None
    if experiment.model is not None:
        answerer = Models(None, folder.parent / "models", "cpu", reporter)
        answerer.prepare(todo)
    return list(run_cells(todo, store, workers=workers, answerer=answerer, reporter=reporter))


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.parquet"))}


@pytest.mark.parametrize("changes", [{}, MODEL], ids=["latency", "model"])
def test_promise_5_the_same_bytes_for_any_number_of_workers(changes: dict[str, Any], tmp_path: Path) -> None:
    runs = {}
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        outcomes = run(folder, workers, **changes)
        assert [cell.trial for cell, _ in outcomes] == [0, 1] * 3
        runs[workers] = all_bytes(folder)
    assert len(runs[1]) == 12
    assert runs[1] == runs[2]
    other = run(tmp_path / "seed", 1, **changes, seed=2)
    assert len(other) == 6
    assert all(content != runs[1][name] for name, content in all_bytes(tmp_path / "seed").items())


def test_promise_6_every_policy_meets_the_same_queries(tmp_path: Path) -> None:
    run(tmp_path / "x", 1, **MODEL)
    tables = [
        pq.read_table(tmp_path / "x" / "run" / "queries" / f"{policy}-t1.parquet")
        for policy in ("equal_resources", "replication", "coded")
    ]
    for column in ("arrival", "sample", "label"):
        first, *others = (table[column].to_numpy() for table in tables)
        assert all(np.array_equal(first, other) for other in others)
    replies = [table["reply"].to_numpy() for table in tables]
    assert not np.array_equal(replies[0], replies[1])


def test_promise_9_overall_accuracy_follows_from_its_parts(tmp_path: Path) -> None:
    outcomes = run(tmp_path / "x", 1, **MODEL)
    coded = [outcome for _, outcome in outcomes if outcome.kind == "coded"]
    for outcome, trial in zip(coded, (0, 1), strict=True):
        table = pq.read_table(tmp_path / "x" / "run" / "queries" / f"coded-t{trial}.parquet").slice(outcome.warmup)
        correct, route = table["correct"].to_numpy(), np.array(table["route"].to_pylist())
        lost = np.isin(route, ["reconstruction", "backup", "default"])
        counts = outcome.accuracy
        assert counts is not None
        assert counts["degraded"] == lost.sum() > 0
        f = counts["degraded"] / outcome.queries
        a_a = counts["available_correct"] / counts["available"]
        a_d = counts["degraded_correct"] / counts["degraded"]
        assert (1 - f) * a_a + f * a_d == pytest.approx(correct.mean(), abs=1e-12)


def test_forward_passes_are_those_that_some_answer_needed(tmp_path: Path) -> None:
    outcomes = run(tmp_path / "x", 1, **MODEL)
    seen: set[int] = set()
    for cell, outcome in outcomes:
        table = pq.read_table(tmp_path / "x" / "run" / "queries" / f"{cell.name}.parquet")
        samples = set(table["sample"].to_pylist())
        assert outcome.passes["deployed"] == len(samples - seen)
        seen |= samples
        used = sum(word == "reconstruction" for word in table["route"].to_pylist())
        assert outcome.passes["parity"] + outcome.reused["parity"] == used


def test_a_backups_answers_are_the_backup_models(tmp_path: Path) -> None:
    model = MODEL["model"] | {"backup": {"network": {"kind": "mlp", "hidden": [4]}}}
    policies = ["none", {"kind": "approximate_backup", "after": 0.02}]
    outcomes = run(tmp_path / "x", 1, model=model, policies=policies)
    predictions: dict[tuple[str, int], set[int]] = {}
    for cell, outcome in outcomes:
        table = pq.read_table(tmp_path / "x" / "run" / "queries" / f"{cell.name}.parquet")
        routes = np.array(table["route"].to_pylist())
        backed = routes == "backup"
        assert np.any(backed) == (outcome.kind == "approximate_backup")
        assert outcome.passes["backup"] + outcome.reused["backup"] == len(set(table["sample"].to_numpy()[backed]))
        for sample, answer, way in zip(table["sample"].to_pylist(), table["answer"].to_pylist(), routes, strict=True):
            predictions.setdefault((way, sample), set()).add(answer)
    assert all(len(answers) == 1 for answers in predictions.values())
    both = {sample for way, sample in predictions if way == "backup"}
    assert sum(predictions["own", sample] != predictions["backup", sample] for sample in both) > len(both) / 10


def test_samples_depend_on_the_trial_alone() -> None:
    one, two, other, *_ = cells(Experiment.model_validate(copy.deepcopy(LATENCY)))
    assert np.array_equal(draw_samples(one, 100), draw_samples(one, 100))
    assert not np.array_equal(draw_samples(one, 100), draw_samples(two, 100))
    assert np.array_equal(draw_samples(one, 100), draw_samples(other, 100))


def test_what_has_to_be_trained_is_told_once_each() -> None:
    policies = [
        "none",
        {"kind": "coded", "name": "a"},
        {"kind": "coded", "name": "b", "code": "addition"},
        {"kind": "coded", "name": "c", "k": 3, "r": 2},
        {"kind": "coded", "name": "d", "code": "exact"},
        {"kind": "approximate_backup", "name": "e"},
        {"kind": "approximate_backup", "name": "f", "after": 0.1},
    ]
    model = MODEL["model"] | {"backup": {"network": {"kind": "mobilenet_v2", "width": 0.25}}}
    todo = cells(Experiment.model_validate(copy.deepcopy(LATENCY) | {"model": model, "policies": policies}))
    assert [str(need) for need in needs(todo)] == [
        "deployed mlp on digits",
        "1 parity mlp on digits for code addition, k = 2",
        "2 parity mlp on digits for code addition, k = 3",
        "no parity models for code exact, k = 2, r = 1",
        "backup mobilenet_v2 on digits",
    ]


@pytest.mark.parametrize("corruption", [[], ["random_class"]], ids=["right", "wrong"])
def test_a_trace_is_read_back_as_it_was_simulated(tmp_path: Path, corruption: list[str]) -> None:
    run(tmp_path, 1, corruption=corruption)
    store = RunStore(tmp_path / "run")
    for cell in cells(Experiment.model_validate(copy.deepcopy(LATENCY) | {"corruption": corruption})):
        simulated = simulate_cell(cell).trace
        again = store.trace(cell)
        assert again is not None
        for part in ("queries", "batches", "tasks"):
            mine, theirs = getattr(simulated, part), getattr(again, part)
            for name in mine.__dataclass_fields__:
                values, others = getattr(mine, name), getattr(theirs, name)
                if name == "wrong" and not corruption:
                    assert values is others is None
                    continue
                assert values.dtype == others.dtype, name
                np.testing.assert_array_equal(values, others)
        for name in ("k", "r", "instances", "end", "bytes"):
            assert getattr(simulated, name) == getattr(again, name)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_cell_is_one_sentence_that_names_it(workers: int) -> None:
    todo = cells(Experiment.model_validate(copy.deepcopy(LATENCY)))
    with pytest.raises(ParmError) as failure:
        list(in_order(int, todo, workers))
    assert str(failure.value).startswith("cell (equal_resources, trial 0) failed: TypeError: int() argument must be")
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_cells_before_an_error_are_kept(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment.model_validate(copy.deepcopy(LATENCY) | MODEL)
    todo, store = cells(experiment), RunStore(tmp_path)
    store.open(experiment)
    answerer = Models(None, tmp_path.parent / "models", "cpu", Reporter())
    whole = answerer.answer

    def failing(cell: Cell, trace: Trace) -> Answered:
        if cell is todo[2]:
            raise ParmError("the model is broken.")
        return whole(cell, trace)

    monkeypatch.setattr(answerer, "answer", failing)
    with pytest.raises(ParmError, match=r"^cell \(replication, trial 0\): the model is broken\.$"):
        list(run_cells(todo, store, workers=workers, answerer=answerer, reporter=Reporter()))
    kept = store.finished(todo, traces=True)[0].values()
    assert [(outcome.policy, outcome.trial) for outcome in kept] == [("equal_resources", n) for n in (0, 1)]


def test_a_worker_that_was_killed_is_told_of() -> None:
    done = in_order(str, cells(Experiment.model_validate(copy.deepcopy(LATENCY))), 2)
    next(done)
    for worker in multiprocessing.active_children():
        worker.kill()
    with pytest.raises(ParmError, match="a worker was killed, perhaps because memory ran out"):
        list(done)
    assert not multiprocessing.active_children()
