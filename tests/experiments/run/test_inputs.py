"""A result is kept only as long as everything that it was made from is the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from experiments.config import loader
from experiments.run import inputs
from experiments.run.cells import Cell, cells
from experiments.run.runner import run_cell
from experiments.run.store import RunStore
from sim import recorded
from workloads.datasets.public import Mnist

TEXT = """
name: stale
trials: 2
workload: {arrivals: {kind: replay, file: arrivals.csv}, queries: 50}
cluster: {instances: 2, service: {kind: empirical, file: times.csv, column: s}}
policies: [none]
figures: []
"""


def prepare(folder: Path) -> tuple[RunStore, list[Cell]]:
    (folder / "arrivals.csv").write_text("timestamp\n" + "\n".join(f"{i * 0.05:.2f}" for i in range(50)))
    (folder / "times.csv").write_text("s\n0.01\n0.02\n")
    (folder / "experiment.yaml").write_text(TEXT)
    return again(folder)


def again(folder: Path) -> tuple[RunStore, list[Cell]]:
    experiment = loader.load(folder / "experiment.yaml")
    store = RunStore(folder / "run")
    store.open(experiment)
    return store, cells(experiment)


@pytest.mark.parametrize("name", ["times.csv", "arrivals.csv"])
def test_a_changed_file_makes_its_cells_run_again_and_is_named(tmp_path: Path, name: str) -> None:
    store, todo = prepare(tmp_path)
    before = [run_cell(cell, store).latency["mean"] for cell in todo]
    assert store.finished(todo, traces=True)[1] == []
    assert len(store.finished(todo, traces=True)[0]) == 2
    file = tmp_path / name
    text, stat = file.read_text(), file.stat()
    file.write_text(text.replace("0.02", "0.04").replace("2.45", "2.46"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    store, todo = again(tmp_path)
    found, (warning,) = store.finished(todo, traces=True)
    assert found == {}
    assert warning == f"{file} has changed: 2 cells run again."
    if name == "times.csv":
        assert [run_cell(cell, store).latency["mean"] for cell in todo] != before


def test_a_file_that_was_only_touched_keeps_its_results(tmp_path: Path) -> None:
    store, todo = prepare(tmp_path)
    for cell in todo:
        run_cell(cell, store)
    os.utime(tmp_path / "times.csv", ns=(0, 12345))
    assert len(store.finished(todo, traces=True)[0]) == 2


def test_other_code_makes_every_cell_run_again_but_figures_still_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, todo = prepare(tmp_path)
    for cell in todo:
        run_cell(cell, store)
    monkeypatch.setattr(inputs, "code", lambda: "another version")
    found, (warning,) = store.finished(todo, traces=True)
    assert found == {}
    assert warning == "the code of parm has changed: 2 cells run again."
    assert len(store.outcomes(todo)) == 2


def test_records_by_name_are_inputs(tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_text(
        "name: named\nworkload: {arrivals: {kind: recorded, name: azure-llm-2023-conv}, queries: 50}\n"
        "cluster: {instances: 2, service: 0.1}\npolicies: [none]\n"
        "stragglers: [{kind: recorded, name: bytedance-gpu-2025-ar}]\n"
    )
    experiment = loader.load(tmp_path / "experiment.yaml")
    found = inputs.inputs(experiment)
    assert set(found) == {inputs.CODE, "azure-llm-2023-conv", "bytedance-gpu-2025-ar"}
    assert found["bytedance-gpu-2025-ar"] == inputs.digest(recorded.path("bytedance-gpu-2025-ar"))
    assert experiment.warmup_rule == "none"


def test_a_folder_is_known_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"one")
    before = inputs.digest(tmp_path)
    (tmp_path / "a" / "2.png").write_bytes(b"two")
    assert inputs.digest(tmp_path) != before


def test_the_code_of_a_plugin_is_an_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = tmp_path / "own_law_of_inputs.py"
    plugin.write_text(
        "from typing import Literal\n"
        "from sim.distributions.families import Deterministic\n\n\n"
        "class OwnLaw(Deterministic):\n"
        '    """Always the same value."""\n\n'
        '    kind: Literal["own_law_of_inputs"] = "own_law_of_inputs"\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "experiment.yaml"
    file.write_text(
        "name: own\nworkload: {arrivals: {kind: poisson, rate: 5}, queries: 50}\n"
        "cluster: {instances: 2, service: {kind: own_law_of_inputs, value: 0.1}}\npolicies: [none]\n"
    )
    experiment = loader.load(file, (), ("own_law_of_inputs",))
    found = inputs.inputs(experiment)
    assert set(found) == {inputs.CODE, str(plugin)}


def test_a_data_set_found_by_name_is_an_input(tmp_path: Path) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(
        "name: named\nworkload: {arrivals: {kind: poisson, rate: 5}, queries: 50}\n"
        "cluster: {instances: 2, service: {kind: deterministic, value: 0.1}}\npolicies: [none]\n"
        "model: {network: lenet5, dataset: mnist}\n"
    )
    experiment, data = loader.load(file), tmp_path / "data"
    assert set(inputs.inputs(experiment, data)) == {inputs.CODE}
    data.mkdir()
    (data / Mnist.files[0]).write_bytes(b"one")
    before = inputs.inputs(experiment, data)
    (data / Mnist.files[0]).write_bytes(b"other")
    assert inputs.changed(before, inputs.inputs(experiment, data)) == ["data set mnist"]
    (data / Mnist.files[0]).unlink()
    assert inputs.changed(before, inputs.inputs(experiment, data)) == []  # results outlive it
