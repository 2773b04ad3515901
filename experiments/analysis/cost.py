"""Cost of a policy, and the rules by which policies have equal cost.

`instances`: number of launched machines, the cost of one's own cluster. `price`: the same with a price per pool
(`cluster.prices`), for machines that differ. Under both rules the budget `cluster.extra` equalises the cost of policies
up to whole instances. `busy_seconds`: busy time per query, for machines that are shared or paid by use. It depends on
the policy, so no budget can equalise it; it is measured, and rows that differ by more than 1% are reported. Where a
scaler adds and removes instances, `instances` and `price` are averages over the measured time: instance-seconds per
second.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from sim.cluster import Cluster
from sim.policies.base import PoolPlan
from sim.trace import Role

Rule = Literal["instances", "busy_seconds", "price"]
"""Measure of cost by which policies are compared."""


@dataclass(frozen=True)
class Measure:
    """How a rule measures cost."""

    column: str
    """The entry of `Row.cost`."""
    meaning: str
    unit: str
    """Unit in messages."""
    factor: float
    """From the column to the unit."""
    tolerance: float
    """Relative difference up to which two costs are the same."""


RULES: dict[str, Measure] = {
    "instances": Measure("instances", "the same number of instances", "instances", 1.0, 1e-9),
    "busy_seconds": Measure("busy_seconds_per_query", "the same busy time per query", "busy ms/query", 1000.0, 0.01),
    "price": Measure("price", "the same price", "in price", 1.0, 0.01),
}


def price(cluster: Cluster, plans: Iterable[PoolPlan]) -> float:
    """Return the total price of the pools, in the unit of `cluster.prices`."""
    return sum(plan.instances * cluster.prices.of(plan.role) for plan in plans)


def average_price(cluster: Cluster, instances: Mapping[Role, float]) -> float:
    """Return the price of so many instances of each role, in the unit of `cluster.prices`."""
    return sum(count * cluster.prices.of(role) for role, count in instances.items())


def of(cost: Mapping[str, float], rule: str) -> float:
    """Return a cost of a row or an outcome; without a price every instance counts 1."""
    return cost.get(RULES[rule].column, cost["instances"])


def same(one: float, other: float, rule: str) -> bool:
    """Return whether two costs are equal under a rule, within its tolerance."""
    return abs(one - other) <= RULES[rule].tolerance * max(one, other)


def written(cost: float, rule: str) -> str:
    """Return a cost with its unit, such as `18 instances`."""
    return f"{cost * RULES[rule].factor:.4g} {RULES[rule].unit}"
