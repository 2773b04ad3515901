"""Policies, step by step, on clusters small enough to follow by hand. Service takes 1 s unless said otherwise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from pydantic import ValidationError

from sim.cluster import Cluster
from sim.code import Code
from sim.distributions.families import Deterministic
from sim.policies import Coded, CodedNonsystematic, EqualResources, Policy, Replication, Uncoded
from sim.schedule import OpenSchedule
from sim.simulation import check, simulate
from sim.stragglers import Heterogeneous, Straggler
from sim.streams import Streams
from sim.trace import Role, Route, TaskStatus, Trace

SECOND = Deterministic(value=1.0)


class AnyTwo(Code):
    """Any k answers will do, and every reply is decoded."""

    kind: Literal["any"] = "any"
    systematic: ClassVar[bool] = False


def run(policy: Policy, times: Sequence[float], stragglers: Sequence[Straggler] = (), **cluster: Any) -> Trace:
    options = {"instances": 2, "extra": 1, "service": SECOND} | cluster
    return simulate(
        Cluster.model_validate(options), policy, stragglers, OpenSchedule(np.array(times, dtype=float)), Streams(0)
    )


def routes(trace: Trace) -> list[Route]:
    return [Route(route) for route in trace.queries.route]


def slow(*factors: float) -> list[Straggler]:
    return [Heterogeneous(factors=factors)]


def test_without_redundancy_queries_wait_their_turn() -> None:
    trace = run(Uncoded(), [0, 0, 0, 0.5])
    assert trace.queries.reply.tolist() == [1, 1, 2, 2]
    assert trace.instances == 2
    assert run(EqualResources(), [0, 0, 0, 0.5]).queries.reply.tolist() == [1, 1, 1, 2]


def test_coded_reconstructs_when_the_parity_and_the_other_prediction_are_back() -> None:
    trace = run(Coded(k=2), [0, 0.25], slow(5.0, 1.0, 1.0))
    assert routes(trace) == [Route.RECONSTRUCTION, Route.OWN]
    assert trace.queries.reply.tolist() == [1.25, 1.25]
    assert trace.queries.used.tolist() == [0b110, 0]
    assert trace.group.tolist() == [0, 0]
    assert trace.slot.tolist() == [0, 1]
    parity = trace.tasks.role == Role.PARITY
    assert trace.tasks.queued[parity].tolist() == [0.25]


def test_coded_keeps_the_prediction_where_it_is_first() -> None:
    trace = run(Coded(k=2), [0, 0], slow(1.1, 1.0, 3.0))
    assert routes(trace) == [Route.OWN, Route.OWN]
    assert trace.queries.used.tolist() == [0, 0]


def test_a_prediction_that_is_back_while_the_decoder_works_is_used() -> None:
    trace = run(Coded(k=2), [0, 0], slow(1.2, 1.0, 1.0), decode=0.5)
    assert routes(trace) == [Route.OWN, Route.OWN]
    assert trace.queries.reply.tolist() == [1.2, 1.0]
    late = run(Coded(k=2), [0, 0], slow(9.0, 1.0, 1.0), decode=0.5)
    assert late.queries.reply.tolist() == [1.5, 1.0]


def test_encoding_delays_the_parity_query_and_nothing_else() -> None:
    trace = run(Coded(k=2), [0, 0], slow(9.0, 1.0, 1.0), encode=0.25)
    assert trace.queries.reply.tolist() == [1.25, 1.0]
    assert trace.queries.dispatch.tolist() == [0, 0]


def test_each_policys_frontend_takes_what_was_measured_with_its_own_code(tmp_path: Path) -> None:
    def takes(seconds: float) -> dict[str, Any]:
        return {"1": {"probabilities": [0, 1], "seconds": [seconds, seconds]}}

    roles = {
        "encode addition k=2 r=1": takes(0.25),
        "encode addition k=2 r=2": takes(0.5),
        "encode any k=2 r=3": takes(0.125),
    }
    file = tmp_path / "measured.json"
    file.write_text(json.dumps({"format": 1, "roles": roles}))
    own = {"kind": "profile", "file": str(file), "role": "encode"}
    late = slow(9.0, 1.0, 1.0, 1.0)
    for encode, factor in ((own, 1), ({"kind": "scaled", "of": own, "factor": 2}, 2)):
        assert run(Coded(k=2), [0, 0], late, encode=encode).queries.reply.tolist() == [1 + factor * 0.25, 1.0]
        two = run(Coded(k=2, r=2, parity_instances=2), [0, 0], late, encode=encode)
        assert two.queries.reply.tolist() == [1 + factor * 0.5, 1.0]
        every = run(CodedNonsystematic(k=2, code=AnyTwo()), [0, 0], encode=encode)
        assert every.queries.reply.tolist() == [1 + factor * 0.125] * 2
        assert run(Uncoded(), [0], encode=encode).queries.reply.tolist() == [1.0]
    chosen = own | {"code": "addition k=2 r=2"}
    assert run(Coded(k=2), [0, 0], late, encode=chosen).queries.reply.tolist() == [1.5, 1.0]
    cluster = Cluster.model_validate({"instances": 3, "service": 1.0, "encode": own})
    with pytest.raises(ValueError, match=r"no 'encode' times for 'addition k=3 r=1', only for 'addition k=2 r=1', "):
        check(cluster, Coded(k=3), ())
    with pytest.raises(ValidationError, match="has the role 'encode' for several codes; choose a 'code' of 'addition"):
        Cluster.model_validate({"instances": 3, "service": own})
    with pytest.raises(ValueError, match="no 'encode' times for a policy without a code"):
        check(cluster, CodedNonsystematic(k=2), ())


def test_queued_parity_queries_are_removed_when_all_predictions_are_back() -> None:
    trace = run(Coded(k=2, parity_instances=1), [0, 0, 0, 0], slow(1.0, 1.0, 1.0, 1.0, 5.0), instances=4)
    parity = trace.tasks.role == Role.PARITY
    assert sorted(trace.tasks.fate[parity].tolist()) == [TaskStatus.DONE, TaskStatus.CANCELLED]
    assert trace.tasks.instance[parity & (trace.tasks.fate == TaskStatus.CANCELLED)].tolist() == [-1]


def test_queued_originals_are_removed_when_their_group_is_decoded() -> None:
    """Group 0's second query is served late; group 1's own task waits behind it and is not needed in the end."""
    trace = run(Coded(k=2, parity_instances=2), [0, 0, 0, 0], slow(1.0, 9.0, 1.0, 1.0))
    assert routes(trace) == [Route.OWN, Route.RECONSTRUCTION, Route.OWN, Route.RECONSTRUCTION]
    assert trace.queries.reply.tolist() == [1, 1, 2, 2]
    assert np.sum(trace.tasks.fate == TaskStatus.CANCELLED) == 1


def test_two_losses_need_two_parities() -> None:
    both_lost = slow(9.0, 8.0, 1.0, 1.0)
    assert routes(run(Coded(k=2, r=2), [0, 0], both_lost)) == [Route.RECONSTRUCTION] * 2
    assert routes(run(Coded(k=2, r=2), [0, 0], both_lost)) != routes(run(Coded(k=2, r=1), [0, 0], both_lost))
    one = run(Coded(k=2, r=1), [0, 0], both_lost)
    assert one.queries.reply.tolist() == [8.0, 8.0]  # the second prediction gives the first


def test_a_code_says_which_answers_suffice() -> None:
    class Never(Code):
        def sufficient(self, k: int, r: int, returned: int) -> bool:
            return False

        @classmethod
        def name_in_yaml(cls) -> str | None:
            return "never"

    assert routes(run(Coded(k=2, code=Never()), [0, 0], slow(9.0, 1.0, 1.0))) == [Route.OWN, Route.OWN]
    del Never


def test_short_batches_share_a_group_with_long_ones() -> None:
    trace = run(
        Coded(k=2),
        [0, 0, 0],
        slow(9.0, 1.0, 1.0),
        batching={"kind": "fixed", "formed_at": "frontend", "size": 2, "max_wait": 0.5},
        batch_cost=0.0,
    )
    assert trace.batches.size.tolist() == [2, 1]
    assert trace.position.tolist() == [0, 1, 0]
    assert routes(trace) == [Route.RECONSTRUCTION, Route.RECONSTRUCTION, Route.OWN]
    assert trace.tasks.size[trace.tasks.role == Role.PARITY].tolist() == [2]


def test_an_incomplete_group_has_no_parity() -> None:
    trace = run(Coded(k=2), [0, 0, 0])
    assert trace.group.tolist() == [0, 0, -1]
    assert np.sum(trace.tasks.role == Role.PARITY) == 1


def test_replication_takes_the_first_answer_of_distinct_instances() -> None:
    trace = run(Replication(copies=2), [0], slow(5.0, 1.0, 1.0))
    assert routes(trace) == [Route.REPLICA]
    assert trace.queries.reply.tolist() == [1.0]
    assert sorted(trace.tasks.instance.tolist()) == [0, 1]
    assert trace.tasks.finish.max() == 5.0, "running copies go on unless all are cancelled"


@pytest.mark.parametrize(
    ("cancel", "fates", "busy"),
    [
        ("nothing", [TaskStatus.DONE] * 4, 1 + 2 + 0.25 + 1),
        ("queued", [TaskStatus.DONE] * 3 + [TaskStatus.CANCELLED], 1 + 2 + 0.25),
        ("all", [TaskStatus.DONE] * 2 + [TaskStatus.CANCELLED] * 2, 1 + 1 + 0.25),
    ],
)
def test_replication_cancels_what_it_is_told_to(cancel: str, fates: list[TaskStatus], busy: float) -> None:
    """Three instances: query 0's copies run on 0 and 1; query 1's run on 2, until t = 0.75, and wait for another."""
    policy = Replication.model_validate({"copies": 2, "cancel": cancel})
    trace = run(policy, [0, 0.5], slow(1.0, 2.0, 0.25), instances=2, extra=1)
    assert trace.queries.reply.tolist() == [1.0, 0.75]
    assert sorted(trace.tasks.fate.tolist()) == sorted(fates)
    assert trace.busy_seconds == pytest.approx(busy)


def test_a_cancelled_copy_takes_its_instance_for_as_long_as_that_takes() -> None:
    policy = Replication(copies=2, cancel="all", cancel_seconds=0.25)
    trace = run(policy, [0, 0], slow(1.0, 2.0), instances=2, extra=0)
    assert trace.queries.reply.tolist() == [1.0, 2.0]
    assert trace.busy_seconds == pytest.approx(1.0 + 1.25 + 1.0 + 0.75 + 0.25)


def test_copies_never_meet_on_one_instance_even_when_others_are_busy() -> None:
    for queue in ("single_queue", "round_robin", "random", "shortest_queue", "best_of"):
        trace = run(Replication(copies=3, cancel="nothing"), np.linspace(0, 3, 40).tolist(), queue=queue)
        pairs = set(zip(trace.tasks.owner.tolist(), trace.tasks.instance.tolist(), strict=True))
        assert len(pairs) == len(trace.tasks) == 120, queue


def test_a_deadline_gives_a_default_answer_and_frees_the_queue() -> None:
    trace = run(Uncoded(), [0, 0, 0.25], instances=1, deadline=1.5)
    assert trace.queries.reply.tolist() == [1.0, 1.5, 1.75]
    assert routes(trace) == [Route.OWN, Route.DEFAULT, Route.DEFAULT]
    assert sorted(trace.tasks.fate.tolist()) == [TaskStatus.DONE, TaskStatus.DONE, TaskStatus.CANCELLED]


def test_a_default_answer_within_a_batch_leaves_the_others_to_the_prediction() -> None:
    batching = {"kind": "fixed", "formed_at": "frontend", "size": 2}
    trace = run(Uncoded(), [0, 0.75], instances=1, deadline=1.9, batching=batching, batch_cost=0.25)
    assert trace.queries.reply.tolist() == [1.9, 2.0]
    assert routes(trace) == [Route.DEFAULT, Route.OWN]


def test_an_answer_that_missed_its_deadline_still_helps_its_group() -> None:
    """Query 0 is given up at 1.2 and back at 1.3; with the parity, at 1.5, it gives query 1 before its deadline."""
    trace = run(Coded(k=2), [0, 0.5], slow(1.3, 9.0, 1.0), deadline=1.2)
    assert routes(trace) == [Route.DEFAULT, Route.RECONSTRUCTION]
    assert trace.queries.reply.tolist() == [1.2, 1.5]
    assert trace.queries.used.tolist() == [0, 0b101]


def test_instances_and_their_shares() -> None:
    cluster = Cluster(instances=12, extra=6, service=SECOND)
    counts = {
        "none": Uncoded(),
        "equal": EqualResources(),
        "replication": Replication(),
        "k2": Coded(k=2),
        "k3": Coded(k=3),
        "k5": Coded(k=5),
        "budget": Coded(k=3, r=4, parity_instances="budget"),
        "named": Coded(k=4, parity_instances=1),
    }
    expected = {"none": 12, "equal": 18, "replication": 18, "k2": 18, "k3": 16, "k5": 15, "budget": 18, "named": 13}
    assert {name: policy.instances(cluster) for name, policy in counts.items()} == expected
    assert [plan.instances for plan in counts["budget"].pools(cluster)] == [12, 2, 2, 1, 1]


def test_policies_that_cannot_be_run_say_why() -> None:
    cluster = Cluster(instances=2, extra=1, service=SECOND)
    with pytest.raises(ValueError, match="4 copies need as many instances, but the cluster has 3"):
        Replication(copies=4).instances(cluster)
    with pytest.raises(ValueError, match="2 parities need an instance each, but there are 1"):
        Coded(k=2, r=2, parity_instances="budget").instances(cluster)
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        Coded(k=1)


def test_bytes_are_counted_for_what_was_sent() -> None:
    network = {"query_bytes": 100, "parity_bytes": 1000, "reply_bytes": 10}
    trace = run(Coded(k=2), [0, 0], network=network)
    assert trace.bytes == 2 * 100 + 1000 + 3 * 10
    assert run(Uncoded(), [0, 0], network=network).bytes == 2 * 100 + 2 * 10
