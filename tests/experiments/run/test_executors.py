"""Cells on a Ray cluster: the same bytes as here, whatever dies; and one sentence where there is no cluster."""

from __future__ import annotations

import copy
import csv
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from experiments.analysis.outcome import Outcome
from experiments.api import run as run_here
from experiments.config.schema import Experiment
from experiments.run import executors
from experiments.run.cells import Cell, cells
from experiments.run.executors.base import Executor
from experiments.run.executors.local import Local
from experiments.run.models import Models
from experiments.run.progress import Reporter
from experiments.run.runner import in_order
from sim.errors import ParmError
from tests.command import parm
from tests.experiments.commands.test_cli import living, started
from tests.experiments.run.test_runner import LATENCY, MODEL

PLUGIN = """\
from typing import Literal
from {name}_kind import KIND
from sim.policies import EqualResources
class Spare(EqualResources):
    '''Brought along.'''
    kind: Literal["spare_on_ray"] = KIND
"""


on_the_cluster = pytest.mark.xdist_group("ray")
"""In one process of pytest-xdist, so that they share a cluster."""


class Listening(Reporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two machines, as far as Ray can tell: one core, and one core with a GPU."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'parm[ray]'")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1, num_gpus=1)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def ray(cluster: Any) -> Iterator[tuple[Executor, Listening]]:
    reporter = Listening()
    with executors.opened("ray", cluster.address, reporter) as there:
        yield there, reporter


def kill(node: Any) -> None:
    """End a machine as a power cut does; its processes end when they see no more of Ray's own."""
    for process in node.all_processes["raylet"]:
        os.kill(process.process.pid, signal.SIGKILL)
        process.process.wait()  # else it would be there, as a zombie


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of all files that say nothing of the time that a run took."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "manifest.json" and file.parent.name != "cells"
    }


def outcomes(folder: Path) -> list[dict[str, Any]]:
    read = [Outcome.from_json(file.read_text()) for file in sorted((folder / "cells").iterdir())]
    return [{name: getattr(one, name) for name in one.__dataclass_fields__ if name != "seconds"} for one in read]


@on_the_cluster
def test_a_machine_that_dies_loses_no_result_and_what_it_was_doing_runs_again(
    cluster: Any, ray: tuple[Executor, Listening], tmp_path: Path
) -> None:
    there, reporter = ray
    dying = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    machine, log = dying.node_id, tmp_path / "log"
    log.touch()

    def begun() -> list[list[str]]:
        return [line.split() for line in log.read_text().splitlines()]

    def work(item: int) -> bytes:
        """Note the machine; on the one that is to die, finish twice and then hang; elsewhere, wait until it does."""
        import ray as inside

        here = inside.get_runtime_context().get_node_id()
        with log.open("a") as file:
            file.write(f"{item} {here}\n")
        while True:
            there = [number for number, where in begun() if where == machine]
            if str(item) in there[:2] if here == machine else len(there) >= 4:
                break
            time.sleep(0.05)
        return bytes([item]) * 200_000  # more than Ray keeps in the process that computes it

    def kill_when_it_hangs() -> None:
        while [where for _, where in begun()].count(machine) < 4:
            time.sleep(0.05)
        kill(dying)

    killer = threading.Thread(target=kill_when_it_hangs, daemon=True)
    killer.start()
    assert [one() for one in there.in_order(work, list(range(16)))] == [bytes([item]) * 200_000 for item in range(16)]
    killer.join()
    there_then = {item for item, where in begun() if where == machine}
    again = {item for item, count in Counter(item for item, _ in begun()).items() if count > 1}
    assert 2 <= len(again) <= 4
    assert again <= there_then
    assert any("lost with a machine or a process of the cluster" in line for line in reporter.said)


