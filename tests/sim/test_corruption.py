"""Which instances answer wrongly, and when; votes, step by step, in random worlds and against theory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from backends.corruption import Adversarial, ConstantClass, RandomClass
from sim.cluster import Cluster
from sim.corruption import Corrupt, Corruption
from sim.distributions.families import Deterministic, Exponential
from sim.policies import Policy, Replication, Uncoded
from sim.policies.replication import Vote
from sim.schedule import OpenSchedule
from sim.simulation import check, corrupt_instances, simulate
from sim.stragglers import Crashes, Heterogeneous, Straggler
from sim.streams import Streams
from sim.trace import LARGEST_VOTE, Role, Route, TaskStatus, Trace
from tests.worlds import CANCELS, CORRUPTION, VOTES, World, clusters, poisson, schedules, worlds


def corrupted(causes: Sequence[Corruption], instances: int = 12, streams: Streams | None = None) -> list[list[int]]:
    """Return the instances that each cause makes wrong at time 5."""
    corrupt = Corrupt(causes, streams or Streams(3), instances)
    marks = [corrupt.mark(instance, 5.0) for instance in range(instances)]
    return [[instance for instance, mark in enumerate(marks) if mark == number] for number in range(1, len(causes) + 1)]


def test_so_many_instances_are_corrupt_and_more_of_them_include_the_fewer() -> None:
    found = [set(corrupted([RandomClass(instances=count)])[0]) for count in range(13)]
    assert [len(one) for one in found] == list(range(13))
    assert all(fewer < more for fewer, more in pairwise(found))
    drawn = {tuple(corrupted([RandomClass(instances=2)], streams=Streams(3, trial))[0]) for trial in range(30)}
    assert len(drawn) > 15
    assert corrupted([RandomClass(instances=(4, 0))]) == [[0, 4]]


def test_the_first_cause_at_an_instance_counts() -> None:
    assert corrupted([RandomClass(instances=(1, 2)), Adversarial(instances=(2, 3))]) == [[1, 2], [3]]


def test_an_instance_is_corrupt_from_after_until_it_has_lasted() -> None:
    cause = RandomClass(instances=(1,), after=Deterministic(value=2.0), lasts=Deterministic(value=3.0))
    corrupt = Corrupt([cause], Streams(0), 2)
    assert [corrupt.mark(1, time) for time in (0.0, 1.9, 2.0, 4.9, 5.0)] == [0, 0, 1, 1, 0]
    assert corrupt.mark(0, 3.0) == 0
    periods = RandomClass(instances=5, after=Exponential(mean=1.0), lasts=Exponential(mean=1.0)).periods
    few, many = periods(Streams(1), 0, 5), periods(Streams(1), 0, 5)
    assert np.array_equal(few, many)
    assert len(np.unique(few)) == 10


def test_too_few_instances_are_refused_in_one_sentence() -> None:
    cluster = Cluster(instances=3, service=0.02)
    with pytest.raises(ValueError, match="4 corrupt instances are more than the 3 that the policy uses"):
        check(cluster, Uncoded(), (), corruption=[RandomClass(instances=4)])
    with pytest.raises(ValueError, match="no instance 3 to corrupt: the policy uses 3, from 0 on"):
        check(cluster, Uncoded(), (), corruption=[RandomClass(instances=(1, 3))])
    check(cluster, Uncoded(), (), corruption=[RandomClass(instances=(1, 2)), RandomClass(instances=3)])


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_wrong_answers_change_nothing_but_the_marks_unless_copies_vote(world: World) -> None:
    trace = world.run()
    if not world.corruption:
        assert trace.tasks.wrong is None
        return
    tasks, corrupt = trace.tasks, corrupt_instances(world.corruption, world.cluster, world.policy, world.streams)
    assert tasks.wrong is not None
    ran = np.flatnonzero(tasks.instance >= 0)
    assert tasks.wrong[ran].tolist() == [corrupt.mark(tasks.instance[one], tasks.finish[one]) for one in ran]
    assert not tasks.wrong[tasks.instance < 0].any()
    if not world.votes:
        right = dataclasses.replace(world, corruption=()).run()
        assert np.array_equal(trace.queries.reply, right.queries.reply)
        assert np.array_equal(tasks.finish, right.tasks.finish)


def run(
    policy: Policy, wrong: Sequence[Corruption], stragglers: Sequence[Straggler] = (), times: Sequence[float] = (0.0,),
    **cluster: Any,
) -> Trace:  # fmt: skip
    options = {"instances": 3, "extra": 2, "service": 1.0} | cluster
    schedule = OpenSchedule(np.array(times))
    return simulate(Cluster.model_validate(options), policy, stragglers, schedule, Streams(0), corruption=wrong)


SPEEDS = [Heterogeneous(factors=(1.0, 2.0, 3.0, 4.0, 5.0))]
"""Copy i is at instance i and back after i + 1 seconds; a fourth one, at instance 3, 4 seconds after it was sent."""


def voted(trace: Trace) -> tuple[float, Route, int, int]:
    """Return the reply's time and route, and who won and who lost the vote."""
    used = int(trace.queries.used[0])
    return (
        float(trace.queries.reply[0]),
        Route(trace.queries.route[0]),
        used & (1 << LARGEST_VOTE) - 1,
        used >> LARGEST_VOTE,
    )


