"""Shuffles and multitenancy: what others do on our machines."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cluster import Cluster
from sim.distributions.families import Deterministic, Exponential
from sim.network import Network
from sim.policies import Coded, Uncoded
from sim.schedule import OpenSchedule
from sim.simulation import simulate
from sim.stragglers import Multitenancy, Shuffles, Straggler
from sim.stragglers.base import Setting
from sim.stragglers.shuffles import IN, OUT, _Flow, _Timeline, _Traffic, share_fairly
from sim.streams import Streams
from sim.trace import Trace
from tests.worlds import poisson


def traffic_of(shuffles: Shuffles) -> _Traffic:
    return _Traffic(_Timeline(shuffles, setting(), 1.25e8), 6)


LINKS = Network(gbps=1.0, query_bytes=0, reply_bytes=0)


def setting(instances: int = 6, trial: int = 0, network: Network = LINKS) -> Setting:
    return Setting(Streams(1, trial), 0, [(0, 0)] * instances, network)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)).filter(lambda pair: pair[0] != pair[1]), min_size=1))
def test_flows_share_links_max_min_fairly(pairs: list[tuple[int, int]]) -> None:
    """A rate is max-min fair if and only if every flow has a full link on which no other flow is faster."""
    flows = [_Flow(sender, receiver, 1.0, back=False) for sender, receiver in pairs]
    share_fairly(flows, 10.0)
    links = {
        (way, place): [f for f in flows if (f.receiver, f.sender)[way] == place]
        for way in (IN, OUT)
        for place in range(5)
    }
    for users in links.values():
        assert sum(flow.rate for flow in users) <= 10.0 + 1e-9
    for flow in flows:
        assert any(
            sum(other.rate for other in users) >= 10.0 - 1e-9 and flow.rate >= max(other.rate for other in users) - 1e-9
            for users in (links[IN, flow.receiver], links[OUT, flow.sender])
        )


def test_a_shuffle_goes_there_and_back_over_and_over() -> None:
    """One shuffle of 125 MB at 1 Gbps: a second there, a second back, between one pair; then another pair."""
    traffic = traffic_of(Shuffles(concurrent=1, megabytes=(125.0, 125.0)))
    seen = []
    for when in np.arange(1.5, 400.0, 0.5):
        into = [i for i in range(6) if traffic.link(i, when, IN)[0]]
        out = [i for i in range(6) if traffic.link(i, when, OUT)[0]]
        assert len(into) == len(out) == 1
        seen.append((out[0], into[0]))
    changes = [pair for number, pair in enumerate(seen) if number == 0 or pair != seen[number - 1]]
    backs = sum(one == other[::-1] for one, other in pairwise(changes))
    assert backs >= len(changes) // 2 - 1
    assert len(set(changes)) == 30, "every ordered pair of six instances comes up"


def test_flows_are_on_a_link_as_often_as_they_should_be() -> None:
    """Four flows over six instances: the mean number of flows into an instance is 4/6, its sum always 4."""
    traffic = traffic_of(Shuffles())
    counts = np.array([[traffic.link(i, when, IN)[0] for i in range(6)] for when in np.arange(0.0, 3000.0, 3.0)])
    assert np.all(counts.sum(axis=1) == 4)
    assert counts.mean(axis=0) == pytest.approx([4 / 6] * 6, abs=0.12)


def test_messages_wait_for_their_share_and_behind_the_backlog() -> None:
    shuffles = Shuffles(backlog=Deterministic(value=0.01))
    traffic = traffic_of(shuffles)
    delay = shuffles.attach(setting()).delay
    assert delay is not None
    waits = set()
    for when in np.arange(0.0, 200.0, 0.5):
        for instance in range(6):
            flows = traffic.link(instance, when, IN)[0]
            expected = flows * (0.002 + 0.01)
            assert delay(instance, when, False, 0.002) == pytest.approx(expected)
            waits.add(flows)
    assert {0, 1, 2} <= waits


def test_a_backlog_that_lasts_is_the_same_for_all_messages_that_meet_a_flow() -> None:
    """One flow at a time: as long as the pair and the way stay, every message on its link waits the same."""
    shuffles = Shuffles(concurrent=1, megabytes=(125.0, 125.0), backlog=Exponential(mean=0.01), backlog_per="flow")
    traffic = traffic_of(shuffles)
    delay = shuffles.attach(setting()).delay
    assert delay is not None
    met: dict[tuple[int, int, int], set[float]] = {}
    for number, when in enumerate(np.arange(0.05, 400.0, 0.1)):
        for instance in range(6):
            waited = delay(instance, when, False, 0.002)
            if traffic.link(instance, when, IN)[0]:
                met.setdefault((instance, int(when), number // 10), set()).add(round(waited, 9))
    depths = [next(iter(one)) - 0.002 for one in met.values() if len(one) == 1]
    assert len(depths) > 0.8 * len(met)  # a second may hold the end of one flow and the beginning of another
    assert np.mean(depths) == pytest.approx(0.01, rel=0.15)


def run(stragglers: list[Straggler], times: np.ndarray[Any, Any], **cluster: Any) -> Trace:
    options = {"instances": 4, "extra": 2, "service": 0.01, "network": LINKS} | cluster
    return simulate(Cluster.model_validate(options), Uncoded(), stragglers, OpenSchedule(times), Streams(3))


def test_shuffles_need_links_and_somebody_to_talk_to() -> None:
    with pytest.raises(ValueError, match=r"give cluster\.network\.gbps"):
        run([Shuffles()], np.zeros(1), network=Network())
    with pytest.raises(ValueError, match="only one"):
        run([Shuffles()], np.zeros(1), instances=1)
    with pytest.raises(ValueError, match="megabytes must increase"):
        Shuffles(megabytes=(256.0, 128.0))


def test_the_traffic_is_the_same_under_policies_of_equal_cost() -> None:
    """Among common random numbers are the conditions of machines: the same instances are busy with bulk at one time."""
    shuffles = [Shuffles(backlog=Deterministic(value=0.05))]
    streams = Streams(3)
    schedule = poisson(20.0, 3000, streams)
    delayed = []
    for policy in (Uncoded(), Coded(k=2)):
        cluster = Cluster(instances=4 if policy.group[0] else 6, service=Deterministic(value=0.01), network=LINKS)
        tasks = simulate(cluster, policy, shuffles, schedule, streams).tasks
        late = (tasks.start - tasks.queued > 0.04) & (tasks.instance < 4)
        delayed.append(set(zip(tasks.instance[late].tolist(), (tasks.start[late] // 2).tolist(), strict=True)))
    assert len(delayed[0] & delayed[1]) > 0.3 * min(len(delayed[0]), len(delayed[1]))
    assert len(delayed[0]) > 20


def test_a_second_service_slows_its_instances_down_for_its_share_of_time() -> None:
    """Two of six instances, 10 queries/s of 20 ms on each: busy a fifth of the time, and then half as fast."""
    tenant = Multitenancy(instances=2, rate=20.0, service=Deterministic(value=0.02), slowdown=2.0)
    trace = run([tenant], np.arange(60_000) * 0.05, instances=6, service=1e-6, queue="round_robin")
    seconds = trace.tasks.finish - trace.tasks.start
    slow = seconds > 1.5e-6
    by_instance = [slow[trace.tasks.instance == instance].mean() for instance in range(6)]
    assert by_instance[1] == by_instance[2] == by_instance[4] == by_instance[5] == 0.0
    assert by_instance[0] == pytest.approx(0.2, abs=0.02)
    assert by_instance[3] == pytest.approx(0.2, abs=0.02)
    with pytest.raises(ValueError, match="only 4 are launched"):
        run([Multitenancy(instances=7, service=Deterministic(value=0.02))], np.zeros(1))
