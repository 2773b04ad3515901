"""What the timeline shows of traces in which every reply is decoded, or in which models share their instances."""

from __future__ import annotations

import numpy as np

from experiments.figures.scene import choose, only_decoded, own_tasks
from sim.cluster import Cluster
from sim.distributions.families import Deterministic
from sim.policies import Coded, CodedNonsystematic, Policy
from sim.schedule import OpenSchedule
from sim.simulation import simulate
from sim.stragglers import Heterogeneous
from sim.streams import Streams
from sim.trace import Role, Route, Trace


def run(policy: Policy) -> Trace:
    cluster = Cluster(instances=2, extra=1, service=Deterministic(value=1.0))
    slow = (Heterogeneous(factors=(4.0, 1.0, 1.0)),)
    return simulate(cluster, policy, slow, OpenSchedule(np.array([0.0, 0.0, 9.0, 9.0])), Streams(0))


def test_the_last_coded_answer_is_what_a_decoded_reply_overtakes() -> None:
    trace = run(CodedNonsystematic(k=2))
    assert only_decoded(trace)
    scene = choose(trace, 2)
    assert scene is not None
    assert scene.route == Route.RECONSTRUCTION
    assert scene.own is not None
    assert (trace.tasks.finish[scene.own], trace.tasks.instance[scene.own]) == (4.0, 0)
    assert [(trace.tasks.finish[row], trace.tasks.row[row]) for row in scene.used] == [(1.0, 1), (1.0, 2)]
    assert own_tasks(trace).tolist() == [scene.own, scene.own, *own_tasks(trace)[2:]]


def test_a_first_task_is_what_a_reconstruction_overtakes_in_a_shared_pool() -> None:
    trace = run(Coded(k=2, parity_pool="low_priority"))
    assert not only_decoded(trace)
    scene = choose(trace, 2)
    assert scene is not None
    assert scene.own is not None
    assert trace.tasks.finish[scene.own] == 4.0
    assert sorted(trace.tasks.role[scene.used].tolist()) == [Role.DEPLOYED, Role.PARITY]
