"""How many times later a policy's answers are than those of another, against what was swept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, ClassVar, Literal

from experiments.analysis.estimates import LatencyMetric, sample
from experiments.analysis.outcome import common
from experiments.analysis.statistics import Interval, sectioning
from experiments.analysis.summary import point_key
from experiments.figures import lines, style
from experiments.figures.base import Figure, FigureData, spread
from experiments.figures.panels import along, facets, panels

if TYPE_CHECKING:
    import matplotlib.figure

    from experiments.analysis.outcome import Outcome


class Advantage(Figure):
    """A latency metric of every policy over that of one policy, against the swept value; below 1 is earlier."""

    has_latency_axis: ClassVar[bool] = False

    kind: Literal["advantage"] = "advantage"
    metric: LatencyMetric = "p999"
    """The latency metric that is compared."""
    against: str | None = None
    """The policy with which the others are compared; the first where it is left out."""
    along: str | None = None
    """The swept key on the horizontal axis; the first numeric one where it is left out."""
    even: bool = False
    """Whether the swept values stand at even distances, where they crowd to scale, as 0.9, 0.99 and 0.999 do."""

    def reason(self, material: FigureData) -> str | None:
        """Return why the figure cannot be drawn, or None."""
        if not material.rows:
            return super().reason(material)
        if not material.swept:
            return "nothing is swept"
        if self.along is not None and self.along not in material.swept:
            return f"'{self.along}' is not swept"
        if self.against is not None and self.against not in material.policies:
            return f"there is no policy '{self.against}'"
        if len(material.policies) == 1:
            return "there is one policy only"
        return None if material.outcomes else "the cells' latencies were not kept"

    def _draw(self, material: FigureData) -> matplotlib.figure.Figure:
        import pandas as pd

        key = along(material.rows, self.along, even=self.even)
        assert key is not None
        base = self.against or material.policies[0]
        every = panels(material.rows, apart_from=key.key)
        shown = [every[index] for index in spread(len(every))]
        looks = {policy: look for policy, look in self.looks(material).items() if policy != base}
        frames = []
        for panel in shown:
            found = [
                (row, times(material.outcomes, row.policy, base, row.point_key, self.metric))
                for row in panel.rows
                if row.policy != base
            ]
            frames.append(
                pd.DataFrame([{"policy": row.policy, "x": key.position(row), **asdict(one)} for row, one in found])
            )
        twins = lines.twins(frames)
        name = style.METRICS[self.metric]
        figure, axes = facets(
            [panel.title for panel in shown],
            (6.8, 3.9),
            (3.8, 3.0),
            headline=f"{name} over that of {style.label(base)}, against {style.axis(key.key).split(' (')[0]}",
            small_print=style.small_print(
                material.rows, "paired by common random numbers", style.some(len(shown), len(every))
            ),
            labels=(style.axis(key.key), f"{name}, times that of {style.label(base)}"),
            legend=lines.legend(looks, twins),
            page=self.page,
        )
        for frame, ax in zip(frames, axes, strict=True):
            ax.axhline(1, color=style.SOFT, linewidth=1, zorder=2)
            lines.draw(ax, frame, looks, twins)
            style.milliseconds(ax, "y", log=True)
            key.dress(ax)
            ax.grid(axis="x", visible=False)
        return figure


def times(outcomes: Sequence[Outcome], policy: str, base: str, where: str, metric: str) -> Interval:
    """Return how many times that of `base` a policy's metric is at a sweep point (`where`: see `summary.point_key`).

    The ratio of the tables' values over the trials that both have. Its interval is Student's t of the ratio's
    logarithm, since a ratio and its inverse should say the same, over the first-order values of the trials; without
    ends for a single trial, NaN where no trial has both or a latency is 0.
    """
    there = [one for one in outcomes if point_key(one.point) == where]
    mine, theirs = ([one for one in there if one.policy == name] for name in (policy, base))
    if not common(mine, theirs)[0]:
        return Interval(math.nan, math.nan, math.nan)
    above, below = (sample(metric, trials) for trials in common(mine, theirs))
    top, bottom = above.interval.value, below.interval.value
    if not min(top, bottom) > 0:
        return Interval(math.nan, math.nan, math.nan)
    pairs = zip(above.deviations, below.deviations, strict=True) if len(common(mine, theirs)[0]) > 1 else ()
    found = sectioning(math.log(top / bottom), [math.log(top / bottom) + a / top - b / bottom for a, b in pairs])
    return Interval(math.exp(found.value), math.exp(found.lo), math.exp(found.hi))
