"""What we are compared with: the same queues in plain SimPy, in Ciw, and as a bare callback prototype."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from functools import cache
from heapq import heappop, heappush

import numpy as np
import simpy

SERVICE = 0.02


def simpy_process_per_request(requests: int, servers: int, rate: float) -> list[float]:
    """M/M/c as SimPy's own examples write it: a process per request and a Resource."""
    draw = random.Random(1)
    env = simpy.Environment()
    farm = simpy.Resource(env, servers)
    latencies: list[float] = []

    def request() -> Iterator[simpy.Event]:
        arrival = env.now
        with farm.request() as turn:
            yield turn
            yield env.timeout(draw.expovariate(1 / SERVICE))
        latencies.append(env.now - arrival)

    def source() -> Iterator[simpy.Event]:
        for _ in range(requests):
            yield env.timeout(draw.expovariate(rate))
            env.process(request())

    env.process(source())
    env.run()
    return latencies


def recursion_in_numba(requests: int, servers: int, rate: float) -> object:
    """M/M/c as the least that can be computed: each request starts at the server that is free first. No events."""
    generator = np.random.default_rng(1)
    arrivals = np.cumsum(generator.exponential(1 / rate, requests))
    return _recursion()(arrivals, generator.exponential(SERVICE, requests), np.zeros(servers))


@cache
def _recursion() -> Callable[..., object]:
    import numba

    @numba.njit
    def latencies(arrivals, services, free):  # type: ignore[no-untyped-def]
        found = np.empty(len(arrivals))
        for i in range(len(arrivals)):
            server = np.argmin(free)
            free[server] = max(free[server], arrivals[i]) + services[i]
            found[i] = free[server] - arrivals[i]
        return found

    return latencies


def ciw_network(requests: int, servers: int, rate: float) -> list[float]:
    """M/M/c in Ciw."""
    import ciw

    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Exponential(rate=rate)],
        service_distributions=[ciw.dists.Exponential(rate=1 / SERVICE)],
        number_of_servers=[servers],
    )
    ciw.seed(1)
    simulation = ciw.Simulation(network)
    simulation.simulate_until_max_customers(requests, method="Finish")
    return [record.exit_date - record.arrival_date for record in simulation.get_all_records()]


