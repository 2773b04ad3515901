"""The run directory: what is in it, when a cell counts as finished, and what is refused."""

from __future__ import annotations

import copy
import errno
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
        expected += [f"cells/{cell.id}.json", f"traces/{cell.name}.parquet", f"traces/tasks/{cell.name}.tasks.parquet"]
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
    assert "is gone" in warning


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
    assert "differs in seed, trials" in str(refusal.value)
    assert "--out" in str(refusal.value)
    assert "--fresh" in str(refusal.value)
    store.open(experiment(figures=["ccdf"]))
    (tmp_path / "notes.txt").write_text("mine")
    store.open(experiment(seed=2), fresh=True)
    assert not list(tmp_path.rglob("*.parquet"))
    assert store.outcomes(todo) == []
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_damaged_experiment_in_the_directory_is_refused(tmp_path: Path) -> None:
    store, _ = finished_run(tmp_path)
    (tmp_path / "experiment.yaml").write_text("{")
    with pytest.raises(ParmError, match="another experiment"):
        store.open(experiment())


def test_what_a_killed_run_left_half_written_is_removed(tmp_path: Path) -> None:
    store, todo = finished_run(tmp_path)
    half = tmp_path / "traces" / f".{todo[0].name}.parquet.123.part"
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
    assert store.outcomes([cell]) == []
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["experiment.yaml"]
