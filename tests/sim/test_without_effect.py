"""Options and policies that change nothing in the world at hand are named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sim import (
    Cluster,
    Coded,
    DefaultAnswer,
    Deterministic,
    Exponential,
    Hedged,
    Replication,
    ShortestQueue,
    Streams,
    Tied,
)
from sim.batching import Fixed
from sim.policies import ApproximateBackup, EqualResources, Policy, Uncoded
from sim.policies.coded import LastResort
from sim.policies.hedged import Hedging
from sim.simulation import simulate, without_effect
from tests.worlds import poisson

CLUSTER = Cluster(instances=4, extra=2, service=Exponential(mean=0.02))


@pytest.mark.parametrize(
    ("policy", "more", "says"),
    [
        (Tied(), {}, "'tied' on a single queue is the same as 'equal_resources'"),
        (Tied(message_delay=0.01), {}, "'tied' on a single queue is slower than 'equal_resources'"),
        (Tied(), {"queue": ShortestQueue()}, None),
        (Hedged(after=0.1, cancel_seconds=0.01), {}, "'cancel_seconds' has no effect without 'cancel: all'"),
        (Hedged(after=0.1, cancel_seconds=0.01, cancel="all"), {}, None),
        (Replication(cancel_seconds=0.01), {}, "'cancel_seconds' has no effect without 'cancel: all'"),
        (Hedged(after=0.1), {"deadline": 0.1}, "'after' (0.1 s) is not below the deadline"),
        (Coded(hedge=Hedging(after=0.2)), {"deadline": 0.1}, "hedge: no further copy is sent"),
        (Coded(backup=LastResort(after=0.2)), {"deadline": 0.1}, "no backup is used"),
        (ApproximateBackup(after=0.2), {"deadline": 0.1}, "no backup's answer is used"),
        (ApproximateBackup(after=0.05), {"deadline": 0.1, "backup_service": Deterministic(value=0.01)}, None),
        (DefaultAnswer(after=0.2), {"deadline": 0.1}, "'after' (0.2 s) has no effect"),
        (Coded(), {"backup_service": Deterministic(value=0.01)}, "'cluster.backup_service' has no effect"),
        (Uncoded(), {"parity_service": Deterministic(value=0.01)}, "'cluster.parity_service' has no effect"),
        (Coded(), {"parity_service": Deterministic(value=0.01)}, None),
        (Uncoded(), {"batching": Fixed(max_wait=0.1)}, "'cluster.batching.max_wait' has no effect on batches of one"),
        (Uncoded(), {}, None),
    ],
)
def test_what_has_no_effect_is_said(policy: Policy, more: dict[str, Any], says: str | None) -> None:
    found = without_effect(CLUSTER.model_copy(update=more), [policy])
    assert len(found) == (says is not None)
    assert says is None or says in found[0]


def test_tied_on_a_single_queue_is_really_the_same_as_equal_resources() -> None:
    streams = Streams(3)
    schedule = poisson(200.0, 2000, streams)
    tied, plain = (simulate(CLUSTER, one, (), schedule, streams) for one in (Tied(), EqualResources()))
    assert np.array_equal(tied.queries.reply, plain.queries.reply)
