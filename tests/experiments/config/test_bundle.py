"""Bundles: which files they run into which directories, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.config import bundle
from sim.errors import ParmError

ONE = """\
name: {name}
trials: 1
workload: {{arrivals: {{kind: poisson, rate: 90}}, queries: 400}}
cluster: {{instances: 4, extra: 2, service: {{kind: exponential, mean: 0.03}}}}
policies: [equal_resources]
"""


def files(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / f"{number}.yaml").write_text(ONE.format(name=name))
    path = folder / "all.yaml"
    path.write_text(f"name: all\nexperiments: [{', '.join(f'{number}.yaml' for number in range(len(names)))}]\n")
    return path


def test_each_experiment_runs_into_a_directory_of_its_name(tmp_path: Path) -> None:
    plan = bundle.load(files(tmp_path, "a", "b"), ["trials=7"])
    assert [(file.name, experiment.name) for file, experiment in plan.experiments] == [("0.yaml", "a"), ("1.yaml", "b")]
    assert {experiment.trials for _, experiment in plan.experiments} == {7}
    assert plan.folder(None, plan.experiments[1][1]) == Path("runs/all/b")
    assert plan.folder(tmp_path, plan.experiments[1][1]) == tmp_path / "b"


def test_an_experiment_alone_is_a_plan_of_one(tmp_path: Path) -> None:
    files(tmp_path, "a")
    plan = bundle.load(tmp_path / "0.yaml")
    assert plan.folder(None, plan.experiments[0][1]) == Path("runs/a")
    assert plan.folder(tmp_path, plan.experiments[0][1]) == tmp_path


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name: all\nexperiments: []\n", "all.yaml:2: experiments: needs at least 1 item"),
        ("name: all\nexperiments:\n  - 0.yaml\n  - gone.yaml\n", "all.yaml:4: experiments.1: there is no file "),
        ("name: all\nexperiments: [all.yaml]\n", "all.yaml:2: experiments.0: "),
        ("name: all\nexperiments: [0.yaml, 1.yaml]\n", "two of its experiments have the name 'same'"),
        ("name: all\nexperimentz: [0.yaml]\n", "experimentz: unknown key"),
        ("name: all\nexperiments: [0.yaml]\nseed: 1\n", "all.yaml:3: seed: unknown key"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    files(tmp_path, "same", "same").write_text(text)
    with pytest.raises(ParmError) as refused:
        bundle.load(tmp_path / "all.yaml")
    assert sentence in str(refused.value)
