"""Sweeps whose keys go together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.analysis.summary import Row
from experiments.config import loader
from experiments.config.sweep import written_out
from experiments.figures.panels import panels
from sim.errors import ParmError

TEXT = """\
name: tiny
trials: 1
workload: {{arrivals: {{kind: poisson, rate: 90}}, queries: 400}}
cluster: {{instances: 4, extra: 2, service: {{kind: exponential, mean: 0.03}}}}
policies: [equal_resources]
sweep:
{sweep}
"""


def experiment(folder: Path, sweep: str):
    (folder / "one.yaml").write_text(TEXT.format(sweep=sweep))
    return loader.load(folder / "one.yaml")


def test_keys_with_a_comma_between_go_together_and_lists_combine(tmp_path: Path) -> None:
    found = experiment(
        tmp_path,
        "  cluster.instances, cluster.extra: [[4, 2], [8, 2]]\n  workload.arrivals.rate: [60, 90]",
    )
    assert found.points() == [
        {"cluster.instances": 4, "cluster.extra": 2, "workload.arrivals.rate": 60},
        {"cluster.instances": 4, "cluster.extra": 2, "workload.arrivals.rate": 90},
        {"cluster.instances": 8, "cluster.extra": 2, "workload.arrivals.rate": 60},
        {"cluster.instances": 8, "cluster.extra": 2, "workload.arrivals.rate": 90},
    ]
    there = found.at(found.points()[2])
    assert (there.cluster.instances, there.cluster.extra) == (8, 2)
    again = tmp_path / "again.yaml"
    again.write_text(json.dumps(found.resolved()))
    assert loader.load(again).points() == found.points()


@pytest.mark.parametrize(
    ("sweep", "sentence"),
    [
        ("  cluster.instances, cluster.extra: [[4, 2], [8]]", "must be a list of 2 values, one for each of"),
        ("  cluster.instances, cluster.extra: [[4, 2], 8]", "must be a list of 2 values, one for each of"),
        ("  cluster.instances, cluster.extra: [[4, 2], [4, 2]]", "4, 2 is given twice"),
        ("  cluster.instances, cluster.extra: [[4, [2]]]", "must be a number, text, true or false"),
        ("  cluster.instances, cluster.extr: [[4, 2]]", "there is no 'cluster.extr' to sweep; did you mean"),
        ("  cluster.instances, cluster.instances: [[4, 2]]", "names a key twice"),
        ("  cluster.instances, cluster.extra: [[4, 2], [0, 2]]", "sweep.cluster.instances, cluster.extra.1"),
        ("  cluster.instances, cluster.extra: [[4, 2]]\n  cluster.extra: [3]", "'cluster.extra' is already swept"),
    ],
)
def test_impossible_sweeps(tmp_path: Path, sweep: str, sentence: str) -> None:
    with pytest.raises(ParmError) as refused:
        experiment(tmp_path, sweep)
    assert sentence in str(refused.value)


def row(**point: object) -> Row:
    return Row("p", "p", point, {}, {}, 1, 1, {}, None, [0], True, [])


def test_keys_that_go_together_share_a_panel() -> None:
    together = [row(size=1, rate=300), row(size=2, rate=460)]
    assert [panel.title for panel in panels(together, apart_from="size")] == [""]
    crossed = [row(size=size, rate=rate) for size in (1, 2) for rate in (300, 460)]
    assert [panel.title for panel in panels(crossed, apart_from="size")] == ["rate = 300", "rate = 460"]


def test_a_number_that_stands_for_a_distribution_can_be_swept(tmp_path: Path) -> None:
    """Whatever the file may write as a number, written there as a number, a mapping or not at all."""
    for key in ("cluster.service", "cluster.parity_service", "cluster.encode"):
        found = experiment(tmp_path, f"  {key}: [0.01, 0.02]")
        (_, option) = key.split(".")
        means = [getattr(found.at(point).cluster, option).mean() for point in found.points()]
        assert means == [0.01, 0.02]


@pytest.mark.parametrize(
    ("sweep", "sentence"),
    [
        ("  cluster.network: [1, 2]", "'cluster.network' is not a single value; sweep one of its options"),
        ("  cluster.queue: [1, 2]", "cluster.queue a queue discipline is a mapping with 'kind'"),
        ("  cluster.service: [-1, 2]", "cluster.service.value must be at least 0"),
        ("  cluster.service: [true]", "a distribution is a mapping with 'kind'"),
    ],
)
def test_what_no_number_stands_for_cannot_be_swept(tmp_path: Path, sweep: str, sentence: str) -> None:
    with pytest.raises(ParmError) as refusal:
        experiment(tmp_path, sweep)
    assert sentence in str(refusal.value)


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ({"from": 100, "to": 400, "steps": 4}, [100, 200, 300, 400]),
        ({"from": 0, "to": 1, "steps": 3}, [0, 0.5, 1]),
        ({"from": 4, "to": 1, "steps": 4}, [4, 3, 2, 1]),
        ({"from": 0.001, "to": 1, "steps": 4, "scale": "log"}, [0.001, 0.01, 0.1, 1]),
        ({"from": 1, "to": 100, "steps": 3, "scale": "log"}, [1, 10, 100]),
    ],
)
def test_a_range_stands_for_a_list(given: dict[str, Any], values: list[float]) -> None:
    found = written_out({"workload.arrivals.rate": given})["workload.arrivals.rate"]
    assert found == pytest.approx(values)
    assert [type(one) for one in found] == [type(one) for one in values] or not all(
        isinstance(one, int) for one in values
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"from": 100, "to": 400}, "a range looks like"),
        ({"from": 100, "to": 400, "step": 7}, "a range looks like"),
        ({"from": 100, "to": 400, "steps": True}, "a range looks like"),
        ({"from": 100, "to": 400, "steps": 1}, "has 2 to"),
        ({"from": 100, "to": float("inf"), "steps": 3}, "between two finite numbers"),
        ({"from": 0, "to": 400, "steps": 3, "scale": "log"}, "lies above 0"),
        ({"from": 1, "to": 400, "steps": 3, "scale": "cubic"}, "is linear or log"),
    ],
)
def test_a_range_that_cannot_be_one(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        written_out({"workload.arrivals.rate": given})


def test_names_of_records_can_be_swept_but_those_of_policies_cannot(tmp_path: Path) -> None:
    names = ["bytedance-gpu-2025-ar", "azure-vm-2024-memcpy-short"]
    slowness = f"stragglers: [{{kind: recorded, name: {names[0]}}}]"
    ours = experiment(tmp_path, f"  stragglers.0.name: [{', '.join(names)}]\n{slowness}")
    assert [ours.at(point).stragglers[0].name for point in ours.points()] == names
    with pytest.raises(ParmError, match=r"'policies\.0\.name' cannot be swept"):
        experiment(tmp_path, "  policies.0.name: [a, b]")
    with pytest.raises(ParmError, match="did you mean 'bytedance-gpu-2025-ar'"):
        experiment(tmp_path, f"  stragglers.0.name: [bytedance-gpu-2025-aq]\n{slowness}")
