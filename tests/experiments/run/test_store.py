"""The run directory: what is in it, when a cell counts as finished, and what is refused."""

from __future__ import annotations

import copy
import errno
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from experiments.config import loader
from experiments.config.schema import Experiment
from experiments.run.cells import Cell, cells
from experiments.run.progress import Reporter
from experiments.run.runner import run_cell, run_cells
from experiments.run.store import RunStore
from sim.errors import ParmError

PLAIN: dict[str, Any] = {
    "name": "tiny",
    "trials": 2,
    "workload": {"arrivals": {"kind": "poisson", "rate": 90}, "queries": 300},
    "cluster": {"instances": 4, "service": {"kind": "exponential", "mean": 0.03}},
    "policies": ["none"],
}


def experiment(**changes: Any) -> Experiment:
    return Experiment.model_validate(copy.deepcopy(PLAIN) | changes)


def finished_run(folder: Path, **changes: Any) -> tuple[RunStore, list[Cell]]:
    mine = experiment(**changes)
    store, todo = RunStore(folder), cells(mine)
    store.open(mine)
    assert len(list(run_cells(todo, store, workers=1, answerer=None, reporter=Reporter()))) == len(todo)
    return store, todo


def test_what_is_written_and_that_nothing_is_left_over(tmp_path: Path) -> None:
    store, todo = finished_run(tmp_path)
    files = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file())
    expected = ["experiment.yaml"]
    for cell in todo:
        expected += [f"cells/{cell.id}.json", f"queries/{cell.name}.parquet", f"tasks/{cell.name}.tasks.parquet"]
    assert files == sorted(expected)
    assert [outcome.trial for outcome in store.outcomes(todo)] == [0, 1]
    assert all(set(outcome.seconds) == {"simulating", "predicting", "writing"} for outcome in store.outcomes(todo))


def test_the_columns_of_a_latency_only_trace(tmp_path: Path) -> None:
    store, todo = finished_run(tmp_path)
    table = pq.read_table(store.trace_files(todo[1])[0])
    assert table.num_rows == 300
    columns = "query trial sample arrival dispatch reply route group slot label answer correct"
    assert set(columns.split()) <= set(table.column_names)
    assert set(table["route"].to_pylist()) == {"own"}
    assert set(table["trial"].to_pylist()) == {1}
    assert table["query"].to_pylist() == list(range(300))
    for column in ("sample", "label", "answer", "correct"):
        assert table[column].null_count == 300
    assert b"pandas" not in (table.schema.metadata or {})


def test_the_experiment_in_the_directory_runs_again_as_it_is(tmp_path: Path) -> None:
    finished_run(tmp_path)
    again = loader.load(tmp_path / "experiment.yaml")
    assert again.resolved() == experiment().resolved()
    assert [cell.id for cell in cells(again)] == [cell.id for cell in cells(experiment())]


def test_no_traces_where_none_are_wanted(tmp_path: Path) -> None:
    store, todo = finished_run(tmp_path, traces=False)
    assert not list(tmp_path.rglob("*.parquet"))
    assert set(store.finished(todo, traces=False)[0]) == {cell.id for cell in todo}
    assert store.trace(todo[0]) is None


def test_finished_cells_are_found_again(tmp_path: Path) -> None:
    store, todo = finished_run(tmp_path)
    store.open(experiment())
    found, warnings = store.finished(todo, traces=True)
    assert set(found) == {cell.id for cell in todo}
    assert warnings == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"policy": "none"}'])
def test_a_damaged_cell_runs_again_with_a_warning(content: bytes, tmp_path: Path) -> None:
    store, todo = finished_run(tmp_path)
    file = tmp_path / "cells" / f"{todo[0].id}.json"
    file.write_bytes(content)
    found, warnings = store.finished(todo, traces=True)
    assert set(found) == {todo[1].id}
    assert len(warnings) == 1
    assert warnings[0].startswith(str(file))
    assert warnings[0].endswith("the cell runs again.")


def test_a_cell_whose_trace_is_gone_runs_again(tmp_path: Path) -> None:
    store, todo = finished_run(tmp_path)
    store.trace_files(todo[1])[1].unlink()
    found, (warning,) = store.finished(todo, traces=True)
    assert set(found) == {todo[0].id}
    assert "is missing" in warning


