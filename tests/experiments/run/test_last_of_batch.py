"""`counted: last_of_batch` measures the last query of each batch and no other."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.analysis.outcome import measure
from sim.batching import Fixed
from sim.cluster import Cluster
from sim.distributions.families import Exponential
from sim.policies import Coded
from sim.simulation import simulate
from sim.streams import Streams
from workloads.arrivals import Poisson


def test_only_the_last_of_each_batch_counts() -> None:
    streams = Streams(1, 0)
    batching = Fixed(size=3, formed_at="frontend", max_wait=10.0)
    cluster = Cluster(instances=4, service=Exponential(mean=0.05), batching=batching, batch_cost=0.1)
    schedule = Poisson(rate=90).schedule(2000, streams.generator("arrivals"))
    trace = simulate(cluster, Coded(k=2), [], schedule, streams)
    given = {"policy": "p", "kind": "p", "point": {}, "trial": 0, "warmup": 100, "seconds": {}}
    outcome = measure(trace, **given, last_of_batch=True)
    batch = trace.queries.batch
    last = np.flatnonzero(np.append(batch[1:] != batch[:-1], True))
    assert len(last) == 667  # the last batch of the run is not full
    latency = trace.queries.latency[last[last >= outcome.warmup]]
    assert outcome.warmup == 100
    assert outcome.queries == len(latency) == sum(outcome.routes.values())
    assert outcome.latency["p50"] == pytest.approx(np.median(latency))
    assert outcome.latency["p999"] == pytest.approx(np.quantile(latency, 0.999))
    assert outcome.quantiles["seconds"][-1] == latency.max()
    assert outcome.latency["p50"] < measure(trace, **given).latency["p50"]  # the others waited for it
