"""From a cluster, a policy, stragglers and a schedule to the kernel's options; what it cannot run is said here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sim.batching import Aimd, Fixed
from sim.cluster import Cluster
from sim.code import Code
from sim.compiled import layout
from sim.dispatching import BestOf, IdleQueue, RandomQueue, RoundRobin, ShortestQueue, SingleQueue
from sim.policies import (
    ApproximateBackup,
    Coded,
    CodedNonsystematic,
    DefaultAnswer,
    EqualResources,
    Hedged,
    Policy,
    Replication,
    Tied,
    Uncoded,
)
from sim.routing import LeastRequest, PeakEwma, Prequal
from sim.stragglers.base import Effect

DISCIPLINES = (
    *(SingleQueue, RoundRobin, RandomQueue, ShortestQueue, BestOf, IdleQueue),
    *(LeastRequest, PeakEwma, Prequal),
)
POLICIES: dict[type[Policy], int] = {
    Uncoded: layout.ONE,
    EqualResources: layout.ONE,
    DefaultAnswer: layout.ONE,
    Replication: layout.REPLICAS,
    Hedged: layout.HEDGED,
    Tied: layout.TIED,
    ApproximateBackup: layout.BACKUPS,
    Coded: layout.CODED,
    CodedNonsystematic: layout.COLLECTED,
}
"""The policies that the kernel knows. Subclasses may do anything, so they are not among them."""


def unsupported(cluster: Cluster, policy: Policy, effects: Sequence[tuple[str, Effect]]) -> str | None:
    """Return what of this the kernel cannot run, such as "policy 'mine'", or None where it can run all.

    `effects` are those of the stragglers, with their kinds.
    """
    return next(_obstacles(cluster, policy, effects), None)


def _obstacles(cluster: Cluster, policy: Policy, effects: Sequence[tuple[str, Effect]]) -> Iterator[str]:
    queue, batching = cluster.queue, cluster.batching
    if type(policy) not in POLICIES:
        yield f"policy '{policy.name_in_yaml()}'"
    if isinstance(policy, Replication) and policy.vote is not None:
        yield "votes"
    if type(queue) not in DISCIPLINES:
        yield f"queue discipline '{queue.name_in_yaml()}'"
    if type(batching) not in (Fixed, Aimd):
        yield f"batching '{batching.name_in_yaml()}'"
    if cluster.scaler is not None:
        yield f"scaler '{cluster.scaler.name_in_yaml()}'"
    for kind, effect in effects:
        if effect.form is None and (effect.modifier or effect.delay or effect.outages):
            yield f"straggler '{kind}', whose effect is a function"


def options(cluster: Cluster, policy: Policy, deadline: float | None) -> dict[str, Any]:
    """Return the fields of the `WORLD` that are plain options."""
    overhead = cluster.network.overhead
    found: dict[str, Any] = {
        "policy": POLICIES[type(policy)],
        "after": -1.0,
        "backup_after": -1.0,
        "budget": float("inf"),
        "group_max_wait": -1.0,
        "overhead": overhead,
        "has_deadline": int(deadline is not None),
        "deadline": 0.0 if deadline is None else max(0.0, deadline - overhead),
        "backup_pool": -1,
        "group_timer": -1,
        "copies": 1,
        "any_k": int(policy.erasure_code is None or type(policy.erasure_code).sufficient is Code.sufficient),
        "window": 1000,
        "least": 100,
        **_batching(cluster),
        **dict(_of_policy(policy)),
    }
    found["k"], found["r"] = policy.group
    alone = cluster.batching.formed_at == "instance" or (found["filled_to"] == 1 and not found["adapts"])
    found["alone"] = int(alone and deadline is None)
    return found


def _batching(cluster: Cluster) -> dict[str, Any]:
    """Return how batches form: at the frontend, or at instances, where the frontend has batches of one query."""
    batching = cluster.batching
    found: dict[str, Any] = {"filled_to": 1, "max_wait": -1.0, "adapts": int(isinstance(batching, Aimd))}
    if isinstance(batching, Aimd):
        found |= batching.model_dump(include={"objective", "increase", "backoff", "max_size"})
    else:
        assert isinstance(batching, Fixed)
        found["max_size"] = batching.size
    if batching.forms_at_instances:
        return found | {"gathers": 1, "instance_wait": batching.max_wait or 0.0}
    if batching.formed_at == "instance":
        return found
    wait = batching.frontend_wait
    return found | {"filled_to": batching.start().now, "max_wait": -1.0 if wait is None else wait}


def _of_policy(policy: Policy) -> Iterator[tuple[str, Any]]:
    match policy:
        case Replication() | Tied():
            yield "copying", 1
            yield "copies", policy.copies
            if isinstance(policy, Replication):
                yield from _cancelling(policy.cancel, policy.cancel_seconds)
            else:
                yield "cancel", 1
                yield "message_delay", policy.message_delay
        case Hedged():
            yield from _hedging(policy)
        case ApproximateBackup():
            yield "backup_pool", 1
            yield "cancel", layout.CANCELS.index(policy.cancel)
            yield from _waiting(policy, 0.5, "backup_after", "backup_share")
        case Coded():
            if policy.hedge is not None or policy.backup is not None:
                yield "copying", 1
                yield "cancel", 1
            if policy.backup is not None:
                yield "backing", 1
                yield "backup_pool", 1 + policy.r
                yield from _waiting(policy.backup, 0.99, "backup_after", "backup_share")
            if policy.hedge is not None:
                yield "hedging", 1
                yield from _hedging(policy.hedge)
        case CodedNonsystematic() if policy.max_wait is not None:
            yield "group_max_wait", policy.max_wait
        case _:
            pass


def _cancelling(cancel: str, seconds: float) -> Iterator[tuple[str, Any]]:
    yield "cancel", layout.CANCELS.index(cancel)
    yield "cancel_seconds", seconds


def _hedging(options: Any) -> Iterator[tuple[str, Any]]:
    yield "copying", 1
    yield "copies", options.copies
    yield "budget", float("inf") if options.budget is None else options.budget
    yield "probability", options.probability
    yield from _cancelling(options.cancel, options.cancel_seconds)
    yield from _waiting(options, 0.95, "after", "hedge_share")


def _waiting(options: Any, otherwise: float, after: str, share: str) -> Iterator[tuple[str, Any]]:
    if options.after is not None:
        yield after, options.after
    else:
        yield share, options.after_quantile or otherwise
        yield "sees", 1