def coded_process_per_query(queries: int, instances: int, parities: int, rate: float) -> list[float]:
    """ParM with k = 2 in plain SimPy: a process per query and per parity query, an event per group for the decoder."""
    draw = random.Random(1)
    env = simpy.Environment()
    deployed, parity = simpy.Store(env), simpy.Store(env)
    for number in range(instances):
        deployed.put(number)
    for number in range(instances, instances + parities):
        parity.put(number)
    slow = Slowness(instances + parities)
    latencies: list[float] = []

    def task(pool: simpy.Store, done: simpy.Event) -> Iterator[simpy.Event]:
        instance = yield pool.get()
        yield env.timeout(slow.stretch(instance, env.now, draw.gammavariate(20, SERVICE / 20)))
        pool.put(instance)
        done.succeed()

    def query(arrival: float, own: simpy.Event, other: simpy.Event, coded: simpy.Event) -> Iterator[simpy.Event]:
        yield own | (other & coded)
        latencies.append(env.now - arrival)

    def source() -> Iterator[simpy.Event]:
        for _ in range(queries // 2):
            done = [env.event() for _ in range(3)]
            for slot in range(2):
                yield env.timeout(draw.expovariate(rate))
                env.process(task(deployed, done[slot]))
                env.process(query(env.now, done[slot], done[1 - slot], done[2]))
            env.process(task(parity, done[2]))

    env.process(source())
    env.run()
    return latencies


class Slowness:
    """Slow periods as in the coded benchmark: nine seconds normal, one second four times slower, on average."""

    def __init__(self, instances: int) -> None:
        self._draw = random.Random(2)
        self._now = [[0.0, 4.0] for _ in range(instances)]

    def stretch(self, instance: int, start: float, seconds: float) -> float:
        """Return the seconds that work takes, by the condition at its start."""
        condition = self._now[instance]
        while condition[0] <= start:
            condition[1] = 5.0 - condition[1]
            condition[0] += self._draw.expovariate(1 / 9.0 if condition[1] == 1.0 else 1.0)
        return seconds * condition[1]


def coded_callback_prototype(queries: int, instances: int, parities: int, rate: float) -> list[float]:
    """ParM with k = 2 on a bare heap, nothing recorded but latencies: the floor that a general simulator adds to."""
    draw = random.Random(1)
    slow = Slowness(instances + parities)
    heap: list[tuple[float, int, int, int, int]] = []
    idle = deque(range(instances)), deque(range(instances, instances + parities))
    waiting: tuple[deque[int], deque[int]] = (deque(), deque())
    arrivals = [0.0] * queries
    latency = [-1.0] * queries
    back = bytearray(queries // 2 + 1)
    order = 0

    def begin(pool: int, owner: int, instance: int, now: float) -> None:
        nonlocal order
        order += 1
        seconds = slow.stretch(instance, now, draw.gammavariate(20, SERVICE / 20))
        heappush(heap, (now + seconds, order, pool, owner, instance))

    def submit(pool: int, owner: int, now: float) -> None:
        if idle[pool]:
            begin(pool, owner, idle[pool].popleft(), now)
        else:
            waiting[pool].append(owner)

    def finish(now: float, pool: int, owner: int, instance: int) -> None:
        group = owner if pool else owner >> 1
        back[group] |= 4 if pool else 1 << (owner & 1)
        if not pool and latency[owner] < 0:
            latency[owner] = now - arrivals[owner]
        if back[group] & 4 and back[group] & 3:
            for query in (2 * group, 2 * group + 1):
                if latency[query] < 0:
                    latency[query] = now - arrivals[query]
        queue = waiting[pool]
        while queue:
            upcoming = queue.popleft()
            needed = latency[2 * upcoming] < 0 or latency[2 * upcoming + 1] < 0 if pool else latency[upcoming] < 0
            if needed:
                begin(pool, upcoming, instance, now)
                return
        idle[pool].append(instance)

    now = 0.0
    for query in range(queries):
        now += draw.expovariate(rate)
        while heap and heap[0][0] <= now:
            time, _, pool, owner, instance = heappop(heap)
            finish(time, pool, owner, instance)
        arrivals[query] = now
        submit(0, query, now)
        if query & 1:
            submit(1, query >> 1, now)
    while heap:
        time, _, pool, owner, instance = heappop(heap)
        finish(time, pool, owner, instance)
    return latency


def coded_kernel_in_numba(queries: int, instances: int, parities: int, rate: float) -> object:
    """Simulate the same as the callback prototype, in machine code: the floor of the compiled engine."""
    generator = np.random.default_rng(1)
    arrivals = np.cumsum(generator.exponential(1 / rate, queries))
    services = generator.gamma(20, SERVICE / 20, queries + queries // 2 + 1)
    lengths = generator.exponential(1.0, (instances + parities, int(arrivals[-1] / 4) + 100))
    lengths[:, ::2] *= 9.0  # nine seconds normal, one second slow, on average
    return _coded_kernel()(arrivals, services, np.cumsum(lengths, axis=1), instances, parities)


@cache
def _coded_kernel() -> Callable[..., object]:
    import heapq

    import numba

    @numba.njit
    def begin(heap, order, pool, owner, instance, now, services, ends, at):  # type: ignore[no-untyped-def]
        while ends[instance, at[instance]] <= now:
            at[instance] += 1
        factor = 4.0 if at[instance] & 1 else 1.0
        heapq.heappush(heap, (now + services[order] * factor, order, pool, owner, instance))

    @numba.njit
    def hear(found, back, arrivals, pool, owner, time):  # type: ignore[no-untyped-def]
        group = owner if pool else owner >> 1
        back[group] |= 4 if pool else 1 << (owner & 1)
        if not pool and found[owner] < 0:
            found[owner] = time - arrivals[owner]
        if back[group] & 4 and back[group] & 3:
            for query in (2 * group, 2 * group + 1):
                if found[query] < 0:
                    found[query] = time - arrivals[query]

    @numba.njit
    def latencies(arrivals, services, ends, instances, parities):  # type: ignore[no-untyped-def]
        queries = len(arrivals)
        found, back = np.full(queries + 1, -1.0), np.zeros(queries // 2 + 1, np.uint8)
        at = np.zeros(instances + parities, np.int64)
        idle, resting = np.zeros((2, instances), np.int64), np.array([instances, parities])
        idle[0], idle[1, :parities] = np.arange(instances), np.arange(instances, instances + parities)
        waiting, front, end = np.zeros((2, queries + 1), np.int64), np.zeros(2, np.int64), np.zeros(2, np.int64)
        heap = [(0.0, 0, 0, 0, 0)]
        heap.pop()
        order = 0
        for step in range(queries + 1):
            now = arrivals[step] if step < queries else np.inf
            while heap and heap[0][0] <= now:
                time, _, pool, owner, instance = heapq.heappop(heap)
                hear(found, back, arrivals, pool, owner, time)
                taken = False
                while front[pool] < end[pool] and not taken:
                    upcoming = waiting[pool, front[pool]]
                    front[pool] += 1
                    taken = found[2 * upcoming] < 0 or found[2 * upcoming + 1] < 0 if pool else found[upcoming] < 0
                    if taken:
                        begin(heap, order, pool, upcoming, instance, time, services, ends, at)
                        order += 1
                if not taken:
                    idle[pool, resting[pool]] = instance
                    resting[pool] += 1
            if step == queries:
                break
            for pool in range(1 + (step & 1)):
                owner = step >> pool
                if resting[pool]:
                    resting[pool] -= 1
                    begin(heap, order, pool, owner, idle[pool, resting[pool]], now, services, ends, at)
                    order += 1
                else:
                    waiting[pool, end[pool]] = owner
                    end[pool] += 1
        return found

    return latencies
