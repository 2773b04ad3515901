"""Slowness of recorded machines that come with parm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from sim import recorded
from sim.recorded import Series
from sim.stragglers.base import Effect, Setting, Straggler
from sim.stragglers.timeline import SHORTEST, effect_of


class Recorded(Straggler):
    """Make each instance as slow as a recorded machine that is drawn for the trial; `parm list NAME` has its card."""

    kind: Literal["recorded"] = "recorded"
    name: Literal[
        "azure-vm-2024-matrix-math-long",
        "azure-vm-2024-matrix-math-short",
        "azure-vm-2024-memcpy-long",
        "azure-vm-2024-memcpy-short",
        "azure-vm-2024-redis-get-long",
        "azure-vm-2024-redis-get-short",
        "bytedance-gpu-2025-ar",
        "bytedance-gpu-2025-se",
    ]
    """The record. Machines are drawn without replacement, and again from all of them where the cluster has more
    instances. Of `azure-vm-2024-*-short` each has one factor for the whole trial. The others have a series: it starts
    at a random moment, keeps its order, and is repeated at its end; each row holds equally long."""
    speed: float = Field(default=1, gt=0)
    """2 plays a series twice as fast: each row holds half as long as in the record (for hours, in the long records)."""

    @field_validator("name", mode="before")
    @classmethod
    def _known(cls, name: object) -> str:
        return recorded.known(name, recorded.SLOWNESS)

    @model_validator(mode="after")
    def _plays(self) -> Self:
        holds = min(series.holds for series in self._machines)
        if self.speed != 1 and holds == math.inf:
            raise ValueError(
                f"speed: each machine of {self.name} has one factor for the whole trial, which has no speed"
            )
        if holds / self.speed < SHORTEST:
            raise ValueError(
                f"speed: must be at most {holds / SHORTEST:.3g}, so that each row holds for {SHORTEST:g} s or longer"
            )
        return self

    @property
    def _machines(self) -> tuple[Series, ...]:
        return recorded.slowness(self.name)

    def attach(self, setting: Setting) -> Effect:
        """Integrate the work over the drawn machines' series."""
        machines = self._machines
        pieces = []
        for instance in range(len(setting.pools)):
            turn, place = divmod(instance, len(machines))
            if place == 0:
                order = setting.streams.generator("recorded", setting.number, 0, turn).permutation(len(machines))
            generator = setting.streams.generator("recorded", setting.number, 1, instance)
            pieces.append(self._pieces(machines[order[place]], float(generator.random())))
        return effect_of(pieces)

    def _pieces(self, series: Series, share: float) -> Iterator[tuple[float, float]]:
        """Yield (end, factor) from time 0 on, which lies at this share of the series."""
        rows, holds = len(series.factors), series.holds / self.speed
        start = share * rows
        row = int(start)
        while True:
            yield (row + 1 - start) * holds, series.factors[row % rows]
            row += 1
