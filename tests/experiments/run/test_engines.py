"""An experiment has the same results whatever simulates it, and its manifest says what did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.config import loader
from experiments.run.cells import cells
from sim import compiled
from tests.command import parm

TINY = """\
name: tiny
trials: 2
workload: {arrivals: {kind: poisson, rate: 90}, queries: 400}
cluster: {instances: 4, extra: 2, service: {kind: exponential, mean: 0.03}}
policies: [equal_resources, {kind: coded, parity_instances: budget}, hedged]
figures: []
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


def test_engines_give_the_same_files(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    for engine in ("simpy", "compiled"):
        out = tmp_path / engine
        assert parm("run", file, "--out", out, "--engine", engine, "--workers", 1, monkeypatch=monkeypatch) == 0
        found = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["cells"]
        assert [cell["engine"] for cell in found] == [{"name": engine, "why": "as asked for"}] * 6
    tables = [tmp_path / engine / "summary.csv" for engine in ("simpy", "compiled")]
    assert tables[0].read_bytes() == tables[1].read_bytes()
    columns = sorted((tmp_path / "simpy").rglob("*.parquet"))
    assert columns
    for one in columns:
        assert one.read_bytes() == (tmp_path / "compiled" / one.relative_to(tmp_path / "simpy")).read_bytes()


def test_a_cells_id_does_not_depend_on_the_engine(file: Path) -> None:
    ids = [[cell.id for cell in cells(loader.load(file, [f"engine={engine}"]))] for engine in ("simpy", "auto")]
    assert ids[0] == ids[1]


def test_an_engine_that_cannot_is_one_sentence(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sim.compiled.world.DISCIPLINES", ())  # it can do all but what plugins bring
    file.write_text(f"{TINY}stragglers: [{{kind: crashes, mean_up: 5}}]\nengine: compiled\n", encoding="utf-8")
    assert parm("run", file, monkeypatch=monkeypatch) == 2
    says = capsys.readouterr().err
    assert f"{file}, line 8" in says or f"{file}:8" in says
    assert "the compiled engine cannot simulate queue discipline 'single_queue'" in says
    assert parm("run", file, "--engine", "turbo", monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err == "there is no engine 'turbo': choose auto, simpy, compiled.\n"


def test_the_kernel_is_compiled_once_before_the_workers_and_that_is_said(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[int] = []
    monkeypatch.setattr(compiled, "installed", lambda: True)
    monkeypatch.setattr(compiled, "ready", lambda: bool(done))
    monkeypatch.setattr(compiled, "compile_kernel", lambda: done.append(1))
    monkeypatch.setattr("experiments.run.engines.WORTH_COMPILING", 2400)
    monkeypatch.setattr("sim.engines.WORTH_COMPILING", 2400)
    pytest.importorskip("numba")
    assert parm("run", file, "--out", tmp_path / "many", "--workers", 1, monkeypatch=monkeypatch) == 0
    assert "Compiling the simulation engine for this machine, which is done once" in capsys.readouterr().err
    assert done == [1]
    done.clear()
    few = ("run", file, "--out", tmp_path / "few", "--workers", 1, "--set", "trials=1")
    assert parm(*few, monkeypatch=monkeypatch) == 0
    assert not done
