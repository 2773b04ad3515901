"""Instances that crash, lose their running task, and are repaired."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, NonNegativeFloat

from sim.distributions import Distribution
from sim.distributions.families import Exponential
from sim.stragglers.base import Effect, Setting, Straggler
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
        """Return the outages of each instance."""
        return Effect(outages=CrashOutages(self, setting.streams, setting.number))


class CrashOutages:
    """Alternating up and down times of each instance, generated on demand."""

    __slots__ = ("_current", "_generators", "_number", "_options", "_streams", "detect", "retry")

    def __init__(self, options: Crashes, streams: Streams, number: int) -> None:
        self.detect = options.detect
        self.retry = options.retry
        self._options = options
        self._streams = streams
        self._number = number
        self._generators: dict[int, np.random.Generator] = {}
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
            self._generators[instance] = self._streams.generator("crashes", self._number, instance)
            current = (0.0, 0.0)
        while current[1] <= now:
            generator = self._generators[instance]
            crash = current[1] + generator.exponential(self._options.mean_up)
            current = (crash, crash + float(self._options.repair.sample(generator, 1)[0]))
        self._current[instance] = current
        return current