def test_a_damaged_trace_is_one_sentence(tmp_path: Path) -> None:
    store, todo = finished_run(tmp_path)
    store.trace_files(todo[0])[0].write_bytes(b"PAR1")
    with pytest.raises(ParmError, match="is damaged") as refusal:
        store.trace(todo[0])
    assert "\n" not in str(refusal.value)


def test_another_experiment_in_the_directory_is_refused(tmp_path: Path) -> None:
    store, todo = finished_run(tmp_path)
    with pytest.raises(ParmError) as refusal:
        store.open(experiment(seed=2, trials=3))
    assert "differs in seed)" in str(refusal.value)
    assert "--out" in str(refusal.value)
    assert "--fresh" in str(refusal.value)
    store.open(experiment(figures=["ccdf"]))
    (tmp_path / "notes.txt").write_text("mine")
    store.open(experiment(seed=2), fresh=True)
    assert not list(tmp_path.rglob("*.parquet"))
    assert store.finished(todo, traces=False) == ({}, [])
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_damaged_experiment_in_the_directory_is_refused(tmp_path: Path) -> None:
    store, _ = finished_run(tmp_path)
    (tmp_path / "experiment.yaml").write_text("{")
    with pytest.raises(ParmError, match="holds files, but no run"):
        store.open(experiment(), fresh=True)
    assert store.outcomes(cells(experiment()))


def test_what_a_killed_run_left_half_written_is_removed(tmp_path: Path) -> None:
    store, todo = finished_run(tmp_path)
    half = tmp_path / "queries" / f".{todo[0].name}.parquet.123.part"
    half.write_bytes(b"PAR")
    store.open(experiment())
    assert not half.exists()


def test_a_directory_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ParmError, match="cannot be written: "):
        RunStore(tmp_path / "file" / "run").open(experiment())
    with pytest.raises(ParmError, match="cannot be written: "):
        RunStore(tmp_path / "file").open(experiment())


def test_a_full_disk_is_one_sentence_and_leaves_the_cell_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RunStore(tmp_path)
    store.open(experiment())
    cell = cells(experiment())[0]

    def full(table: Any, where: Path, **options: Any) -> None:
        where.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(ParmError, match=r"cannot be written: No space left on device\.$"):
        run_cell(cell, store)
    assert store.finished([cell], traces=False) == ({}, [])
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["experiment.yaml"]


def test_a_longer_run_keeps_the_cells_that_are_the_same(tmp_path: Path) -> None:
    key = "workload.arrivals.rate"
    store, before = finished_run(tmp_path, sweep={key: [50, 90]})
    longer = experiment(sweep={key: [30, 50, 90]}, trials=3, policies=["equal_resources", "none"])
    store.open(longer)
    found, warnings = store.finished(cells(longer), traces=True)
    assert set(found) == {cell.id for cell in before}
    assert warnings == []
    for shorter in ({"trials": 1}, {"sweep": {key: [50]}}, {"sweep": {}}, {"policies": ["equal_resources"]}):
        with pytest.raises(ParmError, match=f"differs in .*{next(iter(shorter))}"):
            store.open(experiment(**({"sweep": {key: [30, 50, 90]}, "trials": 3, "policies": ["none"]} | shorter)))


def test_a_longer_sweep_of_named_values_keeps_the_cells_that_are_the_same(tmp_path: Path) -> None:
    none, slow = {"none": []}, {"slow": [{"kind": "heterogeneous", "factors": [3, 1]}]}
    store, before = finished_run(tmp_path, sweep={"stragglers": none})
    longer = experiment(sweep={"stragglers": none | slow})
    store.open(longer)
    assert set(store.finished(cells(longer), traces=True)[0]) == {cell.id for cell in before}
    for other in (slow, {"none": slow["slow"]}):
        with pytest.raises(ParmError, match=r"differs in .*sweep"):
            store.open(experiment(sweep={"stragglers": other}))


def test_another_target_is_asked_of_the_cells_there_are(tmp_path: Path) -> None:
    store, before = finished_run(tmp_path, target={"p99": "1ms"})
    for target in ({"p99": "1ms"}, {"p50": "2s", "p99": 3.5}, None):
        now = experiment(target=target)
        store.open(now)
        found, warnings = store.finished(cells(now), traces=True)
        assert ([*found], warnings) == ([cell.id for cell in before], [])
        wanted = {"p50": 2.0, "p99": 3.5} if target and len(target) > 1 else {"p99": 0.001} if target else {}
        assert [one.target for one in (*found.values(), *store.outcomes(cells(now)))] == [wanted] * 4


