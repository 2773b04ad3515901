"""The frontend: takes queries, forms batches, hands them to the policy, and sends each query exactly one reply."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Literal, Protocol

from sim.batching import BatchSize
from sim.clock import Call, Clock
from sim.cluster import Cluster
from sim.corruption import Corrupt
from sim.dispatching import uniform
from sim.distributions.families import Deterministic
from sim.pool import Pool
from sim.recorder import Recorder
from sim.streams import Stream, Streams
from sim.task import Batch, Task
from sim.trace import Role


class Clients(Protocol):
    """Clients who send their next query only after a reply."""

    def replied(self) -> None:
        """Called when one of them gets a reply."""
        ...


class Handler(Protocol):
    """What decides how batches are answered: the `Execution` of a policy, where these methods are described."""

    def dispatched(self, batch: Batch) -> None: ...  # noqa: D102
    def done(self, task: Task) -> None: ...  # noqa: D102
    def lost(self, task: Task) -> None: ...  # noqa: D102
    def expired(self, batch: Batch) -> None: ...  # noqa: D102


class Frontend:
    """What policies work with: the pools, the clock, `answer` to reply, and the measured delays of its own work."""

    __slots__ = (
        "_adapts", "_alone", "_arrivals", "_awaiting", "_batch_size", "_batches", "_clients", "_cluster", "_deadline",
        "_due", "_execution", "_first", "_live", "_max_wait", "_recorder", "_streams", "_waiting", "clock", "corrupt",
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
        """Give a query without a reply a default answer `deadline` seconds after its arrival; never if None."""
        self.clock = clock
        self.deployed = deployed
        self.others = tuple(others)
        """The policy's pools after the first, in the order of its plans."""
        self.corrupt: Corrupt | None = None
        """The corrupt instances, for votes, which compare answers; None where all answers are right."""
        self._cluster = cluster
        self._streams = streams
        self._recorder = recorder
        batching = cluster.batching
        self._batch_size = batching.start() if batching.formed_at == "frontend" else BatchSize(1)
        self._adapts = self._batch_size.adapts
        self._max_wait = batching.frontend_wait
        self._first = 0
        """First query of the batch that is filling."""
        self._waiting = 0
        """Queries in it."""
        self._batches = 0
        self._deadline = None if deadline is None else max(0.0, deadline - cluster.network.overhead)
        self._arrivals: list[float] = []
        self._due = 0
        """The query whose deadline is pending; all queries before it have replies."""
        self._alone = not self._adapts and self._batch_size.now == 1 and deadline is None
        """Each query is a batch of its own: the case that has to be fast."""
        self._awaiting = False
        self._live: deque[Batch] = deque()
        """Batches without a reply, to find those of overdue queries; kept only where there is a deadline."""
        self._clients: Clients | None = None

    def delay(self, work: Literal["encode", "decode"]) -> Stream | None:
        """Return the seconds of this work by coding group, or None where they are zero."""
        seconds = self._cluster.encode if work == "encode" else self._cluster.decode
        if isinstance(seconds, Deterministic) and seconds.value == 0.0:
            return None
        return self._streams.stream(seconds.sample, work)

    def chances(self, purpose: str) -> Stream:
        """Return numbers in [0, 1) for a policy's decisions, by query or coding group."""
        return self._streams.stream(uniform, purpose)

    def serve(self, execution: Handler, clients: Clients | None) -> None:
        """Connect the policy's execution, and the clients of a closed loop if there are any."""
        self._execution = execution
        self._clients = clients
        for pool in (self.deployed, *self.others):
            adapts = self._adapts and pool.model is Role.DEPLOYED
            pool.connect(self._heard if adapts else execution.done, execution.lost)

    def _heard(self, task: Task) -> None:
        self._batch_size.processed(task.owner.size, self.clock.now - task.start)
        self._execution.done(task)

    def arrive(self, query: int) -> None:
        """Take a query now; it arrived `network.overhead` seconds ago."""
        if self._alone:
            self._execution.dispatched(Batch(query, query, 1))
            return
        if self._deadline is not None:
            self._expect(query)
        self._waiting += 1
        if self._waiting >= self._batch_size.now:
            self._dispatch()
        elif self._waiting == 1 and self._max_wait is not None:
            self.clock.at(self.clock.now + self._max_wait, Call(self._waited, query))

    def _waited(self, call: Call) -> None:
        if self._waiting and self._first == call.item:
            self._dispatch()

    def _dispatch(self) -> None:
        """Dispatch the batch that is filling."""
        size = self._waiting
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

    def answer(self, batch: Batch, route: int, used: int = 0) -> None:
        """Reply by a `Route`, now, to each query of the batch without a reply. `used`: see `sim.trace.Queries.used`."""
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
        """Record the size of the next coding group, in batches. Not needed where every group has k batches."""
        self._recorder.groups.append(batches)

    def _expect(self, query: int) -> None:
        """Schedule a query's deadline. Deadlines expire in order of arrival, so one scheduled entry is enough."""
        self._arrivals.append(self.clock.now)
        if not self._awaiting:
            self._awaiting = True
            self._due = query
            self._await_due()

    def _await_due(self) -> None:
        assert self._deadline is not None
        self.clock.at(self._arrivals[self._due] + self._deadline, Call(self._expire, None))

    def _expire(self, _: Call) -> None:
        """Give the overdue query its default answer, and schedule the deadline of the next query without a reply."""
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
