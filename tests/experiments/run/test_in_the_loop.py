"""Runs with the hardware in the loop, through the command, beside deferred runs of the same experiment."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backends.loop import WARM_UP
from backends.torch_backend import TorchBackend
from experiments import cli
from experiments.config import loader
from experiments.run.cells import cells
from experiments.run.manifest import MEASURED
from experiments.run.models import Models
from experiments.run.progress import Reporter
from experiments.run.runner import run_cells
from experiments.run.store import RunStore
from sim.trace import Role, Route, Trace

FOREVER, FACTOR = 1e6, 1000
EXPERIMENT = f"""\
name: measured
trials: 1
model:
  network: {{kind: mlp, hidden: [32]}}
  dataset: digits
  recipe: {{kind: best, epochs: 6}}
  backup: {{network: {{kind: mlp, hidden: [24]}}}}
workload: {{arrivals: {{kind: closed_loop, clients: 8, think: 0.001}}, queries: 300}}
cluster: {{instances: 4, extra: 2, service: {FOREVER}}}
stragglers: [{{kind: per_task, slowdown: {FACTOR}, probability: 0.1}}]
policies:
  - equal_resources
  - {{kind: coded, k: 2}}
  - {{kind: approximate_backup, name: backup, after: 0}}
figures: []
"""


@dataclass
class Run:
    """What a run left and said, and its traces and table by policy."""

    folder: Path
    said: str
    traces: dict[str, Trace]
    table: dict[str, dict[str, str]]
    manifest: dict[str, Any]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def run(folder: Path, models: Path, capsys: pytest.CaptureFixture[str], *more: str, execution: str) -> Run:
    torch.set_num_threads(1)
    file, out = folder / "experiment.yaml", folder / execution
    file.write_text(f"{EXPERIMENT}execution: {execution}\n")
    words = ["run", str(file), "--out", str(out), "--models", str(models), "--device", "cpu", *more]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["parm", *words])
        cli.app(words, standalone_mode=False)
    store, traces = RunStore(out), {}
    for cell in cells(loader.load(out / "experiment.yaml")):
        trace = store.trace(cell)
        assert trace is not None
        traces[cell.policy.label] = trace
    with (out / "summary.csv").open(newline="") as lines:
        table = {row["policy"]: row for row in csv.DictReader(lines)}
    return Run(out, capsys.readouterr().out, traces, table, json.loads((out / "manifest.json").read_text()))


def test_service_times_are_wall_times_and_answers_are_as_good_as_deferred_ones(
    tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deferred = run(tmp_path, models, capsys, "--workers", "1", execution="deferred")
    looped = run(tmp_path, models, capsys, "--workers", "2", execution="in_the_loop")
    assert list(looped.table) == list(deferred.table) == ["equal_resources", "coded", "backup"]
    for policy, row in looped.table.items():
        for metric in ("accuracy_available", "accuracy_overall"):
            assert abs(float(row[metric]) - float(deferred.table[policy][metric])) < 0.2
            assert float(row[metric]) > 0.6
    for policy, route in (("coded", Route.RECONSTRUCTION), ("backup", Route.BACKUP)):
        assert (looped.traces[policy].queries.route == route).any()
        assert 0 < float(looped.table[policy]["accuracy_degraded"]) <= 1

    for cell in looped.manifest["cells"]:
        tasks = looped.traces[cell["policy"]].tasks
        begun = tasks.instance >= 0
        service = (tasks.finish - tasks.start)[begun]
        # Each was at most FACTOR times a part of what the simulation took: the configured time is nowhere among them.
        assert 0 < service.sum() <= FACTOR * cell["seconds"]["simulating"] < FOREVER
        assert len(np.unique(service)) > len(service) / 2
        assert cell["seconds"]["predicting"] == 0
        for role in (Role.PARITY, Role.BACKUP):
            assert cell["passes"][role.name.lower()] == tasks.size[begun & (tasks.role == role)].sum()
    assert (looped.manifest["workers"], looped.manifest["notes"]) == (1, [MEASURED])
    assert f"note: {MEASURED}" in looped.said

    assert min(trace.tasks.finish.min() for trace in deferred.traces.values()) >= FOREVER
    assert deferred.manifest["notes"] == []
    assert MEASURED not in deferred.said


def test_the_workload_is_the_deferred_one_and_the_clock_alone_decides_the_rest(
    tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve = TorchBackend.serve
    monkeypatch.setattr(TorchBackend, "serve", lambda *given: (serve(*given)[0], FOREVER))
    files = {}
    for execution in ("deferred", "in_the_loop"):
        out = run(tmp_path, models, capsys, "--workers", "1", execution=execution).folder
        files[execution] = {file.name: file.read_bytes() for file in out.rglob("*.parquet")}
    assert len(files["deferred"]) == 6
    assert files["in_the_loop"] == files["deferred"]


def test_only_the_main_process_runs_tasks(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve, served = TorchBackend.serve, []

    def noting(*given: Any) -> tuple[torch.Tensor, float]:
        served.append(given[2].shape)
        return serve(*given)

    monkeypatch.setattr(TorchBackend, "serve", noting)  # a worker would not know of it
    file = tmp_path / "experiment.yaml"
    file.write_text(f"{EXPERIMENT}execution: in_the_loop\ntrials: 2\n".replace("trials: 1\n", ""))
    experiment = loader.load(file, ["policies=[equal_resources]", "workload.queries=50"])
    store, reporter = RunStore(tmp_path / "run"), Reporter()
    store.open(experiment)
    answerer = Models(None, models, "cpu", reporter)
    done = list(run_cells(cells(experiment), store, workers=2, answerer=answerer, reporter=reporter))
    assert [cell.trial for cell, _ in done] == [0, 1]
    assert len(served) == 2 * (50 + WARM_UP)
