"""What a policy costs, and by which rule two of them are said to cost the same.

`instances`: the machines that are launched, each counted once; what one pays for a cluster of one's own. `price`: the
same with a price per pool (`cluster.prices`), for machines that differ. Under both the budget `cluster.extra` makes
policies cost the same, as far as whole instances can. `busy_seconds`: the work itself, per query, for whoever pays by
use or shares the machines. No budget can hold that equal, since the policy itself decides how much work it makes; it
is therefore measured, and rows that differ by more than 1% are named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from sim.cluster import Cluster
from sim.policies.base import PoolPlan

Rule = Literal["instances", "busy_seconds", "price"]
"""By what policies are compared."""


@dataclass(frozen=True)
class Measure:
    """How a rule measures cost."""

    column: str
    """The entry of `Row.cost`."""
    meaning: str
    unit: str
    """Behind a number."""
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
    """Return what the pools cost together, in the unit of `cluster.prices`."""
    return sum(plan.instances * cluster.prices.of(plan.role) for plan in plans)


def of(cost: Mapping[str, float], rule: str) -> float:
    """Return one of a row's or an outcome's costs; summaries without prices had one price for every instance."""
    return cost.get(RULES[rule].column, cost["instances"])


def same(one: float, other: float, rule: str) -> bool:
    """Say whether two costs are the same under a rule, within its tolerance."""
    return abs(one - other) <= RULES[rule].tolerance * max(one, other)


def written(cost: float, rule: str) -> str:
    """Return a cost with its unit, such as `18 instances`."""
    return f"{cost * RULES[rule].factor:.4g} {RULES[rule].unit}"
