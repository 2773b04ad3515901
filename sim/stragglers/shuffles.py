"""Bulk traffic between instances, which delays queries and replies.

Bulk flows share the instances' links max-min fairly (Bertsekas and Gallager, Data Networks, section 6.5.2): each link
has one capacity out and one in, the frontend's link is never the bottleneck, and queries and replies are too small to
slow bulk flows. The flows therefore do not depend on them and are simulated separately, on demand.

A message that crosses a link with n >= 1 bulk flows in its direction (1) gets 1/(n + 1) of the link for its own bytes,
and (2) waits behind the flows' packets in the link's buffer: a draw of `backlog` for each flow. The second dominates:
1,000 full-size packets in a buffer, the default of Linux, take 12 ms at 1 Gbps. Congestion control alternately fills
and drains the buffer, so a backlog is often a mixture with 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, model_validator

from sim.distributions import Distribution
from sim.distributions.families import Exponential
from sim.stragglers.base import Effect, Setting, Straggler, Traffic
from sim.stragglers.timeline import SHORTEST
from sim.streams import Stream

IN, OUT = 0, 1


class Shuffles(Straggler):
    """Send bulk data repeatedly between random pairs of instances, in both directions (network shuffles)."""

    kind: Literal["shuffles"] = "shuffles"
    concurrent: int = Field(default=4, ge=1, le=1000)
    """Number of simultaneous shuffles, each between two distinct instances drawn from all that are launched."""
    megabytes: tuple[PositiveFloat, PositiveFloat] = Field(default=(128.0, 256.0))
    """Least and greatest size of a shuffle in MB, uniformly distributed; the same amount is then sent back."""
    backlog: Distribution = Exponential(mean=0.005)
    """Waiting time of a message in a link's buffer for each bulk flow there, in seconds."""
    backlog_per: Literal["message", "flow"] = "message"
    """Whether each message draws it anew, or each flow once, for as long as it lasts: then an instance stays slow."""

    @model_validator(mode="after")
    def _ordered(self) -> Shuffles:
        if self.megabytes[0] > self.megabytes[1]:
            raise ValueError(f"megabytes must increase, but begins with {self.megabytes[0]:g}")
        return self

    def attach(self, setting: Setting) -> Effect:
        """Delay messages on links with bulk flows. Raises ValueError if the network has no bandwidth."""
        gbps = setting.network.gbps
        if gbps is None:
            raise ValueError("shuffles need a bandwidth: give cluster.network.gbps")
        if (seconds := 8e-3 * self.megabytes[0] / gbps) < SHORTEST:
            raise ValueError(
                f"a shuffle of {self.megabytes[0]:g} MB takes {seconds:.3g} s at {gbps:g} Gbps; at least "
                f"{SHORTEST:g} s can be simulated"
            )
        if len(setting.pools) < 2:
            raise ValueError("shuffles need two instances, but there is only one")
        traffic = _Traffic(self._flows(setting, capacity=gbps * 1e9 / 8), len(setting.pools))

        latency = setting.network.latency  # of the link, not of its bandwidth: flows do not multiply it

        def lasting(instance: int, when: float, outbound: bool, seconds: float) -> float:
            flows, depth = traffic.link(instance, when, OUT if outbound else IN)
            return flows * max(0.0, seconds - latency) + depth

        if self.backlog_per == "flow":
            return Effect(delay=lasting, form=Traffic(traffic.timeline.pieces(), None, latency))

        def backlog(instance: int, way: int) -> Stream:
            return setting.streams.stream(self.backlog.sample, "backlog", setting.number, instance, way)

        streams = [(backlog(instance, IN), backlog(instance, OUT)) for instance in range(len(setting.pools))]
        crossed = [[0, 0] for _ in setting.pools]

        def delay(instance: int, when: float, outbound: bool, seconds: float) -> float:
            way = OUT if outbound else IN
            flows, _ = traffic.link(instance, when, way)
            if not flows:
                return 0.0
            count = crossed[instance][way]
            crossed[instance][way] = following = count + flows
            stream = streams[instance][way]
            waited = 0.0
            for number in range(count, following):  # `sum` rounds differently from Python 3.12 on
                waited += stream.at(number)
            return flows * max(0.0, seconds - latency) + waited

        return Effect(delay=delay, form=Traffic(traffic.timeline.pieces(), streams, latency))

    def _flows(self, setting: Setting, capacity: float) -> _Timeline:
        """Return the flows over time, which simulations of a trial share if they have as many instances."""
        lasting = self.backlog if self.backlog_per == "flow" else None
        key = ("shuffles", setting.number, self.concurrent, self.megabytes, lasting, capacity, len(setting.pools))
        return setting.streams.once(key, lambda: _Timeline(self, setting, capacity))


class _Flow:
    """One bulk transfer; at its end the same amount is sent back, and then another pair is drawn."""

    __slots__ = ("back", "depth", "left", "rate", "receiver", "sender", "size")

    def __init__(self, sender: int, receiver: int, size: float, depth: float = 0.0, *, back: bool) -> None:
        self.sender, self.receiver, self.size, self.back = sender, receiver, size, back
        self.left = size
        self.rate = 0.0
        self.depth = depth
        """What it keeps in the buffers of its links for as long as it lasts, in seconds; 0 if messages draw that."""


