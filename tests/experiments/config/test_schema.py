"""What an experiment is: defaults, points, and the dotted keys that sweeps and overrides use."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from experiments.config import loader
from experiments.config.keys import get, locate, put
from experiments.config.messages import sentences
from experiments.config.schema import Experiment
from experiments.run.cells import cells
from sim.policies import Coded

PLAIN: dict[str, Any] = {
    "name": "tiny",
    "workload": {"arrivals": {"kind": "poisson", "rate": 90}, "queries": 2000},
    "cluster": {"instances": 4, "extra": 2, "service": {"kind": "exponential", "mean": 0.03}},
    "policies": ["equal_resources", {"kind": "coded", "k": 2}],
}


def experiment(**changes: Any) -> Experiment:
    return Experiment.model_validate(copy.deepcopy(PLAIN) | changes)


def test_defaults_are_those_of_the_documentation() -> None:
    plain = experiment()
    assert (plain.seed, plain.trials, plain.model, plain.traces, plain.execution) == (1, 5, None, True, "deferred")
    assert plain.warmup_rule == "auto"
    assert experiment(warmup=0).warmup_queries(np.arange(2000.0)) == 0
    assert plain.points() == [{}]


def test_an_experiment_is_frozen_and_refuses_unknown_keys() -> None:
    with pytest.raises(ValidationError):
        experiment(colour="red")
    with pytest.raises(ValidationError):
        experiment().seed = 2


def test_sweep_lists_are_combined_in_their_order() -> None:
    points = experiment(sweep={"workload.arrivals.rate": [60, 90], "policies.coded.k": [2, 3, 4]}).points()
    assert len(points) == 6
    assert points[:2] == [
        {"workload.arrivals.rate": 60, "policies.coded.k": 2},
        {"workload.arrivals.rate": 60, "policies.coded.k": 3},
    ]


def test_a_point_changes_what_it_names_and_nothing_else() -> None:
    plain = experiment(sweep={"workload.arrivals.rate": [60, 95], "policies.coded.k": [2, 4]})
    there = plain.at({"workload.arrivals.rate": 95, "policies.coded.k": 4})
    policy = there.policies[1]
    assert isinstance(policy, Coded)
    assert policy.k == 4
    assert there.workload.arrivals.mean_rate() == 95
    expected = plain.resolved()
    expected["sweep"] = {}
    expected["workload"]["arrivals"]["rate"] = 95.0
    expected["policies"][1]["k"] = 4
    assert there.resolved() == expected


SLOWNESS: dict[str, Any] = {
    "none": [],
    "slow": [{"kind": "slow_periods", "factor": 4, "mean_normal": 9, "mean_slow": 1}],
}


def test_named_values_of_any_form_are_swept_by_their_names() -> None:
    swept = experiment(sweep={"stragglers": SLOWNESS, "workload.arrivals.rate": [60, 95]})
    assert [point["stragglers"] for point in swept.points()] == ["none", "none", "slow", "slow"]
    assert swept.at({"stragglers": "none", "workload.arrivals.rate": 60}).stragglers == ()
    (slow,) = swept.at({"stragglers": "slow", "workload.arrivals.rate": 60}).stragglers
    assert slow.name_in_yaml() == "slow_periods"
    again = Experiment.model_validate(swept.resolved())
    assert again.points() == swept.points()
    assert again.at(again.points()[-1]) == swept.at(swept.points()[-1])


def test_a_name_is_no_part_of_what_is_simulated() -> None:
    one, other = (experiment(sweep={"stragglers": {name: SLOWNESS["slow"]}}) for name in ("slow", "sluggish"))
    assert [cell.id for cell in cells(one)] == [cell.id for cell in cells(other)]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "needs at least one value"),
        ({"slow": [{"kind": "slow_period"}]}, "did you mean 'slow_periods'"),
        ({"from": 1, "slow": []}, "a range looks like"),
    ],
)
def test_named_values_that_cannot_be_are_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        experiment(sweep={"stragglers": values})
    with pytest.raises(ValidationError, match="'policies' cannot be swept"):
        experiment(sweep={"policies": {"one": ["none"]}})


def test_a_whole_kind_can_be_swept_by_its_bare_name() -> None:
    swept = experiment(sweep={"cluster.queue": ["single_queue", "round_robin"]})
    assert swept.at({"cluster.queue": "round_robin"}).cluster.queue.name_in_yaml() == "round_robin"


def test_resolving_is_idempotent() -> None:
    once = experiment(sweep={"workload.arrivals.rate": [60, 95]}).resolved()
    assert Experiment.model_validate(copy.deepcopy(once)).resolved() == once


def test_several_mistakes_across_fields_are_told_together() -> None:
    data = copy.deepcopy(PLAIN) | {"policies": ["none", "none", "none"], "warmup": 5000}
    with pytest.raises(ValidationError) as refusal:
        Experiment.model_validate(data)
    assert [key for key, _ in sentences(refusal.value, data, Experiment)] == [
        ("policies", 1),
        ("policies", 2),
        ("warmup",),
    ]


KEYS = st.text(alphabet="abcxyz_", min_size=1, max_size=4)
TREES = st.recursive(
    st.integers(), lambda below: st.dictionaries(KEYS, below, min_size=1, max_size=3), max_leaves=8
).filter(lambda tree: isinstance(tree, dict))


@given(TREES, st.data())
def test_put_and_locate_agree(tree: dict[str, Any], data: st.DataObject) -> None:
    key, here = [], tree
    while isinstance(here, dict):
        key.append(data.draw(st.sampled_from(sorted(here))))
        here = here[key[-1]]
    dotted = ".".join(key)
    assert locate(tree, dotted) == tuple(key)
    assert get(tree, tuple(key)) == here
    assert put(tree, dotted, "new") == tuple(key)
    assert get(tree, tuple(key)) == "new"
    assert locate(tree, f"{dotted}.below") is None


def test_items_of_a_list_are_named_by_index_name_or_kind() -> None:
    tree = {"policies": ["none", {"kind": "coded"}, {"kind": "coded", "name": "three", "k": 3}]}
    assert locate(tree, "policies.2.k") == locate(tree, "policies.three.k") == ("policies", 2, "k")
    assert locate(tree, "policies.coded") == ("policies", 1)
    assert locate(tree, "policies.none") == ("policies", 0)
    assert locate(tree, "policies.3") is None


def test_the_quickstart_is_valid_and_at_equal_cost() -> None:
    quickstart = loader.load(Path(__file__).parents[3] / "experiments" / "quickstart.yaml")
    assert quickstart.trials == 5
    for point in quickstart.points():
        there = quickstart.at(point)
        assert len({policy.instances(there.cluster) for policy in there.policies}) == 1
    assert {policy.name_in_yaml() for policy in quickstart.policies} >= {"equal_resources", "replication", "coded"}
