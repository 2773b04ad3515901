"""The code of one's own that docs/codes.md shows is run as it stands there, from YAML."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

EXPERIMENT = """
name: own
trials: 2
model:
  network: {kind: mlp, hidden: [24]}
  dataset: digits
  recipe: {kind: best, epochs: 4}
workload: {arrivals: {kind: poisson, rate: 40}, queries: 600}
cluster: {instances: 2, extra: 1, service: {kind: exponential, mean: 0.02}}
policies: [{kind: coded, k: 2, code: mean}]
figures: []
traces: false
"""


def test_the_code_of_one_s_own_runs_as_it_stands_in_the_documentation(tmp_path: Path) -> None:
    found = re.findall(r"```python\n(.*?)```", (ROOT / "docs/codes.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    (module,) = [str(one) for one in found if "TensorCode)" in one]
    assert len(module.splitlines()) <= 40
    (tmp_path / "my_code.py").write_text(module)
    (tmp_path / "own.yaml").write_text(EXPERIMENT)
    command = [sys.executable, "-m", "experiments.cli", "run", "own.yaml", "--plugin", "my_code", "--workers", "1"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "runs/own/summary.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["unavailable"]) > 0.05
    # One class in ten is right by chance, four of ten where the mean of two pictures is taken for either.
    assert float(row["accuracy_degraded"]) > 0.2
