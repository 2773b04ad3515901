"""Instances that crash, lose their running task, and are repaired."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, NonNegativeFloat

from sim.distributions import Distribution
from sim.distributions.families import Exponential
from sim.stragglers.base import Crashing, Effect, Setting, Straggler
from sim.stragglers.timeline import SHORTEST
from sim.streams import Streams


class Crashes(Straggler):
    """Crash instances: the running task is lost and retried, or its answer reconstructed if that is sooner."""

    kind: Literal["crashes"] = "crashes"
    mean_up: float = Field(ge=SHORTEST)
    """Mean time from a repair to the next crash, in seconds; exponential."""
    repair: Distribution = Exponential(mean=10.0)
    """Time from a crash to the end of the repair, in seconds."""
    detect: NonNegativeFloat = 0.1
    """Time until the frontend detects a lost task, in seconds; at the latest at the repair."""
    retry: bool = True
    """Whether lost tasks are sent again if still needed; otherwise the cluster needs a `deadline`."""

    def attach(self, setting: Setting) -> Effect:
        """Lose what runs when an instance crashes."""
        outages = CrashOutages(self, setting.streams, setting.number)
        of_instance = [outages.timeline(instance) for instance in range(len(setting.pools))]
        return Effect(outages=outages, form=Crashing(of_instance, self.detect, self.retry))


class CrashOutages:
    """Alternating up and down times of each instance, generated on demand."""

    __slots__ = ("_current", "_number", "_options", "_streams", "_timelines", "detect", "retry")

    def __init__(self, options: Crashes, streams: Streams, number: int) -> None:
        self.detect = options.detect
        self.retry = options.retry
        self._options = options
        self._streams = streams
        self._number = number
        self._timelines: dict[int, Iterator[tuple[float, float]]] = {}
        self._current: dict[int, tuple[float, float]] = {}

    def down_until(self, instance: int, now: float) -> float:
        """Return the end of the outage at time `now`, or `now` if there is none."""
        crash, repaired = self._outage(instance, now)
        return repaired if crash <= now else now

    def next_crash(self, instance: int, now: float) -> float:
        """Return the start of the first outage that ends after `now`."""
        return self._outage(instance, now)[0]

    def _outage(self, instance: int, now: float) -> tuple[float, float]:
        """Return (crash, repaired) of the first outage that ends after `now`."""
        current = self._current.get(instance)
        if current is None:
            self._timelines[instance] = self.timeline(instance)
            current = (0.0, 0.0)
        while current[1] <= now:
            current = next(self._timelines[instance])
        self._current[instance] = current
        return current

    def timeline(self, instance: int) -> Iterator[tuple[float, float]]:
        """Yield (crash, repaired) of the instance's outages, in seconds."""
        generator = self._streams.generator("crashes", self._number, instance)
        repaired = 0.0
        while True:
            crash = repaired + generator.exponential(self._options.mean_up)
            repaired = crash + float(self._options.repair.sample(generator, 1)[0])
            yield crash, repaired
