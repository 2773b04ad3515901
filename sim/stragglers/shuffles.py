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

from collections import deque
from collections.abc import Iterator
from typing import Literal

from pydantic import Field, PositiveFloat, model_validator

from sim.distributions import Distribution
from sim.distributions.families import Exponential
from sim.stragglers.base import Effect, Setting, Straggler, Traffic
from sim.stragglers.timeline import SHORTEST
from sim.streams import Stream

IN, OUT = 0, 1

Link = tuple[int, float]
"""Flows in one direction of an instance's link, and the seconds of backlog that they keep there if that lasts."""


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
        traffic = _Traffic(self, setting, capacity=gbps * 1e9 / 8)

        latency = setting.network.latency  # of the link, not of its bandwidth: flows do not multiply it

        def lasting(instance: int, when: float, outbound: bool, seconds: float) -> float:
            flows, depth = traffic.link(instance, when, OUT if outbound else IN)
            return flows * max(0.0, seconds - latency) + depth

        if self.backlog_per == "flow":
            return Effect(delay=lasting, form=Traffic(traffic.pieces(), None, latency))

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

        return Effect(delay=delay, form=Traffic(traffic.pieces(), streams, latency))


class _Flow:
    """One bulk transfer; at its end the same amount is sent back, and then another pair is drawn."""

    __slots__ = ("back", "depth", "left", "rate", "receiver", "sender", "size")

    def __init__(self, sender: int, receiver: int, size: float, depth: float = 0.0, *, back: bool) -> None:
        self.sender, self.receiver, self.size, self.back = sender, receiver, size, back
        self.left = size
        self.rate = 0.0
        self.depth = depth
        """What it keeps in the buffers of its links for as long as it lasts, in seconds; 0 if messages draw that."""


class _Traffic:
    """The bulk flows over time, kept for each instance as pieces (end, (flows in, backlog), (flows out, backlog))."""

    __slots__ = ("_capacity", "_depths", "_flows", "_generator", "_instances", "_kept", "_now", "_number", "_options")

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
        self._kept: list[deque[tuple[float, Link, Link]]] = [deque() for _ in range(self._instances)]
        self._play()

    def link(self, instance: int, when: float, way: int) -> Link:
        """Return the number of bulk flows on the instance's link in a direction, and what they keep in its buffer."""
        kept = self._kept[instance]
        if way == IN:  # called with the current time, which never decreases
            while kept[0][0] <= when:
                if len(kept) == 1:
                    self._play()
                kept.popleft()
            return kept[0][1]
        number = 0
        while kept[number][0] <= when:
            number += 1
            if number == len(kept):
                self._play()
        return kept[number][2]

    def pieces(self) -> Iterator[tuple[float, list[tuple[Link, Link]]]]:
        """Yield (end, links in and out of each instance until then); for who wants them instead of `link`."""
        while True:
            yield self._kept[0][0][0], [kept.popleft()[1:] for kept in self._kept]
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
        into, out = [0] * self._instances, [0] * self._instances
        waits_in, waits_out = [0.0] * self._instances, [0.0] * self._instances
        for number, flow in enumerate(flows):
            into[flow.receiver] += 1
            out[flow.sender] += 1
            waits_in[flow.receiver] += flow.depth
            waits_out[flow.sender] += flow.depth
            flow.left -= flow.rate * seconds
            if flow.left <= 1e-6 * flow.size:
                over = flow.back
                flows[number] = self._drawn() if over else self._flow(flow.receiver, flow.sender, flow.size, back=True)
        for instance, kept in enumerate(self._kept):
            kept.append((self._now, (into[instance], waits_in[instance]), (out[instance], waits_out[instance])))


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
