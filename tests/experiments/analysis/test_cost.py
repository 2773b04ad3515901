"""What policies cost, and what a budget buys, under each rule of comparison."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from rich.console import Console

from experiments.analysis import cost, summary, tables
from experiments.config.schema import Experiment
from experiments.run.cells import cells
from experiments.run.progress import Reporter
from experiments.run.runner import run_cells
from experiments.run.store import RunStore
from sim.cluster import Cluster, Prices
from sim.trace import Role
from tests.outcomes import outcome

PLAIN: dict[str, Any] = {
    "name": "priced",
    "trials": 1,
    "workload": {"arrivals": {"kind": "poisson", "rate": 90}, "queries": 300},
    "cluster": {
        "instances": 4,
        "extra": 2,
        "service": {"kind": "exponential", "mean": 0.03},
        "prices": {"backup": 0.25, "parity": 0.8},
    },
    "policies": ["equal_resources", "approximate_backup", {"kind": "coded", "k": 2, "parity_instances": "budget"}],
}


def experiment(**changes: Any) -> Experiment:
    return Experiment.model_validate(copy.deepcopy(PLAIN) | changes)


def pools(**changes: Any) -> list[list[int]]:
    one = experiment(**changes)
    return [[plan.instances for plan in policy.pools(one.machines)] for policy in one.policies]


def test_a_budget_buys_by_the_price_under_that_rule_alone() -> None:
    assert pools(equal_cost="price") == [[6], [4, 8], [4, 2]]  # 2 / 0.25 and 2 / 0.8, whole instances
    assert pools(equal_cost="instances") == pools(equal_cost="busy_seconds") == [[6], [4, 2], [4, 2]]


@given(
    st.integers(0, 200),
    st.floats(0.01, 100),
    st.floats(0.01, 100),
    st.sampled_from(list(Role)),
)
def test_what_is_bought_never_costs_more_than_the_budget_and_one_more_would(
    extra: int, deployed: float, other: float, role: Role
) -> None:
    prices = Prices(deployed=deployed, parity=other, backup=other)
    cluster = Cluster.model_validate({"instances": 3, "extra": extra, "service": 1.0, "prices": prices})
    bought = cluster.buys(role)
    budget = extra * prices.deployed
    assert bought * prices.of(role) <= budget * (1 + 1e-9) + 1e-6 * prices.of(role)
    assert (bought + 1) * prices.of(role) > budget * (1 - 1e-9)


def test_a_budget_that_is_a_whole_number_of_instances_is_spent_whole() -> None:
    for extra in range(1, 50):
        cluster = Cluster.model_validate({"instances": 3, "extra": extra, "service": 1.0, "prices": {"backup": 0.1}})
        assert cluster.buys(Role.BACKUP) == 10 * extra


@pytest.mark.parametrize(
    ("prices", "says"), [({"backup": 0}, "greater than 0"), ({"tpu": 1}, "Extra inputs"), ({"parity": "x"}, "number")]
)
def test_bad_prices_are_refused(prices: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        experiment(cluster=PLAIN["cluster"] | {"prices": prices})


def test_what_a_budget_cannot_buy_is_said_before_anything_runs() -> None:
    dear = PLAIN["cluster"] | {"prices": {"backup": 3}}
    with pytest.raises(ValidationError, match="the backup model needs an instance"):
        experiment(cluster=dear, equal_cost="price")
    assert experiment(cluster=dear).equal_cost == "instances"


def test_outcomes_know_their_price(tmp_path: Any) -> None:
    one = experiment(equal_cost="price", traces=False)
    store = RunStore(tmp_path)
    store.open(one)
    found = run_cells(cells(one), store, workers=1, answerer=None, reporter=Reporter())
    spent = [(outcome.cost["instances"], outcome.cost["price"]) for _, outcome in found]
    assert spent == [(6, 6.0), (12, 6.0), (6, pytest.approx(5.6))]


def row(policy: str, rule: cost.Rule = "instances", **spent: float) -> summary.Row:
    costs = {"instances": 18, "price": 18.0, "utilisation": 0.5, "busy_seconds_per_query": 0.02, "bytes_per_query": 1.0}
    trials = [outcome(policy, trial, cost=costs | spent) for trial in range(2)]
    return summary.rows(trials, rule)[0]


@pytest.mark.parametrize(
    ("rule", "spent", "unequal"),
    [
        ("instances", {"price": 9.0, "busy_seconds_per_query": 0.1}, False),
        ("instances", {"instances": 19}, True),
        ("price", {"instances": 24, "price": 18.1}, False),
        ("price", {"price": 18.3}, True),
        ("busy_seconds", {"instances": 24, "busy_seconds_per_query": 0.02019}, False),
        ("busy_seconds", {"busy_seconds_per_query": 0.0203}, True),
    ],
)
def test_rows_are_equal_by_the_rule_and_within_its_tolerance(
    rule: cost.Rule, spent: dict[str, float], unequal: bool
) -> None:
    meaning, named = tables.verdict([row("a", rule), row("b", rule, **spent), row("c", rule)])
    assert cost.RULES[rule].meaning in meaning
    assert (named is not None) is unequal
    if named:
        assert named.startswith("not at equal cost: a, c ")
        assert "; b " in named


def test_tables_say_the_rule_and_show_prices_where_they_differ() -> None:
    def printed(rows: list[summary.Row]) -> str:
        buffer = io.StringIO()
        tables.show(rows, Console(file=buffer))
        return buffer.getvalue()

    plain = printed([row("a"), row("b")])
    assert "equal cost is the same number of instances: 18 instances" in plain
    assert " price " not in plain
    priced = printed([row("a", "price"), row("b", "price", price=20.0)])
    assert "price" in priced.splitlines()[1] + priced.splitlines()[2]
    assert "not at equal cost: a 18 in price; b 20 in price" in priced


def test_the_relative_cost_is_against_the_first_policy_at_the_same_point() -> None:
    def at(policy: str, point: int, busy: float) -> Any:
        spent = {"instances": 18, "busy_seconds_per_query": busy, "price": 18, "utilisation": 0.5, "bytes_per_query": 1}
        return outcome(policy, 0, point={"cluster.extra": point}, cost=spent)

    found = summary.rows([at("a", 3, 0.02), at("a", 6, 0.04), at("b", 3, 0.03), at("b", 6, 0.03)], "busy_seconds")
    assert {(one.policy, one.point["cluster.extra"]): one.relative_cost for one in found} == pytest.approx(
        {("a", 3): 1.0, ("a", 6): 1.0, ("b", 3): 1.5, ("b", 6): 0.75}
    )


def test_a_summary_from_before_there_were_prices_can_be_read() -> None:
    old = {"instances": 12.0, "utilisation": 0.4, "busy_seconds_per_query": 0.01, "bytes_per_query": 5.0}
    assert cost.of(old, "price") == 12.0