def three(**vote: Any) -> Replication:
    return Replication(copies=3, vote=Vote(**vote))


def test_two_equal_answers_of_three_are_awaited() -> None:
    assert voted(run(three(), [], SPEEDS)) == (2.0, Route.OWN, 0b011, 0)
    assert voted(run(three(), [RandomClass(instances=(0,))], SPEEDS)) == (3.0, Route.REPLICA, 0b110, 0b001)
    assert voted(run(three(), [RandomClass(instances=(1,))], SPEEDS)) == (3.0, Route.OWN, 0b101, 0b010)
    assert voted(run(three(), [RandomClass(instances=(2,))], SPEEDS)) == (2.0, Route.OWN, 0b011, 0)
    assert voted(run(three(agree=3), [], SPEEDS)) == (3.0, Route.OWN, 0b111, 0)


def test_corrupt_instances_that_answer_alike_win() -> None:
    assert voted(run(three(), [Adversarial(instances=(0, 1))], SPEEDS)) == (2.0, Route.OWN, 0b011, 0)
    assert voted(run(three(), [ConstantClass(instances=(0, 1), answer=2)], SPEEDS)) == (2.0, Route.OWN, 0b011, 0)
    two_causes = [Adversarial(instances=(0,), towards=1), Adversarial(instances=(1,), towards=2)]
    assert voted(run(three(), two_causes, SPEEDS)) == (3.0, Route.OWN, 0b001, 0b110)


def test_a_tie_is_decided_as_asked_for() -> None:
    wrong = [RandomClass(instances=(0, 1))]
    assert voted(run(three(), wrong, SPEEDS)) == (3.0, Route.OWN, 0b001, 0b110)
    assert voted(run(three(tie="default"), wrong, SPEEDS)) == (3.0, Route.DEFAULT, 0, 0)
    assert voted(run(three(tie="another"), wrong, SPEEDS)) == (7.0, Route.REPLICA, 0b1100, 0b0011)
    # No instance is left for a sixth copy.
    nobody = [RandomClass(instances=5)]
    assert voted(run(three(tie="another"), nobody, SPEEDS)) == (12.0, Route.OWN, 0b00001, 0b11110)
    unanimous = Vote(agree=3)
    majority = run(Replication(copies=3, vote=unanimous), [RandomClass(instances=(0,))], SPEEDS)
    assert voted(majority) == (3.0, Route.REPLICA, 0b110, 0b001)


def test_two_copies_detect_and_a_third_decides() -> None:
    pair = Replication(copies=2, vote=Vote(tie="another"))
    trace = run(pair, [RandomClass(instances=(1,))], SPEEDS)
    assert voted(trace) == (2.0 + 3.0, Route.OWN, 0b101, 0b010)
    assert len(run(pair, [], SPEEDS).tasks) == 2
    assert voted(run(Replication(copies=2, vote=Vote(tie="default")), [RandomClass(instances=(1,))], SPEEDS))[1] == (
        Route.DEFAULT
    )