@on_the_cluster
def test_the_same_files_as_a_local_run_with_a_plugin_from_beside_the_file(
    cluster: Any, ray: tuple[Executor, Listening], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_ray_module.py").write_text(PLUGIN.format(name="my_ray_module"))
    (tmp_path / "my_ray_module_kind.py").write_text('KIND = "spare_on_ray"\n')
    monkeypatch.syspath_prepend(tmp_path)
    data = copy.deepcopy(LATENCY) | {
        "plugins": ["my_ray_module"],
        "policies": ["spare_on_ray", {"kind": "coded", "k": 2}],
        "figures": [],
    }
    near = run_here(data, tmp_path / "near", workers=1)
    far = run_here(data, tmp_path / "far", executor="ray", address=cluster.address)
    assert len(contents(near.folder)) >= 8 + 4
    assert contents(near.folder) == contents(far.folder)
    assert outcomes(near.folder) == outcomes(far.folder)
    assert '"name": "ray"' in (far.folder / "manifest.json").read_text()
    for name in ("my_ray_module", "my_ray_module_kind"):
        del sys.modules[name]


@on_the_cluster
def test_answers_are_computed_where_the_gpus_are(
    cluster: Any, ray: tuple[Executor, Listening], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = copy.deepcopy(LATENCY) | MODEL | {"trials": 1, "figures": []}
    models = tmp_path / "models"
    near = run_here(data, tmp_path / "near", models=models, workers=1)
    monkeypatch.setattr(Models, "answer", None)  # of this process
    far = run_here(data, tmp_path / "far", models=models, executor="ray", address=cluster.address)
    assert contents(near.folder) == contents(far.folder)
    assert sum(far.outcomes[n].passes["deployed"] for n in range(3)) > 0


@on_the_cluster
def test_an_error_and_a_cell_that_always_kills_its_process_are_named(ray: tuple[Executor, Listening]) -> None:
    there, _ = ray
    todo = cells(Experiment.model_validate(copy.deepcopy(LATENCY)))

    def fragile(cell: Cell) -> int:
        if cell.trial == 1:
            raise LookupError("one")
        return cell.trial

    def deadly(cell: Cell) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ParmError, match=r"^cell \(equal_resources, trial 1\) failed.*: LookupError: one\.$"):
        list(in_order(fragile, todo, executor=there))
    with pytest.raises(ParmError, match=r"^cell \(equal_resources, trial 0\): a worker was killed"):
        list(in_order(deadly, todo[:1], executor=there))


@on_the_cluster
def test_an_interrupted_run_on_a_cluster_leaves_nothing_and_goes_on(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(
        "name: long\ntrials: 40\nworkload: {arrivals: {kind: poisson, rate: 90}, queries: 5000}\n"
        "cluster: {instances: 4, service: {kind: exponential, mean: 0.03}}\npolicies: [none]\nfigures: []\n"
        "engine: simpy\ntraces: false\n"
    )
    words = ("run", file, "--out", tmp_path / "out", "--executor", "ray", "--address", cluster.address)
    process = started(*words)
    assert process.stderr is not None
    while "simulating: 4/40" not in process.stderr.readline():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Interrupted; " in errors
    assert not living(process.pid)
    kept = len(list((tmp_path / "out" / "cells").iterdir()))
    assert 3 <= kept < 40
    assert parm("run", file, "--out", tmp_path / "out", "--workers", 1, monkeypatch=monkeypatch) == 0
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 40


STUDY = """\
study: accuracy
name: small
models: [{network: {kind: mlp, hidden: [16]}, dataset: digits, recipe: {kind: best, epochs: 1}}]
codes: [{k: 2}]
recipes: {short: {kind: best, epochs: 1}}
figures: []
"""


@on_the_cluster
def test_a_study_is_measured_on_the_cluster_and_its_models_come_back(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    far = ("--executor", "ray", "--address", cluster.address)
    tables, kept = [], []
    for place, where in (("far", far), ("near", ())):
        words = ("accuracy", file, "--out", tmp_path / place, "--models", tmp_path / "models", *where)
        assert parm(*words, monkeypatch=monkeypatch) == 0
        with (tmp_path / place / "accuracy.csv").open(newline="") as table:
            tables.append([(row["seed"], row["available"], row["degraded"]) for row in csv.DictReader(table)])
        kept.append({card: card.stat().st_mtime_ns for card in (tmp_path / "models").glob("*/card.json")})
    assert tables[0] == tables[1]
    assert len(kept[0]) == 2
    assert kept[0] == kept[1], "nothing is trained twice"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--executor", "dask"), "there is no executor 'dask': choose local or ray."),
        (("--address", "10.0.0.1:6379"), "--address 10.0.0.1:6379: is for --executor ray."),
    ],
)
def test_what_cannot_be_is_one_sentence(
    words: tuple[str, ...],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(Path("experiments/quickstart.yaml").read_text())
    assert parm("run", file, "--out", tmp_path / "out", *words, monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err.strip() == says
    assert not (tmp_path / "out").exists()


def test_without_ray_the_command_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.run.executors import ray_cluster

    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None)
    with (
        pytest.raises(ParmError, match=r"^--executor ray: Ray is not installed; pip install 'parm\[ray\]'\.$"),
        executors.opened("ray"),
    ):
        pass


def test_an_address_where_nothing_answers_is_one_sentence() -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'parm[ray]'")
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        for address, says in ((f"127.0.0.1:{port}", "no Ray cluster answers"), ("nowhere", "must be HOST:PORT")):
            with pytest.raises(ParmError, match=rf"^--address {address}: {says}"), executors.opened("ray", address):
                pass


def test_processes_start_before_there_is_work_if_they_stay(tmp_path: Path) -> None:
    here = Local()
    here.start(2, partial(Path.touch, tmp_path / "not"))
    assert not here.started
    with here:
        here.start(2, partial(Path.touch, tmp_path / "done"))
        assert here.started
        assert [one() for one in here.in_order(len, ["a", "bc"], 2)] == [1, 2]
        assert [file.name for file in tmp_path.iterdir()] == ["done"]
    assert not here.started