def test_the_cells_of_another_name_are_refused(tmp_path: Path) -> None:
    store, _ = finished_run(tmp_path)
    with pytest.raises(ParmError, match=r"differs in name.*--out.*--fresh"):
        store.open(experiment(name="other"))


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_that_was_never_a_run_is_left_alone(tmp_path: Path, fresh: bool) -> None:
    files = ["cells/1.json", "queries/a.parquet", "figures/a.png", "summary.csv", ".a.csv.1.part", "experiment.yaml"]
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("name: mine\n")
    with pytest.raises(ParmError, match=r"holds files, but no run of parm.*--out"):
        RunStore(tmp_path).open(experiment(), fresh=fresh)
    assert all((tmp_path / name).read_text() == "name: mine\n" for name in files)


def test_files_of_others_in_a_run_outlive_fresh(tmp_path: Path) -> None:
    store, _ = finished_run(tmp_path)
    others = [tmp_path / name for name in ("cells/notes.json", "queries/.mine.part", "figures/drawn.eps", ".a.part")]
    for file in others:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    store.open(experiment(seed=3), fresh=True)
    assert all(file.read_text() == "mine" for file in others)
    assert not [*tmp_path.rglob("*.parquet")]


def test_a_directory_that_is_in_use_is_refused_with_the_process(tmp_path: Path) -> None:
    store, says = RunStore(tmp_path / "run"), rf"in use by another parm command \(process {os.getpid()}\).*--out"
    with store.locked(), pytest.raises(ParmError, match=says), RunStore(tmp_path / "run").locked():
        pass
    with RunStore(tmp_path / "run").locked():
        pass


def test_exchanged_cells_edited_numbers_and_damaged_traces_run_again(tmp_path: Path) -> None:
    store, todo = finished_run(tmp_path, trials=4)
    one, two, three = (tmp_path / "cells" / f"{cell.id}.json" for cell in todo[:3])
    first, second = one.read_text(), two.read_text()
    one.write_text(second)
    two.write_text(first)
    three.write_text(three.read_text().replace('"queries": 297', '"queries": 298').replace("0.0", "0.1", 1))
    trace = store.trace_files(todo[3])[0]
    trace.write_bytes(trace.read_bytes()[:-100])
    found, warnings = store.finished(todo, traces=True)
    assert found == {}
    for warning, says in zip(warnings, ("another cell", "another cell", "edited", "edited"), strict=True):
        assert says in warning
    with pytest.raises(ParmError, match=r"4 of 4 cells are missing or damaged: .*and 1 more.*parm run"):
        store.outcomes(todo)


def test_tables_of_fewer_cells_are_refused(tmp_path: Path) -> None:
    store, todo = finished_run(tmp_path)
    (tmp_path / "cells" / f"{todo[1].id}.json").unlink()
    with pytest.raises(ParmError, match=r"1 of 2 cells .*none, trial 1\) is not finished"):
        store.outcomes(todo)


@pytest.mark.parametrize(
    ("given", "kept", "folders"),
    [
        ("all", True, ["queries", "tasks"]),
        (True, True, ["queries", "tasks"]),
        ("queries", "queries", ["queries"]),
        ("none", False, []),
        (False, False, []),
    ],
)
def test_the_tables_that_are_asked_for_are_kept_and_needed_for_a_cell_to_be_finished(
    given: object, kept: object, folders: list[str], tmp_path: Path
) -> None:
    whole, _ = finished_run(tmp_path / "whole")
    store, todo = finished_run(tmp_path / "run", traces=given)
    assert todo[0].experiment.traces == kept
    files = sorted(store.folder.rglob("*.parquet"))
    assert sorted({file.parent.name for file in files}) == folders
    for file in files:
        assert file.read_bytes() == (whole.folder / file.relative_to(store.folder)).read_bytes()
    assert len(store.finished(todo, traces=True)[0]) == len(todo)
    assert (store.trace(todo[0]) is None) == (kept is not True)
    if files:
        files[0].unlink()
        found, warnings = store.finished(todo, traces=True)
        assert len(found) == len(todo) - 1
        assert f"{files[0]} is missing" in warnings[0]
