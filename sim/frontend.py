"""The frontend: takes queries, forms batches, hands them to the policy, and sends each query exactly one reply."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from sim.batching import Fixed
from sim.clock import Call, Clock
from sim.cluster import Cluster
from sim.distributions.families import Deterministic
from sim.pool import Pool
from sim.recorder import Recorder
from sim.streams import Stream, Streams
from sim.task import Batch, Task
from sim.trace import Role

if TYPE_CHECKING:
    from sim.policies.base import Execution


class Clients(Protocol):
    """Those who send a next query only after a reply."""

    def replied(self) -> None:
        """Hear that one of them got a reply."""
        ...


class Frontend:
    """What policies work with: the pools, the clock, `answer` to reply, and the measured delays of its own work."""

    __slots__ = (
        "_adapts", "_alone", "_arrivals", "_awaiting", "_batch_size", "_batches", "_clients", "_cluster", "_deadline",
        "_due", "_execution", "_first", "_live", "_max_wait", "_recorder", "_streams", "_waiting", "clock",
        "deployed", "others",
    )  # fmt: skip

    def __init__(
        self,
        clock: Clock,
        recorder: Recorder,
        cluster: Cluster,
        streams: Streams,
        deployed: Pool,
        others: Sequence[Pool],
        deadline: float | None,
    ) -> None:
        """Give a query without a reply a default answer `deadline` seconds after its arrival, or never."""
        self.clock = clock
        self.deployed = deployed
        self.others = tuple(others)
        """The policy's pools after the first, in the order of its plans."""
        self._cluster = cluster
        self._streams = streams
        self._recorder = recorder
        self._batch_size = cluster.batching.start()
        self._adapts = self._batch_size.adapts
        self._max_wait = cluster.batching.max_wait
        self._first = 0
        """First query of the batch that is being filled."""
        self._waiting = 0
        """Queries in it."""
        self._batches = 0
        self._deadline = None if deadline is None else max(0.0, deadline - cluster.network.overhead)
        self._arrivals: list[float] = []
        self._due = 0
        """The query that the one pending deadline is for; those before it have their replies."""
        self._alone = cluster.batching == Fixed() and deadline is None
        """Each query is a batch of its own, and nothing waits: the case that has to be fast."""
        self._awaiting = False
        self._live: deque[Batch] = deque()
        """Batches by which queries that fall due are found; kept only where there is a deadline."""
        self._clients: Clients | None = None

    def delay(self, work: Literal["encode", "decode"]) -> Stream | None:
        """Return the frontend's delays by coding group, or None where they are zero."""
        seconds = self._cluster.encode if work == "encode" else self._cluster.decode
        if isinstance(seconds, Deterministic) and seconds.value == 0.0:
            return None
        return self._streams.stream(seconds.sample, work)

    def serve(self, execution: Execution, clients: Clients | None) -> None:
        """Let `execution` decide what becomes of the queries; `clients`, if any, wait for the replies."""
        self._execution = execution
        self._clients = clients
        for pool in (self.deployed, *self.others):
            adapts = self._adapts and pool.model is Role.DEPLOYED
            pool.connect(self._heard if adapts else execution.done, execution.lost)

    def _heard(self, task: Task) -> None:
        self._batch_size.processed(task.owner.size, self.clock.now - task.start)
        self._execution.done(task)

    def arrive(self, query: int) -> None:
        """Take a query, now; it arrived `network.overhead` ago."""
        if self._alone:
            self._execution.dispatched(Batch(query, query, 1))
            return
        if self._deadline is not None:
            self._expect(query)
        self._waiting += 1
        if self._waiting >= self._batch_size.now:
            self.flush()
        elif self._waiting == 1 and self._max_wait is not None:
            self.clock.at(self.clock.now + self._max_wait, Call(self._waited, query))

    def _waited(self, call: Call) -> None:
        if self._waiting and self._first == call.item:
            self.flush()

    def flush(self) -> bool:
        """Dispatch the queries that wait for their batch to fill; return whether there were any."""
        size = self._waiting
        if not size:
            return False
        recorder = self._recorder
        batch = Batch(self._batches, self._first, size)
        recorder.size.append(size)
        recorder.dispatched.append(self.clock.now)
        self._batches += 1
        self._first += size
        self._waiting = 0
        self._execution.dispatched(batch)
        if self._deadline is not None:
            self._live.append(batch)
            if self._first - 1 in recorder.defaults:  # it fell due while the batch was filling
                self._give_up(batch)
        return True

    def answer(self, batch: Batch, route: int, used: int = 0) -> None:
        """Reply by a `Route`, now, to every query of the batch without one. `used`: see `sim.trace.Queries.used`."""
        batch.answered = True
        recorder = self._recorder
        recorder.reply[batch.number] = self.clock.now
        if route:
            recorder.route[batch.number] = route
        if used:
            recorder.used[batch.number] = used
        if self._clients is not None:
            for query in range(batch.first, batch.first + batch.size):
                if query not in recorder.defaults:
                    self._clients.replied()

    def grouped(self, batches: int) -> None:
        """Note that the next so many batches, in the order of dispatch, make a coding group. For groups that may lack
        some: where nothing is noted, a group is k batches."""
        self._recorder.groups.append(batches)

    def _expect(self, query: int) -> None:
        """Note a query's deadline. Deadlines fall due in order of arrival, so one pending entry stands for all."""
        self._arrivals.append(self.clock.now)
        if not self._awaiting:
            self._awaiting = True
            self._due = query
            self._await_due()

    def _await_due(self) -> None:
        assert self._deadline is not None
        self.clock.at(self._arrivals[self._due] + self._deadline, Call(self._expire, None))

    def _expire(self, _: Call) -> None:
        """Give the query that is due its default answer, and wait for the next one that has no reply."""
        query = self._due
        live = self._live
        if not (live and live[0].answered):
            self._recorder.defaults[query] = self.clock.now
            if self._clients is not None:
                self._clients.replied()
            if live and query == live[0].first + live[0].size - 1:
                self._give_up(live[0])
            query += 1
        while live and (live[0].answered or live[0].first + live[0].size <= query):
            query = max(query, live[0].first + live[0].size)
            live.popleft()
        self._due = query
        self._awaiting = query < len(self._arrivals)
        if self._awaiting:
            self._await_due()

    def _give_up(self, batch: Batch) -> None:
        batch.answered = True
        self._execution.expired(batch)