def test_a_lost_copy_votes_once_it_is_repeated_and_others_are_cancelled_with_the_reply() -> None:
    crashes = [Crashes(mean_up=1.0, repair=Deterministic(value=0.1), detect=0.0)]
    trace = run(Replication(copies=3, vote=Vote(agree=3)), [], crashes, service=0.5, times=np.arange(50.0).tolist())
    assert (trace.tasks.fate == TaskStatus.LOST).sum() > 30
    assert np.array_equal([int(used).bit_count() for used in trace.queries.used], np.full(50, 3))
    stopped = run(Replication(copies=3, cancel="all", vote=Vote()), [], SPEEDS)
    assert stopped.busy_seconds == 1.0 + 2.0 + 2.0


@pytest.mark.parametrize(("copies", "agree"), [(2, 2), (3, 2), (5, 3)])
def test_without_queues_a_vote_takes_as_long_as_the_slowest_of_its_answers(copies: int, agree: int) -> None:
    """The mean of the a-th of c exponential times is the sum of 1 / (c - i) for i < a (Renyi 1953)."""
    streams = Streams(7)
    policy = Replication(copies=copies, vote=Vote(agree=agree), cancel="all")
    cluster = Cluster(instances=60, service=Exponential(mean=0.02))
    latency = simulate(cluster, policy, (), poisson(20.0, 20_000, streams), streams).queries.latency
    expected = 0.02 * sum(1 / (copies - i) for i in range(agree))
    assert latency.mean() == pytest.approx(expected, rel=0.02)
    wrong = simulate(
        cluster, policy, (), poisson(20.0, 20_000, streams), streams, corruption=[RandomClass(instances=30)]
    )
    assert wrong.queries.latency.mean() > latency.mean() * (1.03 if copies > agree else 0.999)


def voting_worlds() -> st.SearchStrategy[World]:
    policies = st.builds(Replication, copies=st.integers(2, 3), vote=VOTES, **CANCELS)
    streams = st.builds(Streams, st.integers(0, 99))
    causes = st.builds(tuple, CORRUPTION)
    return st.builds(World, clusters(), policies, st.just(()), schedules(), streams, causes).filter(
        lambda world: world.fills()
    )


@settings(max_examples=150, deadline=None)
@given(voting_worlds())
def test_every_vote_is_the_one_that_its_answers_give(world: World) -> None:
    """The reply comes with the first answer that makes enough equal ones, or with the last."""
    assert isinstance(world.policy, Replication)
    assert world.policy.vote is not None
    trace, agree = world.run(), world.policy.vote.agree
    tasks, queries = trace.tasks, trace.queries
    wrong = tasks.wrong if tasks.wrong is not None else np.zeros(len(tasks), dtype=np.uint8)
    for query in np.flatnonzero(queries.used):
        mine = np.flatnonzero((tasks.owner == queries.batch[query]) & (tasks.fate == TaskStatus.DONE))
        assert np.all(tasks.role[mine] == Role.DEPLOYED)
        used = int(queries.used[query])
        voters = [task for task in mine if (used | used >> LARGEST_VOTE) >> int(tasks.attempt[task]) & 1]
        assert tasks.back[voters].max() == queries.reply[query]

        def kind(task: int) -> tuple[int, int]:
            mark = int(wrong[task])
            alike = mark == 0 or world.corruption[mark - 1].alike
            return (mark, -1) if alike else (mark, task)

        def most(among: list[int]) -> int:
            return max([kind(task) for task in among].count(kind(task)) for task in among)

        winners = [task for task in voters if used >> int(tasks.attempt[task]) & 1]
        assert len({kind(task) for task in winners}) == 1
        assert len(winners) == most(voters)
        assert len(voters) < 2 or most(voters[:-1]) < agree
        left = len(winners) < agree
        assert not left or world.policy.vote.tie != "default"
        assert (queries.route[query] == Route.OWN) == (0 in tasks.attempt[winners])


def test_a_vote_without_enough_voters_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"a vote needs 'copies' from 'vote.agree' \(3\) to 31, not 2"):
        Replication(copies=2, vote=Vote(agree=3))
    with pytest.raises(ValidationError, match=r"to 31, not 32"):
        Replication(copies=32, vote=Vote())
