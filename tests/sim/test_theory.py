"""Theory as an oracle: the formulas against each other, and the simulator against the formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.cluster import Cluster
from sim.dispatching import IdleQueue, RandomQueue, RoundRobin, SingleQueue
from sim.distributions import Distribution
from sim.distributions.base import Floats
from sim.distributions.combined import Mixture, Sum
from sim.distributions.families import Deterministic, Exponential, Gamma, Uniform
from sim.distributions.heavy import Lognormal
from sim.errors import ParmError
from sim.policies import Coded, Hedged, Policy, Replication, Tied, Uncoded
from sim.schedule import ClosedSchedule, OpenSchedule
from sim.simulation import simulate
from sim.stragglers.base import ServiceModifier
from sim.streams import Streams
from sim.theory import (
    FirstOf,
    HedgedOnce,
    MMc,
    coded_quantiles,
    hedged_beyond,
    mean_of,
    order_statistic_quantiles,
    redundancy_d,
    waits,
)
from sim.trace import Role, Trace
from tests.worlds import poisson

MEAN = 0.02
HEAVY = Lognormal(mean=MEAN, cv=1.5)
SERVICE = Exponential(mean=MEAN)
UNKNOWN = Sum(terms=(SERVICE, SERVICE))
"""A distribution that knows only its mean."""


def latencies(cluster: Cluster, policy: Policy, rate: float, queries: int, trial: int = 0) -> Floats:
    streams = Streams(23, trial)
    return simulate(cluster, policy, (), poisson(rate, queries, streams), streams).queries.latency


def test_mmc_by_hand() -> None:
    """Two servers at half load: C = 1/3, so a mean wait of 1/3 of a mean service; three at 2/3: C = 4/9."""
    two, three = MMc(1.0, 1.0, 2), MMc(2.0, 1.0, 3)
    assert (two.load, two.delayed, two.mean()) == pytest.approx((0.5, 1 / 3, 4 / 3))
    assert (three.delayed, three.mean_wait()) == pytest.approx((4 / 9, 4 / 9))
    one = MMc(30.0, MEAN)
    assert (one.delayed, one.mean()) == pytest.approx((0.6, 1 / 20))
    assert one.quantiles(np.array([0.0, 0.5, 0.999])) == pytest.approx([0.0, math.log(2) / 20, math.log(1000) / 20])


@settings(max_examples=40)
@given(st.integers(1, 400), st.floats(0.01, 0.99), st.floats(1e-3, 1e3))
def test_mmc_agrees_with_itself(servers: int, load: float, service: float) -> None:
    queue = MMc(load * servers / service, service, servers)
    assert 0 <= queue.delayed <= load * (1 + 1e-9), "all servers are busy no more often than one of them"
    assert mean_of(queue.quantiles, 4000) == pytest.approx(queue.mean(), rel=0.01)
    p = np.array([0.0, 0.3, 0.99, 0.99999])
    assert 1 - queue.beyond(queue.quantiles(p)) == pytest.approx(p, abs=1e-9)
    t = np.linspace(0, 50 * service, 500)
    assert np.all(np.diff(queue.beyond(t)) <= 1e-12)


def test_mmc_is_continuous_where_wait_and_service_have_the_same_rate() -> None:
    """c mu - lambda = mu at lambda = (c - 1) mu, where the textbook formula divides by zero."""
    t = np.linspace(0, 10, 50)
    at, near = MMc(2.0, 1.0, 3), MMc(2.0 * (1 + 1e-9), 1.0, 3)
    assert at.beyond(t) == pytest.approx(near.beyond(t), abs=1e-7)
    assert at.beyond(t) == pytest.approx((1 - at.delayed) * np.exp(-t) + at.delayed * (1 + t) * np.exp(-t))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MMc(50.0, MEAN), "unstable: the load of 1 server is 1, and must be below 1"),
        (lambda: MMc(0.0, MEAN), "a positive rate"),
        (lambda: MMc(1.0, MEAN, 0), "at least one server"),
        (lambda: redundancy_d(200.0, MEAN, 4, 2), "the load of 4 servers is 1"),
        (lambda: redundancy_d(1.0, MEAN, 2, 3), "3 copies need as many servers"),
        (lambda: order_statistic_quantiles(SERVICE, np.array([0.5]), 3, 2), "the k-th smallest of 2 times needs"),
        (lambda: coded_quantiles(SERVICE, np.array([0.5]), 0), "at least one query and one parity"),
        (lambda: coded_quantiles(UNKNOWN, np.array([0.5]), 2), "the quantiles of .* are unknown"),
        (lambda: hedged_beyond(UNKNOWN, np.array([0.5]), 1.0), "the distribution function of .* is unknown"),
        (lambda: waits([0.0], [1.0], 0), "at least one server"),
    ],
)
def test_what_has_no_answer_is_refused(make: object, says: str) -> None:
    with pytest.raises(ParmError, match=says):
        make()  # type: ignore[operator]


def test_redundancy_d_at_its_ends() -> None:
    assert redundancy_d(100.0, MEAN, 4, 1) == pytest.approx(MMc(25.0, MEAN).mean())
    assert redundancy_d(100.0, MEAN, 4, 4) == pytest.approx(MMc(100.0, MEAN / 4).mean())
    assert redundancy_d(1e-9, MEAN, 5, 2) == pytest.approx(MEAN / 2), "nobody is there: the first of two copies"
    means = [redundancy_d(100.0, MEAN, 4, copies) for copies in (1, 2, 3, 4)]
    assert means == sorted(means, reverse=True)


@pytest.mark.parametrize("service", [SERVICE, Gamma(shape=3.0, mean=MEAN), Uniform(low=0.01, high=0.02)])
def test_order_statistics_against_draws(service: Distribution) -> None:
    drawn = np.sort(service.sample(np.random.default_rng(3), 5 * 40_000).reshape(-1, 5), axis=1)
    p = np.array([0.1, 0.5, 0.99])
    for k in (1, 3, 5):
        assert order_statistic_quantiles(service, p, k, 5) == pytest.approx(np.quantile(drawn[:, k - 1], p), rel=0.02)
    least = mean_of(lambda q: order_statistic_quantiles(SERVICE, q, 1, 4))
    assert least == pytest.approx(MEAN / 4, rel=1e-3), "the least of four exponential times"
    greatest = mean_of(lambda q: order_statistic_quantiles(SERVICE, q, 3, 3))
    assert greatest == pytest.approx(MEAN * (1 + 1 / 2 + 1 / 3), rel=1e-3)


def test_coded_latency_by_hand() -> None:
    """Exponential, k = 2, r = 1: P(L > t) = e^-t (1 - (1 - e^-t)^2) = 2 e^-2t - e^-3t, whose mean is 1 - 1/3."""
    found = mean_of(lambda p: coded_quantiles(Exponential(mean=1.0), p, 2), 20_000)
    assert found == pytest.approx(2 / 3, rel=1e-4)
    p = np.array([0.2, 0.9, 0.999])
    assert coded_quantiles(SERVICE, p, 1) == pytest.approx(order_statistic_quantiles(SERVICE, p, 1, 2)), "two copies"


@pytest.mark.parametrize(("k", "r"), [(2, 1), (3, 1), (4, 2)])
def test_coding_without_queues_is_the_order_statistic(k: int, r: int) -> None:
    """Coding groups that arrive at once and alone; a tenth of the answers is slow."""
    service = Mixture(parts=(SERVICE, Uniform(low=0.2, high=0.4)), weights=(9, 1))
    groups = 60_000 // k
    times = np.repeat(np.arange(groups) * 10.0, k)
    cluster = Cluster(instances=k, service=service)
    trace = simulate(cluster, Coded(k=k, r=r, parity_instances=r), (), OpenSchedule(times), Streams(4))
    _within(trace.queries.latency, lambda p: coded_quantiles(service, p, k, r))


@pytest.mark.parametrize(
    ("policy", "law"),
    [
        (Uncoded(), FirstOf(HEAVY)),
        (Tied(), FirstOf(HEAVY)),
        (Replication(copies=3, cancel="all"), FirstOf(HEAVY, 3)),
        (Hedged(after=0.04, cancel="all"), HedgedOnce(HEAVY, 0.04)),
    ],
    ids=str,
)
def test_a_closed_loop_on_many_instances_is_an_order_statistic(policy: Policy, law: FirstOf | HedgedOnce) -> None:
    """`experiments.analysis.theory` relies on this: with an idle instance for each copy, nothing waits."""
    streams = Streams(8)
    think = streams.generator("think").exponential(0.02, 40_000)
    trace = simulate(Cluster(instances=9, service=HEAVY), policy, (), ClosedSchedule(3, think), streams)
    _within(trace.queries.latency, law.quantiles)
    latency = trace.queries.latency
    assert latency.mean() == pytest.approx(law.mean(), abs=4 * latency.std() / math.sqrt(len(latency)))


def _within(latency: Floats, quantiles: object, sigmas: float = 4.0) -> None:
    """Hold the empirical distribution to theory at some quantiles, within its binomial error."""
    p = np.array([0.1, 0.5, 0.9, 0.99, 0.999])
    share = np.mean(latency[:, None] <= quantiles(p) + 1e-9, axis=0)  # type: ignore[operator]
    # Queries of a coding group share answers: allow for as few independent ones as there are groups.
    assert np.all(np.abs(share - p) < sigmas * np.sqrt(p * (1 - p) * 4 / len(latency))), (share, p)


@settings(max_examples=40)
@given(st.integers(1, 6), st.floats(0.2, 1.5), st.integers(0, 10_000))
def test_waits_are_those_of_the_sorted_vector_of_remaining_work(servers: int, load: float, seed: int) -> None:
    """Kiefer and Wolfowitz as they wrote it: each server's remaining work, in order, at each arrival."""
    generator = np.random.default_rng(seed)
    arrivals = np.cumsum(generator.exponential(1 / servers, 400))
    services = generator.gamma(0.7, load / 0.7, 400)
    expected = []
    work, before = np.zeros(servers), 0.0
    for arrival, service in zip(arrivals, services, strict=True):
        work = np.sort(np.maximum(work - (arrival - before), 0))
        before = arrival
        expected.append(work[0])
        work[0] += service
    assert np.allclose(waits(arrivals, services, servers), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("servers", [1, 4])
def test_the_simulated_queue_has_the_mean_and_the_tail_of_mmc(servers: int) -> None:
    rate = 0.6 * servers / MEAN
    theory = MMc(rate, MEAN, servers)
    expected = [theory.mean(), *theory.quantiles(np.array([0.5, 0.99]))]
    cluster = Cluster(instances=servers, service=SERVICE)
    found = []
    for trial in range(6):
        latency = latencies(cluster, Uncoded(), rate, 25_000, trial)[500:]
        found.append([latency.mean(), *np.quantile(latency, [0.5, 0.99])])
    half = 4.03 * np.std(found, axis=0, ddof=1) / math.sqrt(6)  # Student's t, 5 degrees of freedom, 99%
    assert np.all(np.abs(np.mean(found, axis=0) - expected) < half)
    assert np.all(half < 0.12 * np.array(expected))


def test_replication_is_redundancy_d_within_1_percent_at_a_million_queries() -> None:
    cluster = Cluster(instances=3, service=SERVICE, queue=RandomQueue())
    rate = 0.35 * 3 / MEAN
    mean = latencies(cluster, Replication(copies=2, cancel="all"), rate, 1_000_000)[1000:].mean()
    assert mean == pytest.approx(redundancy_d(rate, MEAN, 3, 2), rel=0.01)


@pytest.mark.parametrize("queue", [SingleQueue(), RoundRobin()])
def test_replication_to_every_instance_is_one_fast_server(queue: SingleQueue | RoundRobin) -> None:
    cluster = Cluster(instances=3, service=SERVICE, queue=queue)
    latency = latencies(cluster, Replication(copies=3, cancel="all"), 60.0, 40_000)[500:]
    theory = MMc(60.0, MEAN / 3)
    assert latency.mean() == pytest.approx(theory.mean(), rel=0.03)
    assert np.quantile(latency, 0.99) == pytest.approx(theory.quantiles(np.array([0.99]))[0], rel=0.06)


@pytest.mark.parametrize("after", [0.01, 0.04])
def test_hedging_without_slow_machines_costs_what_its_wait_and_its_budget_say(after: float) -> None:
    """Nothing queues: the second copies are the services longer than the wait, and the tail is that of the formula."""
    queries = 30_000
    cluster = Cluster(instances=40, service=SERVICE)

    def run(policy: Policy) -> Trace:
        streams = Streams(31)
        return simulate(cluster, policy, (), OpenSchedule(np.arange(queries) * 0.05), streams)

    trace = run(Hedged(after=after))
    exceeded = math.exp(-after / MEAN)
    sent = np.mean(trace.tasks.attempt == 1) * len(trace.tasks) / queries
    assert sent == pytest.approx(exceeded, abs=4 * math.sqrt(exceeded / queries))
    assert trace.busy_seconds / queries == pytest.approx(MEAN * (1 + exceeded), rel=0.02), (
        "both copies run to their end"
    )
    t = np.array([0.5, 1.2, 2.0, 3.0]) * after
    beyond = hedged_beyond(SERVICE, t, after)
    share = np.mean(trace.queries.latency[:, None] > t, axis=0)
    assert np.all(np.abs(share - beyond) < 4 * np.sqrt(beyond / queries) + 1e-9)
    budgeted = run(Hedged(after=after, budget=0.05))
    assert np.sum(budgeted.tasks.attempt == 1) == round(0.05 * queries), "more than five in a hundred were overdue"


@pytest.mark.parametrize("copies", [2, 3, 4])
def test_tied_copies_join_the_queue_with_the_least_work_among_theirs(copies: int) -> None:
    """Join the shortest work of d queues, query by query: queues taken in turn, an idle one ends the search."""
    servers, queries = 5, 6000
    streams = Streams(9)
    schedule = poisson(0.85 * servers / MEAN, queries, streams)
    work = Gamma(shape=0.6, mean=MEAN).sample(streams.generator("the same for every copy"), queries).tolist()

    def of_the_query(role: Role, row: int) -> ServiceModifier:
        return lambda task, instance, start, seconds: work[task.owner.first]

    cluster = Cluster(instances=servers, service=Deterministic(value=1.0), queue=RoundRobin())
    trace = simulate(cluster, Tied(copies=copies), (), schedule, streams, of_the_query)
    free = [0.0] * servers
    turn = -1
    replies = []
    for arrival, seconds in zip(schedule.times.tolist(), work, strict=True):
        joined: list[int] = []
        while len(joined) < copies and not any(free[place] <= arrival for place in joined):
            turn = (turn + 1) % servers
            joined.append(turn)
        place = min(joined, key=lambda one: free[one])
        free[place] = max(free[place], arrival) + seconds
        replies.append(free[place])
    assert np.max(trace.queries.latency) > 0.2
    assert np.allclose(trace.queries.reply, replies, rtol=0, atol=1e-9)


def test_tied_copies_in_one_queue_are_the_queue() -> None:
    """What `experiments.analysis.theory` relies on: M/M/c for tied copies on a single queue."""
    cluster = Cluster(instances=4, service=SERVICE)
    latency = latencies(cluster, Tied(), 120.0, 60_000)[500:]
    assert latency.mean() == pytest.approx(MMc(120.0, MEAN, 4).mean(), rel=0.03)


def test_join_the_idle_queue_on_two_servers_is_its_markov_chain() -> None:
    """States are the tasks at each server; the mean number in the steady state gives the mean time (Little's law)."""
    most, load, mean = 40, 0.7, 0.01
    moves = np.zeros((most * most, most * most))

    def move(a: int, b: int, to_a: int, to_b: int, rate: float) -> None:
        if max(to_a, to_b) < most:
            moves[a * most + b, to_a * most + to_b] += rate
            moves[a * most + b, a * most + b] -= rate

    for a in range(most):
        for b in range(most):
            first = 0.5 if (a == 0) == (b == 0) else float(a == 0)
            move(a, b, a + 1, b, 2 * load * first)
            move(a, b, a, b + 1, 2 * load * (1 - first))
            move(a, b, max(a - 1, 0), b, float(a > 0))
            move(a, b, a, max(b - 1, 0), float(b > 0))
    moves[:, 0] = 1.0  # in place of one balance equation: probabilities add up to 1
    stationary = np.linalg.solve(moves.T, np.eye(most * most)[0])
    number = stationary @ np.add.outer(np.arange(most), np.arange(most)).ravel()
    expected = mean * number / (2 * load)
    streams, queries = Streams(11), 120_000
    cluster = Cluster(instances=2, service=Exponential(mean=mean), queue=IdleQueue())
    trace = simulate(cluster, Uncoded(), (), poisson(2 * load / mean, queries, streams), streams)
    assert trace.queries.latency.mean() == pytest.approx(expected, rel=0.03)
    assert MMc(2 * load / mean, mean, 2).mean() * 1.05 < expected < MMc(load / mean, mean).mean() * 0.95
