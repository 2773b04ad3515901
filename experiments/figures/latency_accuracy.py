"""The plane of tail latency against overall accuracy: what a policy's instances buy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from experiments.analysis.estimates import LatencyMetric
from experiments.figures import style
from experiments.figures.base import Figure, FigureData, spread
from experiments.figures.labels import Label, put
from experiments.figures.panels import grid, panels

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from experiments.analysis.summary import Row

AREA = 150.0
"""Area of the mark of the dearest policy, in square points; the others in proportion to their instances."""


class LatencyAccuracy(Figure):
    """Tail latency against overall accuracy, the cost in instances as the mark's size."""

    kind: Literal["latency_accuracy"] = "latency_accuracy"
    metric: LatencyMetric = "p999"
    """The latency on the horizontal axis."""
    log: bool | None = None
    """Whether latency has a log axis; where it is left out, as the spread of the values asks for."""
    panels: int = Field(default=6, ge=1, le=9)
    """Most sweep points shown, evenly spread over the sweep."""

    def reason(self, material: FigureData) -> str | None:
        """Return why the figure cannot be drawn, or None."""
        if material.rows and all(row.metrics["accuracy_overall"] is None for row in material.rows):
            return "the experiment has no model"
        return super().reason(material)

    def _draw(self, material: FigureData) -> matplotlib.figure.Figure:
        every = panels(material.rows)
        shown = [every[index] for index in spread(len(every), self.panels)]
        looks = style.looks(material.policies)
        rows, columns = grid(len(shown))
        alone = len(shown) == 1
        costs = sorted({row.cost["instances"] for row in material.rows})
        tail = style.METRICS[self.metric]
        cost = f"every policy has {costs[0]:g} instances" if len(costs) == 1 else "the marks' areas: instances"
        area = AREA if alone else AREA / 2
        figure, axes = style.sheet(
            rows,
            columns,
            (6.8, 4.3) if alone else (3.6, 3.0),
            f"{tail} latency against overall accuracy",
            style.small_print(material.rows, cost, style.some(len(shown), len(every))),
            [*([] if alone else (style.handle(policy, look) for policy, look in looks.items())), *_sizes(costs, area)],
            sharex=True,
            sharey=True,
        )
        for panel, ax in zip(shown, axes, strict=False):
            for row in panel.rows:
                self._mark(ax, row, looks[row.policy], area / costs[-1])
            ax.set_title(panel.title)
        log = self._log(material.rows)
        axes[0].margins(x=0.18, y=0.18)
        axes[0].autoscale_view()
        style.milliseconds(axes[0], "x", log)
        if not log:
            axes[0].set_xlim(left=max(axes[0].get_xlim()[0], 0))
        for index, ax in enumerate(axes):
            ax.set_visible(index < len(shown))
            if index % columns == 0:
                ax.set_ylabel("overall accuracy, $A_o$ (%)")
            if index >= len(shown) - columns:
                ax.set_xlabel(f"{tail} latency (ms)" + (", log scale" if log else ""))
                ax.tick_params(labelbottom=True)
        corner = axes[0].transAxes
        axes[0].text(0.012, 0.985, "↖ better", transform=corner, va="top", size=8, color=style.SOFT, style="italic")
        if alone:
            put(figure, axes[0], [one for row in shown[0].rows if (one := self._label(row, looks, area / costs[-1]))])
        return figure

    def _mark(self, ax: Axes, row: Row, look: style.Look, area: float) -> None:
        late, right = row.metrics[self.metric], row.metrics["accuracy_overall"]
        if late is None or right is None:
            return
        right = right.scaled(100)
        ax.plot([late.lo, late.hi], [right.value] * 2, color=look.color, linewidth=1.1, alpha=0.75, zorder=3)
        ax.plot([late.value] * 2, [right.lo, right.hi], color=look.color, linewidth=1.1, alpha=0.75, zorder=3)
        ax.scatter(
            late.value,
            right.value,
            s=area * row.cost["instances"],
            color=look.color,
            marker=look.marker,
            edgecolor="white",
            lw=0.8,
            zorder=4,
        )

    def _label(self, row: Row, looks: dict[str, style.Look], area: float) -> Label | None:
        late, right = row.metrics[self.metric], row.metrics["accuracy_overall"]
        if late is None or right is None:
            return None
        right = right.scaled(100)
        radius = math.sqrt(area * row.cost["instances"]) / 2
        ends = [
            (one.value if math.isnan(one.lo) else one.lo, one.value if math.isnan(one.hi) else one.hi)
            for one in (late, right)
        ]
        return Label(
            style.label(row.policy), late.value, right.value, radius, looks[row.policy].color, (ends[0], ends[1])
        )

    def _log(self, rows: Sequence[Row]) -> bool:
        if self.log is not None:
            return self.log
        return style.wants_log((one.value for row in rows if (one := row.metrics[self.metric])), 12)


def _sizes(costs: Sequence[float], area: float) -> list[Artist]:
    """Return a legend of the marks' sizes for at most three of the costs, and none where all cost the same."""
    from matplotlib.lines import Line2D

    if len(costs) < 2:
        return []
    sizes = {costs[index]: math.sqrt(area * costs[index] / costs[-1]) for index in spread(len(costs), 3)}
    return [
        Line2D([], [], marker="o", linestyle="", color=style.FAINT, markersize=size, label=f"{cost:g} instances")
        for cost, size in sizes.items()
    ]
