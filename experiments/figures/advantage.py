"""How many times later a policy's answers are than those of another, against what was swept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from experiments.analysis.estimates import LatencyMetric
from experiments.analysis.statistics import Interval, student_t
from experiments.analysis.summary import point_key
from experiments.figures import style
from experiments.figures.base import Figure, FigureData, spread
from experiments.figures.panels import Along, Panel, along, grid, panels

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.axes import Axes
    from matplotlib.transforms import Transform

    from experiments.analysis.outcome import Outcome


class Advantage(Figure):
    """A latency metric of every policy over that of one policy, against the swept value; below 1 is earlier."""

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
        key = along(material.rows, self.along, even=self.even)
        assert key is not None
        base = self.against or material.policies[0]
        every = panels(material.rows, apart_from=key.key)
        shown = [every[index] for index in spread(len(every))]
        looks = {policy: look for policy, look in style.looks(material.policies).items() if policy != base}
        name = style.METRICS[self.metric]
        rows, columns = grid(len(shown))
        figure, axes = style.sheet(
            rows,
            columns,
            (6.8, 3.9) if len(shown) == 1 else (3.8, 3.0),
            f"{name} over that of {style.label(base)}, against {style.axis(key.key).split(' (')[0]}",
            style.small_print(material.rows, "paired by common random numbers", style.some(len(shown), len(every))),
            [style.handle(policy, look) for policy, look in looks.items()],
            sharex=True,
            sharey=True,
        )
        for panel, ax in zip(shown, axes, strict=False):
            ax.axhline(1, color=style.SOFT, linewidth=1, zorder=2)
            for index, (policy, look) in enumerate(looks.items()):
                self._line(ax, material, panel, key, policy, base, look, style.beside(ax, index, len(looks)))
            ax.autoscale_view()
            style.milliseconds(ax, "y", log=True)
            key.dress(ax)
            ax.set_title(panel.title)
            ax.grid(axis="x", visible=False)
        for index, ax in enumerate(axes):
            ax.set_visible(index < len(shown))
            if index % columns == 0:
                ax.set_ylabel(f"{name}, times that of {style.label(base)}")
            ax.label_outer()
            if len(shown) - columns <= index < len(shown):
                ax.tick_params(labelbottom=True)
                ax.set_xlabel(style.axis(key.key))
        return figure

    def _line(
        self,
        ax: Axes,
        material: FigureData,
        panel: Panel,
        key: Along,
        policy: str,
        base: str,
        look: style.Look,
        moved: Transform,
    ) -> None:
        rows = sorted((row for row in panel.rows if row.policy == policy), key=key.position)
        found = [
            (key.position(row), times(material.outcomes, policy, base, row.point_key, self.metric)) for row in rows
        ]
        known = [(x, one) for x, one in found if not math.isnan(one.value)]
        places = [x for x, _ in known]
        ax.plot(
            places,
            [one.value for _, one in known],
            color=look.color,
            marker=look.marker,
            markeredgecolor="white",
            markeredgewidth=0.6,
            zorder=4,
            transform=moved,
        )
        ends = [(x, y) for x, one in known for y in (one.lo, one.value, one.hi) if not math.isnan(y)]
        lows, highs = [one.lo for _, one in known], [one.hi for _, one in known]
        ax.vlines(places, lows, highs, color=look.color, linewidth=1.1, zorder=3, transform=moved)
        if ends:  # what is moved sideways does not count by itself when the axes' limits are chosen
            ax.update_datalim(ends)


def times(outcomes: Sequence[Outcome], policy: str, base: str, where: str, metric: str) -> Interval:
    """Return how many times that of `base` a policy's metric is at a sweep point (`where`: see `summary.point_key`).

    The geometric mean over the trials that both have, with Student's t interval of the logarithms, since a ratio and
    its inverse should say the same; without ends for a single trial, NaN where no trial has both.
    """
    both: dict[int, dict[str, float]] = {}
    for outcome in outcomes:
        if outcome.policy in (policy, base) and point_key(outcome.point) == where:
            both.setdefault(outcome.trial, {})[outcome.policy] = outcome.latency[metric]
    logs = [math.log(one[policy] / one[base]) for one in both.values() if len(one) == 2 and min(one.values()) > 0]
    found = student_t(logs)
    return Interval(math.exp(found.value), math.exp(found.lo), math.exp(found.hi))
