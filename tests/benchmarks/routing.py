"""What routers that learn are for: the table of docs/routing.md, `python -m tests.benchmarks.routing`."""

from __future__ import annotations

import time

import numpy as np

from sim.cluster import Cluster
from sim.dispatching import BestOf, Discipline, ShortestQueue, SingleQueue
from sim.distributions.families import Exponential
from sim.policies import Uncoded
from sim.routing import Ejection, LeastRequest, PeakEwma, Prequal
from sim.simulation import simulate
from sim.stragglers import Heterogeneous
from sim.streams import Streams
from tests.worlds import poisson

QUERIES = 200_000
QUEUES = (
    SingleQueue(),
    ShortestQueue(),
    BestOf(d=2),
    PeakEwma(),
    BestOf(d=2, steal=True),
    LeastRequest(ejection=Ejection(timeout=0.2)),
    LeastRequest(ejection=Ejection(timeout=0.2, move=True)),
    Prequal(),
    Prequal(steal=True),
)


def named(queue: Discipline) -> str:
    """Return a queue's kind, and whether tasks move."""
    moves = getattr(getattr(queue, "ejection", None), "move", False)
    return f"{queue.name_in_yaml()}{', move' * moves}{', steal' * getattr(queue, 'steal', False)}"


def main() -> None:
    """Print each router's p99.9 with equal instances and with a slow one, that one's share of tasks, and the speed."""
    print("router                       p99.9, ms, all alike   one slow   tasks there   queries per CPU second")
    streams = Streams(0)
    for queue in QUEUES:
        found = []
        for slow in ((), (Heterogeneous(factors=(1.0,) * 9 + (10.0,)),)):
            cluster = Cluster(instances=10, service=Exponential(mean=0.01), queue=queue)
            schedule, began = poisson(600.0, QUERIES, streams), time.process_time()
            trace = simulate(cluster, Uncoded(), slow, schedule, streams, engine="simpy")
            speed = QUERIES / (time.process_time() - began)
            p999 = 1e3 * float(np.quantile(trace.queries.latency, 0.999))
            found.append((p999, float(np.mean(trace.tasks.instance == 9)), speed))
        (alike, _, _), (late, share, speed) = found
        print(f"{named(queue):27s} {alike:22.0f} {late:10.0f} {share:13.1%} {speed:24,.0f}")


if __name__ == "__main__":
    main()
