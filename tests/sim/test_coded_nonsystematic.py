"""Coding without predictions as they are, step by step. Service takes 1 s unless said otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from sim.clock import COMPACT_ABOVE, Clock
from sim.cluster import Cluster
from sim.code import Code
from sim.distributions.families import Deterministic, Exponential
from sim.policies import Coded, CodedNonsystematic, EqualResources
from sim.schedule import ClosedSchedule, OpenSchedule, Schedule
from sim.simulation import simulate
from sim.stragglers import Heterogeneous, Straggler
from sim.streams import Streams
from sim.trace import Role, Route, TaskStatus, Trace
from tests.worlds import poisson


def run(
    policy: CodedNonsystematic, times: Sequence[float] | Schedule, stragglers: Sequence[Straggler] = (), **cluster: Any
) -> Trace:
    options = {"instances": 2, "extra": 1, "service": 1.0} | cluster
    schedule = OpenSchedule(np.array(times, dtype=float)) if isinstance(times, Sequence) else times
    return simulate(Cluster.model_validate(options), policy, stragglers, schedule, Streams(0))


def slow(*factors: float) -> list[Straggler]:
    return [Heterogeneous(factors=factors)]


def test_queries_wait_for_their_group_and_for_k_of_the_n_answers() -> None:
    trace = run(CodedNonsystematic(k=2, stragglers=1), [0, 0.5], slow(1.0, 2.0, 3.0), encode=0.25, decode=0.125)
    assert trace.queries.route.tolist() == [Route.RECONSTRUCTION] * 2
    assert trace.queries.reply.tolist() == [0.5 + 0.25 + 2.0 + 0.125] * 2
    assert trace.queries.used.tolist() == [0b01100] * 2, "bits k and k + 1: the first two coded queries"
    assert trace.queries.dispatch.tolist() == [0.0, 0.5]
    tasks = trace.tasks
    assert tasks.role.tolist() == [Role.PARITY] * 3
    assert tasks.row.tolist() == [0, 1, 2]
    assert tasks.instance.tolist() == [0, 1, 2]
    assert tasks.queued.tolist() == [0.75] * 3
    assert (trace.k, trace.r, trace.instances) == (2, 3, 3)
    assert trace.group.tolist() == [0, 0]
    assert trace.slot.tolist() == [0, 1]


def test_the_deployed_model_serves_coded_queries_at_its_own_speed() -> None:
    trace = run(CodedNonsystematic(), [0, 0], parity_service=9.0, network={"query_bytes": 10, "parity_bytes": 100})
    assert trace.queries.reply.tolist() == [1.0, 1.0]
    assert trace.bytes == 3 * 100 + 3 * 4000, "what is sent is a coded query"


def test_coded_queries_that_wait_are_removed_once_k_answers_are_back() -> None:
    trace = run(CodedNonsystematic(k=2), [0, 0], instances=1, extra=0)
    assert trace.tasks.fate.tolist() == [TaskStatus.DONE, TaskStatus.DONE, TaskStatus.CANCELLED]
    assert trace.busy_seconds == 2.0


def test_groups_are_served_first_come_first_served() -> None:
    trace = run(CodedNonsystematic(k=2), [0, 0, 0.5, 0.5, 0.75, 0.75], instances=3, extra=0)
    order = trace.tasks.owner[np.argsort(trace.tasks.start, kind="stable")]
    assert order.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_group_that_cannot_fill_is_padded_at_the_end_of_the_run() -> None:
    trace = run(CodedNonsystematic(k=3, stragglers=1), [0, 0, 0, 4.0], instances=4)
    assert trace.queries.reply.tolist() == [1.0, 1.0, 1.0, 5.0]
    assert trace.group.tolist() == [0, 0, 0, 1]
    assert trace.slot.tolist() == [0, 1, 2, 0]
    assert np.sum(trace.tasks.owner == 1) == 4


def test_a_group_waits_no_longer_than_it_is_told_to() -> None:
    trace = run(CodedNonsystematic(k=3, max_wait=0.5), [0, 0.25, 9.0, 9.1, 9.2], instances=4)
    assert trace.queries.reply.tolist() == [1.5, 1.5, 10.2, 10.2, 10.2]
    assert trace.group.tolist() == [0, 0, 1, 1, 1]


def test_fewer_clients_than_a_group_has_queries_are_all_answered() -> None:
    """Two clients and k = 4: a group is coded when it has waited long enough."""
    trace = run(CodedNonsystematic(k=4, max_wait=0.25), ClosedSchedule(2, np.full(9, 0.125)), instances=5)
    per_round = 0.125 + 0.25 + 1.0
    assert trace.queries.reply.tolist() == pytest.approx(np.repeat(np.arange(1, 6), 2)[:9] * per_round)
    assert np.bincount(trace.group).tolist() == [2, 2, 2, 2, 1]


def test_a_default_answer_does_not_keep_others_from_theirs() -> None:
    trace = run(CodedNonsystematic(k=2), [0, 1.0], deadline=1.5)
    assert trace.queries.route.tolist() == [Route.DEFAULT, Route.RECONSTRUCTION]
    assert trace.queries.reply.tolist() == [1.5, 2.0]
    never = run(CodedNonsystematic(k=2), [0], deadline=1.5)
    assert never.queries.route.tolist() == [Route.DEFAULT]
    assert len(never.tasks) == 0, "whoever would have been helped is gone"


def test_adaptive_batches_grow_with_coded_queries() -> None:
    batching = {"kind": "aimd", "objective": 2.0, "max_size": 4, "formed_at": "frontend", "max_wait": 5.0}
    trace = run(CodedNonsystematic(k=2), np.linspace(0, 40, 200).tolist(), batching=batching, batch_cost=0.0)
    assert trace.batches.size.max() == 4


def test_the_timers_of_full_groups_leave_the_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    most: list[int] = []
    advance = Clock.advance

    def watched(clock: Clock, until: float) -> None:
        most.append(len(clock.heap))
        advance(clock, until)

    monkeypatch.setattr(Clock, "advance", watched)
    streams = Streams(5)
    cluster = Cluster(instances=10, service=Exponential(mean=0.02))
    simulate(cluster, CodedNonsystematic(k=2, max_wait=60.0), (), poisson(200.0, 10_000, streams), streams)
    assert max(most) < 4 * COMPACT_ABOVE, "5,000 timers of a minute each would all be there"


def test_it_costs_what_equal_resources_do() -> None:
    cluster = Cluster(instances=12, extra=6, service=Deterministic(value=1.0))
    policy = CodedNonsystematic(k=8, stragglers=2)
    assert policy.instances(cluster) == EqualResources().instances(cluster) == 18
    assert policy.group == (8, 10)


def test_codes_are_given_to_the_policy_that_they_are_for() -> None:
    class Whole(Code):
        kind: str = "whole"

    class Decoded(Code):
        systematic = False
        kind: str = "decoded"

        def check(self, k: int, r: int) -> None:
            if r != k + 1:
                raise ValueError(f"{r} coded queries for k = {k}")

    with pytest.raises(ValidationError, match="code 'decoded' is non-systematic: give it to"):
        Coded(code=Decoded())
    with pytest.raises(ValidationError, match="code 'whole' is systematic: give it to"):
        CodedNonsystematic(code=Whole())
    assert CodedNonsystematic(code=Decoded()).erasure_code == Decoded()
    with pytest.raises(ValidationError, match="4 coded queries for k = 2"):
        CodedNonsystematic(stragglers=2, code=Decoded())
    del Whole, Decoded
