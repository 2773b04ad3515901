"""Cells: their order, and ids that change with what determines a cell's result and with nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from experiments.config.schema import Experiment
from experiments.run.cells import cells

PLAIN: dict[str, Any] = {
    "name": "tiny",
    "trials": 2,
    "workload": {"arrivals": {"kind": "poisson", "rate": 90}, "queries": 2000},
    "cluster": {"instances": 4, "extra": 2, "service": {"kind": "exponential", "mean": 0.03}},
    "policies": ["equal_resources", {"kind": "coded", "k": 2}],
    "sweep": {"workload.arrivals.rate": [60, 90]},
}


def listed(**changes: Any) -> list[Any]:
    return cells(Experiment.model_validate(copy.deepcopy(PLAIN) | changes))


def test_order_and_names() -> None:
    assert [cell.name for cell in listed()] == [
        "equal_resources-rate=60-t0",
        "equal_resources-rate=60-t1",
        "coded-rate=60-t0",
        "coded-rate=60-t1",
        "equal_resources-rate=90-t0",
        "equal_resources-rate=90-t1",
        "coded-rate=90-t0",
        "coded-rate=90-t1",
    ]
    assert str(listed()[3]) == "coded, rate=60, trial 1"


def test_ids_are_distinct_and_stable() -> None:
    ids = [cell.id for cell in listed()]
    assert len(set(ids)) == 8
    assert ids == [cell.id for cell in listed()]


@pytest.mark.parametrize(
    "change", [{"name": "other"}, {"figures": []}, {"traces": False}, {"warmup": "auto"}, {"target": {"p99": "1s"}}]
)
def test_ids_do_not_depend_on_what_changes_no_result(change: dict[str, Any]) -> None:
    assert [cell.id for cell in listed(**change)] == [cell.id for cell in listed()]


@pytest.mark.parametrize("change", [{"seed": 2}, {"warmup": 21}, {"stragglers": [{"kind": "per_task", "add": 0.1}]}])
def test_ids_depend_on_what_changes_a_result(change: dict[str, Any]) -> None:
    if "stragglers" in change:
        change = {"stragglers": [{"kind": "slow_periods", "mean_normal": 9, "mean_slow": 1}]}
    assert not {cell.id for cell in listed(**change)} & {cell.id for cell in listed()}


def test_ids_are_those_of_earlier_versions() -> None:
    """A new option whose default has no effect belongs into `cells._LATER`, or finished runs would run again."""
    trials = listed(
        trials=1,
        cluster=PLAIN["cluster"] | {"queue": "best_of"},
        model={"network": {"kind": "mlp", "hidden": [16]}, "dataset": "digits", "recipe": "best"},
        policies=[
            "equal_resources",
            "replication",
            {"kind": "coded", "k": 2},
            {"kind": "coded_nonsystematic", "k": 4, "stragglers": 1, "code": "approxifer"},
        ],
        sweep={},
    )
    known = ["29f25cc77ee3dd04", "f54e2c9dfeacc08f", "66d151010efc2d17", "e5ec2f1fc8e68431"]
    assert [cell.id for cell in trials] == known


def test_more_trials_and_other_policies_keep_the_ids_of_the_cells_there_were() -> None:
    policies = [{"kind": "coded", "k": 2}, "none", "equal_resources"]
    assert {cell.id for cell in listed()} < {cell.id for cell in listed(trials=3, policies=policies)}


def test_names_that_would_collide_are_told_apart() -> None:
    policies = [{"kind": "coded", "name": "a b"}, {"kind": "coded", "name": "a/b"}, {"kind": "coded", "name": "A b"}]
    names = [cell.name for cell in listed(policies=policies, sweep={}, trials=1)]
    assert len({name.lower() for name in names}) == 3
    assert all(set(name) <= set("abAB_-t0123456789cdef") for name in names)


def test_each_cell_holds_its_own_point_and_policy_only() -> None:
    cell = listed()[6]
    assert cell.experiment.workload.arrivals.mean_rate() == 90
    assert [policy.label for policy in cell.experiment.policies] == [cell.policy.label] == ["coded"]
    assert cell.experiment.sweep == {}