class _Timeline:
    """The bulk flows over time, as far as anybody has asked: pieces with an end and the flows on each link until then.

    Simulations may share it, so that it only grows.
    """

    __slots__ = (
        "_capacity", "_depths", "_flows", "_generator", "_instances", "_now", "_number", "_options", "counts", "ends",
        "waits",
    )  # fmt: skip

    def __init__(self, options: Shuffles, setting: Setting, capacity: float) -> None:
        self._options = options
        self._instances = len(setting.pools)
        self._capacity = capacity
        self._generator = setting.streams.generator("shuffles", setting.number)
        self._now = 0.0
        self._depths = None
        if options.backlog_per == "flow":
            self._depths = setting.streams.stream(options.backlog.sample, "backlog", setting.number)
        self._number = 0
        self._flows = [self._drawn() for _ in range(options.concurrent)]
        for flow in self._flows:  # flows are already under way at time 0
            flow.left *= self._generator.random()
        self.ends: list[float] = []
        """Seconds, increasing."""
        self.counts: list[NDArray[np.int16]] = []
        """For each piece the flows into and out of each instance, shape (instances, 2)."""
        self.waits: list[NDArray[np.float64]] = []
        """For each piece the seconds of lasting backlog there, shape (instances, 2); the same zeros if none lasts."""

    @property
    def nbytes(self) -> int:
        """Bytes, about: of each piece the counts, and what Python has around them."""
        return len(self.ends) * ((4 if self._depths is None else 20) * self._instances + 160)

    def pieces(self) -> Iterator[tuple[float, NDArray[np.int16], NDArray[np.float64]]]:
        """Yield each piece's end, counts and lasting backlog, from time 0 and without end."""
        for number in itertools.count():
            self.play_to(number)
            yield self.ends[number], self.counts[number], self.waits[number]

    def play_to(self, number: int) -> None:
        """Have piece `number` and all before it."""
        while len(self.ends) <= number:
            self._play()

    def _flow(self, sender: int, receiver: int, size: float, *, back: bool) -> _Flow:
        depth = 0.0 if self._depths is None else self._depths.at(self._number)
        self._number += 1
        return _Flow(sender, receiver, size, depth, back=back)

    def _drawn(self) -> _Flow:
        sender, other = self._generator.integers(self._instances), self._generator.integers(self._instances - 1)
        size = self._generator.uniform(*self._options.megabytes) * 1e6
        return self._flow(int(sender), int(other + (other >= sender)), float(size), back=False)

    def _play(self) -> None:
        """Advance to the end of the next flow."""
        flows = self._flows
        share_fairly(flows, self._capacity)
        seconds = min(flow.left / flow.rate for flow in flows)
        self._now += seconds
        counts = np.zeros((self._instances, 2), np.int16)
        waits = np.zeros((self._instances, 2)) if self._depths is not None or not self.waits else self.waits[0]
        for number, flow in enumerate(flows):
            counts[flow.receiver, IN] += 1
            counts[flow.sender, OUT] += 1
            if flow.depth:
                waits[flow.receiver, IN] += flow.depth
                waits[flow.sender, OUT] += flow.depth
            flow.left -= flow.rate * seconds
            if flow.left <= 1e-6 * flow.size:
                over = flow.back
                flows[number] = self._drawn() if over else self._flow(flow.receiver, flow.sender, flow.size, back=True)
        self.ends.append(self._now)
        self.counts.append(counts)
        self.waits.append(waits)


class _Traffic:
    """The bulk flows as one simulation meets them: it notes for each instance how far along the timeline it is."""

    __slots__ = ("_at", "timeline")

    def __init__(self, timeline: _Timeline, instances: int) -> None:
        timeline.play_to(0)
        self.timeline = timeline
        self._at = [0] * instances

    def link(self, instance: int, when: float, way: int) -> tuple[int, float]:
        """Return the number of bulk flows on the instance's link in a direction, and their lasting backlog."""
        ends, at = self.timeline.ends, self._at[instance]
        while ends[at] <= when:
            at += 1
            if at == len(ends):
                self.timeline.play_to(at)
        if way == IN:  # called with the current time, which never decreases
            self._at[instance] = at
        return self.timeline.counts[at].item(instance, way), self.timeline.waits[at].item(instance, way)


def share_fairly(flows: list[_Flow], capacity: float) -> None:
    """Set the flows' rates to the max-min fair ones by progressive filling."""
    open_flows = list(flows)
    room: dict[tuple[int, int], float] = {}
    for flow in flows:
        room[IN, flow.receiver] = room[OUT, flow.sender] = capacity
    while open_flows:
        users: dict[tuple[int, int], int] = {}
        for flow in open_flows:
            for link in ((IN, flow.receiver), (OUT, flow.sender)):
                users[link] = users.get(link, 0) + 1
        narrow = min(users, key=lambda link: (room[link] / users[link], link))
        rate = room[narrow] / users[narrow]
        for flow in [one for one in open_flows if narrow in ((IN, one.receiver), (OUT, one.sender))]:
            flow.rate = rate
            room[IN, flow.receiver] -= rate
            room[OUT, flow.sender] -= rate
            open_flows.remove(flow)
