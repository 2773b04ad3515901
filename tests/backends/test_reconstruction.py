"""Words of groups whose queries were collected: full ones, short ones, and those that never filled."""

from __future__ import annotations

import numpy as np
import pytest

from backends.reconstruction import reconstructed_words
from sim.cluster import Cluster
from sim.distributions.families import Deterministic
from sim.policies import Coded, CodedNonsystematic
from sim.schedule import OpenSchedule
from sim.simulation import simulate
from sim.stragglers import Heterogeneous
from sim.streams import Streams
from sim.trace import Trace

ONE_LATE = (Heterogeneous(factors=(1.0, 9.0, 1.0, 1.0)),)


def collected(times: list[float], size: int = 1, max_wait: float | None = None) -> Trace:
    batching = {"kind": "fixed", "size": size, "formed_at": "frontend", "max_wait": 1.0}
    cluster = Cluster.model_validate({"instances": 4, "service": 1.0, "batch_cost": 0.0, "batching": batching})
    policy = CodedNonsystematic(k=3, stragglers=1, max_wait=max_wait)
    return simulate(cluster, policy, ONE_LATE, OpenSchedule(np.array(times)), Streams(0))


def test_every_query_of_a_collected_group_is_a_loss_of_its_word() -> None:
    words = reconstructed_words(collected([0.0, 0.25, 0.5, 20.0, 20.25, 20.5]))
    assert words.members.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert words.query.tolist() == [0, 1, 2, 3, 4, 5]
    assert words.word.tolist() == [0, 0, 0, 1, 1, 1]
    assert words.slot.tolist() == [0, 1, 2, 0, 1, 2]
    assert words.rows.tolist() == [0b1101, 0b0111], "instance 1, which is slow, is idle least long at the second"
    assert (words.used == np.repeat(words.rows, 3) << 3).all()


def test_a_group_that_never_filled_repeats_its_last_batch() -> None:
    """Batches of two, the last of one query; the second group has two batches, at the end of the run."""
    trace = collected([0.0] * 6 + [20.0] * 3, size=2)
    assert trace.batches.group.tolist() == [0, 0, 0, 1, 1]
    assert trace.batches.slot.tolist() == [0, 1, 2, 0, 1]
    words = reconstructed_words(trace)
    assert words.members.tolist() == [[0, 2, 4], [1, 3, 5], [6, 8, 8], [7, 8, 8]]
    assert words.query.tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 7]


def test_a_group_that_waited_long_enough_repeats_its_last_batch_amid_the_run() -> None:
    trace = collected([0.0, 10.0, 10.0, 10.0, 20.0, 20.1], max_wait=1.0)
    assert trace.batches.group.tolist() == [0, 1, 1, 1, 2, 2]
    assert reconstructed_words(trace).members.tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 5]]


def test_a_prediction_cannot_have_come_from_a_batch_that_is_not_there() -> None:
    cluster = Cluster(instances=2, service=Deterministic(value=1.0))
    slow = (Heterogeneous(factors=(9.0, 1.0, 1.0)),)
    trace = simulate(cluster, Coded(k=2), slow, OpenSchedule(np.array([0.0, 0.0])), Streams(0))
    assert reconstructed_words(trace).members.tolist() == [[0, 1]]
    trace.batches.group[1] = -1
    with pytest.raises(ValueError, match="never full"):
        reconstructed_words(trace)
