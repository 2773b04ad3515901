"""An error in a user's module is named with its file and line, from this process and from workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

PLUGIN = '''
from typing import Literal

import numpy as np

from sim.distributions import Distribution


class MyError(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class Failing(Distribution):
    """It fails when it is drawn from."""

    kind: Literal["failing_in_a_plugin"] = "failing_in_a_plugin"

    def sample(self, generator, n):
        return self.deeper(n)

    def deeper(self, n):
        {fails}

    def mean(self):
        return None
'''
LINE = 1 + PLUGIN[: PLUGIN.index("{fails}")].count("\n")
BASE = """
name: e
trials: 2
workload: {arrivals: {kind: poisson, rate: 5}, queries: 10}
cluster: {instances: 2, service: {kind: failing_in_a_plugin}}
policies: [none]
figures: []
"""


@pytest.mark.parametrize(
    ("workers", "fails", "says"),
    [
        (1, "return np.ones(n) @ np.ones(n + 1)", "ValueError: matmul"),
        (2, "return np.ones(n) @ np.ones(n + 1)", "ValueError: matmul"),
        (2, "raise MyError(1, 2)", "MyError: 1 and 2"),  # it cannot be sent to another process as it is
    ],
)
def test_an_error_in_a_plugin_has_its_line(tmp_path: Path, workers: int, fails: str, says: str) -> None:
    plugin = tmp_path / "my_plugin.py"
    plugin.write_text(PLUGIN.replace("{fails}", fails))
    (tmp_path / "e.yaml").write_text(BASE)
    words = ["run", "e.yaml", "--plugin", "my_plugin", "--out", "out", "--workers", str(workers)]
    command = [sys.executable, "-m", "experiments.cli", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert f"failed ({plugin}:{LINE}): " in found.stderr
    assert says in found.stderr
    assert "Traceback" not in found.stderr
