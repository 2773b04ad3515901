"""Stickiness: what a task sees is the same at every value; how alike neighbours are is what the knob says."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sim.cluster import Cluster
from sim.distributions.families import Deterministic, Exponential, Gamma
from sim.policies import Coded, Policy, Replication, Uncoded
from sim.schedule import OpenSchedule
from sim.simulation import simulate
from sim.stragglers import Heterogeneous, PerTask, Sticky, Straggler
from sim.stragglers.base import Setting
from sim.streams import Streams
from sim.trace import TaskStatus, Trace
from tests.worlds import poisson

FIVE = Deterministic(value=5.0)


def chain(sticky: Sticky, tasks: int, trial: int = 0) -> np.ndarray:
    """The slowdowns of one instance's tasks."""
    return np.array([*islice(sticky._chain(Streams(1, trial).generator("sticky", 0, 0)), tasks)])


def run(policy: Policy, straggler: Straggler, queue: str = "single_queue", rate: float = 150.0) -> Trace:
    streams = Streams(6)
    cluster = Cluster.model_validate({"instances": 6, "extra": 3, "service": 0.02, "queue": queue})
    return simulate(cluster, policy, [straggler], poisson(rate, 6000, streams), streams)


@pytest.mark.parametrize("stickiness", [0.0, 0.3, 0.9, 0.98])
def test_neighbours_are_as_alike_as_the_knob_says_and_the_marginal_stays(stickiness: float) -> None:
    sticky = Sticky(slowdown=FIVE, probability=0.1, stickiness=stickiness)
    slow = chain(sticky, 200_000) > 1
    spread = np.sqrt(0.1 * 0.9 / 200_000 * (1 + stickiness) / (1 - stickiness))  # of the mean of such a chain
    assert slow.mean() == pytest.approx(0.1, abs=4 * spread)
    for lag in (1, 2, 5):
        assert np.corrcoef(slow[:-lag], slow[lag:])[0, 1] == pytest.approx(stickiness**lag, abs=0.03)


def test_spells_are_geometric() -> None:
    """With a distribution without atoms a spell ends when the value changes: 1 / (1 - 0.8) = 5 tasks on average."""
    values = chain(Sticky(slowdown=Exponential(mean=3.0), stickiness=0.8), 100_000)
    ends = np.flatnonzero(np.diff(values))
    lengths = np.diff(ends)
    assert lengths.mean() == pytest.approx(5.0, rel=0.03)
    assert np.mean(lengths == 1) == pytest.approx(0.2, abs=0.01)


@settings(max_examples=12)
@given(st.sampled_from([0.0, 0.5, 0.99, 1.0]), st.sampled_from([0, 1, 255, 256, 700]))
def test_every_task_has_the_same_distribution_from_the_first_on(stickiness: float, place: int) -> None:
    """Over many instances, the n-th task's slowdown is one draw, whatever n and the stickiness: also across blocks."""
    sticky = Sticky(slowdown=FIVE, probability=0.25, stickiness=stickiness)
    found = [chain(sticky, place + 1, trial)[place] for trial in range(400)]
    assert np.mean(np.array(found) == 5.0) == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 400))


def test_at_0_it_is_per_task() -> None:
    grid = np.linspace(0.0, 0.4, 200) + 1e-4
    stragglers = (
        Sticky(slowdown=FIVE, probability=0.1, stickiness=0.0),
        PerTask(slowdown=FIVE, probability=0.1),
    )
    latency = [run(Uncoded(), straggler).queries.latency for straggler in stragglers]
    shares = [np.mean(one[:, None] <= grid, axis=0) for one in latency]
    assert np.max(np.abs(shares[0] - shares[1])) < 0.03
    assert latency[0].mean() == pytest.approx(latency[1].mean(), rel=0.05)


def test_at_1_it_is_heterogeneous() -> None:
    """Every instance keeps what it drew; given the same factors the traces are equal, query by query."""
    sticky = Sticky(slowdown=Gamma(shape=2.0, mean=2.0), stickiness=1.0)
    trace = run(Uncoded(), sticky, rate=90.0)
    tasks = trace.tasks
    factors = [(tasks.finish - tasks.start)[tasks.instance == instance].round(12) / 0.02 for instance in range(6)]
    assert all(np.ptp(of_one) < 1e-6 for of_one in factors)
    assert len({round(float(of_one[0]), 6) for of_one in factors}) == 6
    same = run(Uncoded(), Heterogeneous(factors=tuple(float(of_one[0]) for of_one in factors)), rate=90.0)
    assert np.allclose(same.queries.reply, trace.queries.reply, rtol=0, atol=1e-6)


@pytest.mark.parametrize("queue", ["single_queue", "shortest_queue"])
def test_the_work_per_task_does_not_depend_on_stickiness(queue: str) -> None:
    """Held constant: the mean slowdown of the tasks, though a slow instance takes fewer of them in a second."""
    means = {}
    for stickiness in (0.0, 0.5, 0.9):
        tasks = run(Uncoded(), Sticky(slowdown=FIVE, probability=0.1, stickiness=stickiness), queue).tasks
        means[stickiness] = float(np.mean(tasks.finish - tasks.start)) / 0.02
    assert means == pytest.approx({0.0: 1.4, 0.5: 1.4, 0.9: 1.4}, rel=0.07)


def test_an_instances_nth_task_meets_the_same_under_every_policy_and_every_stickiness_draws_alike() -> None:
    sticky = Sticky(slowdown=Gamma(shape=2.0, mean=2.0), stickiness=0.7)
    sequences = []
    for policy in (Uncoded(), Coded(k=2), Replication(cancel="nothing")):
        tasks = run(policy, sticky, rate=60.0).tasks
        ran = np.flatnonzero((tasks.instance == 2) & (tasks.fate == TaskStatus.DONE))
        order = ran[np.argsort(tasks.start[ran])]
        sequences.append((tasks.finish - tasks.start)[order][:500])
    assert np.allclose(sequences[0], sequences[1], rtol=0, atol=1e-9)
    assert np.allclose(sequences[0], sequences[2], rtol=0, atol=1e-9)
    loose = chain(Sticky(slowdown=FIVE, probability=0.1, stickiness=0.2), 2000)
    tight = chain(Sticky(slowdown=FIVE, probability=0.1, stickiness=0.3), 2000)
    assert np.mean(loose == tight) > 0.95, "a little more stickiness changes a few tasks"


def test_instances_have_chains_of_their_own() -> None:
    sticky = Sticky(slowdown=Exponential(mean=3.0), stickiness=0.9)
    cluster = Cluster(instances=2, service=Deterministic(value=1.0))
    bend = sticky.attach(Setting(Streams(0), 0, [(0, 0), (0, 0)], cluster.network)).modifier
    assert bend is not None
    task = None
    values = [[bend(task, instance, 0.0, 1.0) for _ in range(50)] for instance in (0, 1)]  # type: ignore[arg-type]
    assert not set(values[0]) & set(values[1])


def test_stickiness_is_a_probability() -> None:
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValidationError, match="than or equal to"):
            Sticky(slowdown=FIVE, stickiness=wrong)
    with pytest.raises(ValidationError, match="stickiness"):
        Sticky.model_validate({"kind": "sticky", "slowdown": 5})
    cluster = Cluster(instances=3, service=Deterministic(value=1.0))
    always = Sticky(slowdown=FIVE, stickiness=0.5)
    trace = simulate(cluster, Uncoded(), [always], OpenSchedule(np.zeros(3)), Streams(0))
    assert trace.queries.reply.tolist() == [5.0] * 3, "probability is 1 where it is left out"
