"""The README's YAML and the README's plugin are run, so that they stay true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def parm(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "experiments.cli", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env={"PYTHONPATH": f"{ROOT}:{cwd}"}, check=False
    )


def test_the_yaml_is_a_valid_experiment(tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_text(block("yaml"))
    done = parm("check", "experiment.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "coded k=2" in done.stdout


def test_the_plugin_brings_a_distribution_and_a_policy(tmp_path: Path) -> None:
    (tmp_path / "my_module.py").write_text(block("python"))
    (tmp_path / "mine.yaml").write_text(
        "name: mine\ntrials: 2\nworkload: {arrivals: {kind: poisson, rate: 50}, queries: 500}\n"
        "cluster: {instances: 2, extra: 2, service: {kind: triangular, low: 0.01, high: 0.03}}\n"
        "policies: [half_budget, equal_resources]\n"
    )
    for workers in ("1", "2"):
        done = parm("run", "mine.yaml", "--plugin", "my_module", "--fresh", "--workers", workers, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    rows = (tmp_path / "runs/mine/summary.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["policy", "half_budget", "equal_resources"]


@pytest.mark.parametrize("command", re.findall(r"^parm (\w+)", README, flags=re.MULTILINE))
def test_every_verb_that_is_named_exists(command: str) -> None:
    done = parm(command, "--help", cwd=ROOT)
    assert done.returncode == 0
