"""The experiments of the paper: each file is valid, says what the paper did, and runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from backends import profiles
from experiments import cli
from experiments.config import bundle, loader
from sim import compiled
from sim.distributions.profile import Profile
from sim.trace import Role
from tests.command import parm

PAPER = Path(cli.__file__).parent / "paper"
FILES = sorted(
    file
    for file in PAPER.glob("*.yaml")
    if file.stem != "paper-latency" and "study: accuracy" not in file.read_text(encoding="utf-8")
)
LATENCY = [file for file in FILES if file.stem != "joint"]


def test_all_figures_are_there() -> None:
    assert {file.stem for file in FILES} == {
        "fig10a", "fig10b", "fig11", "sec623_batch", "fig12", "fig13", "fig14", "round_robin", "joint",
    }  # fmt: skip


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_file_has_the_papers_size_and_its_own_name(file: Path) -> None:
    experiment = loader.load(file)
    assert experiment.name == file.stem
    assert (experiment.trials, experiment.workload.queries, experiment.warmup, experiment.traces) == (
        3,
        100_000,
        204,
        False,
    )


def test_the_bundle_is_all_of_the_latency_evaluation(tmp_path: Path) -> None:
    plan = bundle.load(PAPER / "paper-latency.yaml")
    assert {experiment.name for _, experiment in plan.experiments} == {file.stem for file in LATENCY}
    assert plan.folder(None, plan.experiments[0][1]) == Path("runs/paper-latency/fig10a")
    assert plan.folder(tmp_path, plan.experiments[0][1]) == tmp_path / "fig10a"
    queries = sum(
        len(one.points()) * len(one.policies) * one.trials * one.workload.queries for _, one in plan.experiments
    )
    assert 25e6 < queries < 32e6


def test_the_files_agree_on_the_gpu_cluster() -> None:
    clusters = {file.stem: loader.load(file).resolved()["cluster"] for file in FILES}
    base = clusters.pop("fig10a")
    varied = {
        "fig10b": {"instances", "extra", "service", "parity_service", "network", "encode"},
        "fig11": {"launched"},
        "sec623_batch": {"service", "parity_service", "batching", "encode"},
        "fig14": {"backup_service"},
        "round_robin": {"queue"},
    }
    for name, cluster in clusters.items():
        assert {key for key in cluster if cluster[key] != base[key]} == varied.get(name, set()), name


@pytest.mark.parametrize("profile", ["k80-resnet18", "c5-resnet18"])
def test_the_roles_of_a_fitted_profile_fit_together(profile: str) -> None:
    """A service is preprocessing and then the model's pass, which is all that a parity query takes."""
    found = json.loads((profiles.FOLDER / f"{profile}.json").read_text())
    fitted = re.search(r"model ([0-9.]*[0-9])", found["how"])
    assert fitted is not None
    model = float(fitted[1])
    parity, preprocess, deployed = (
        Profile.model_validate({"file": profiles.FOLDER / f"{profile}.json", "role": role})
        for role in ("parity", "preprocess", "deployed")
    )
    assert parity.mean() == pytest.approx(model, rel=1e-4)
    assert deployed.mean() == pytest.approx(model + preprocess.mean(), rel=1e-3)


def test_preprocessing_and_model_fill_the_instances_alike_at_all_batch_sizes() -> None:
    """What a batch costs is an assumption: that the authors' rates keep the load the same."""
    experiment = loader.load(PAPER / "sec623_batch.yaml")
    one, *others = (
        experiment.cluster.service_of(Role.DEPLOYED, size).sample(np.random.default_rng(0), 20_000).mean() / size * rate
        for size, rate in ((1, 300), (2, 460), (4, 584))
    )
    assert others == pytest.approx([one, one], rel=0.02)


def test_profiles_that_come_with_parm_are_named_without_a_folder() -> None:
    text = json.dumps(loader.load(PAPER / "fig10a.yaml").resolved())
    assert str(profiles.FOLDER) not in text
    assert '"file": "k80-resnet18' in text


def test_the_bundle_runs_and_its_claims_are_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--set", "workload.queries=2000", "--set", "trials=2", "--set", "figures=[]"]
    status = parm(
        "run", PAPER / "paper-latency.yaml", "--out", tmp_path, "--workers", 1, *small, monkeypatch=monkeypatch
    )
    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert {folder.name for folder in tmp_path.iterdir()} == {file.stem for file in LATENCY}
    for file in LATENCY:
        assert (tmp_path / file.stem / "summary.csv").is_file()
    assert (tmp_path / "fig10a" / "reference.csv").read_text().count("\n") == 1 + 4 * 9 + 6
    status = parm("claims", tmp_path, monkeypatch=monkeypatch)
    claimed = capsys.readouterr().out
    assert status == 0
    assert claimed.strip() in printed.out
    assert len(json.loads((tmp_path / "fig10a" / "claims.json").read_text())["claims"]) == 3
    assert "fig10a" in claimed
    assert "fig10b" in claimed
    assert parm("claims", tmp_path / "none", monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_joint_experiment_counts_reconstructions_and_what_clients_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["workload.queries=2000", "trials=1", "figures=[latency_vs_sweep]", "sweep={workload.arrivals.rate: [270]}"]
    words += ["model.recipe.epochs=1", "model.parity_recipe.epochs=1", "model.network.hidden=[8]"]
    small = [part for word in words for part in ("--set", word)]
    folders = ["--out", tmp_path / "out", "--models", tmp_path / "models"]
    assert parm("run", PAPER / "joint.yaml", *folders, *small, monkeypatch=monkeypatch) == 0
    rows = json.loads((tmp_path / "out" / "summary.json").read_text())["rows"]
    assert [row["policy"] for row in rows] == ["equal_resources", "coded"]
    assert rows[0]["metrics"]["unavailable"]["value"] == 0 < rows[1]["metrics"]["unavailable"]["value"]
    assert all(0 < row["metrics"]["accuracy_overall"]["value"] < 1 for row in rows)


def test_both_engines_give_the_papers_experiments_the_same_summaries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba")
    compiled.compile_kernel()  # so that `auto` takes it wherever it can
    small = ["--set", "workload.queries=600", "--set", "trials=1", "--set", "figures=[]", "--workers", 1]
    for engine in ("simpy", "auto"):
        words = ["run", PAPER / "paper-latency.yaml", "--out", tmp_path / engine, "--engine", engine, *small]
        assert parm(*words, monkeypatch=monkeypatch) == 0
    for file in LATENCY:
        for name in ("summary.csv", "summary.json"):
            one, other = (tmp_path / engine / file.stem / name for engine in ("simpy", "auto"))
            assert one.read_bytes() == other.read_bytes(), f"{file.stem}/{name}"
        used = {
            cell["engine"]["name"]
            for cell in json.loads((tmp_path / "auto" / file.stem / "manifest.json").read_text())["cells"]
        }
        assert used == {"compiled"}, file.stem
