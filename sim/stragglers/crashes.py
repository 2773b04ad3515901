"""Instances that crash, lose what they run, and come back."""

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
    """Crash instances; what runs is lost and retried (or reconstructed, if that is sooner)."""

    kind: Literal["crashes"] = "crashes"
    mean_up: float = Field(ge=SHORTEST)
    """Mean seconds from a repair to the next crash (exponential)."""
    repair: Distribution = Exponential(mean=10.0)
    """Seconds from a crash to the instance's return."""
    detect: NonNegativeFloat = 0.1
    """Seconds after which the frontend notices a loss; it notices at the repair at the latest."""
    retry: bool = True
    """Whether lost work that is still wanted is sent again; if not, the cluster needs a `deadline`."""

    def attach(self, setting: Setting) -> Effect:
        """Lose what runs when an instance crashes."""
        outages = CrashOutages(self, setting.streams, setting.number)
        of_instance = [outages.timeline(instance) for instance in range(len(setting.pools))]
        return Effect(outages=outages, form=Crashing(of_instance, self.detect, self.retry))


class CrashOutages:
    """Alternating up and down times of each instance, made up as far as asked."""

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
        """Return when the outage that covers `now` ends, or `now` itself where there is none."""
        crash, repaired = self._outage(instance, now)
        return repaired if crash <= now else now

    def next_crash(self, instance: int, now: float) -> float:
        """Return when the first outage that ends after `now` begins."""
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
