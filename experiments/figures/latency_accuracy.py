"""The plane of tail latency against overall accuracy: what a policy's instances buy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from experiments.analysis.estimates import LatencyMetric
from experiments.figures import style
from experiments.figures.base import Figure, FigureData, spread
from experiments.figures.frames import metrics, records
from experiments.figures.labels import Label, put
from experiments.figures.panels import Panel, facets, panels

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd
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
        looks = self.looks(material)
        alone = len(shown) == 1
        costs = sorted({row.cost["instances"] for row in material.rows})
        tail = style.METRICS[self.metric]
        cost = f"every policy has {costs[0]:.4g} instances" if len(costs) == 1 else "the marks' areas: instances"
        area = AREA if alone else AREA / 2
        areas = {one: area * one / costs[-1] for one in costs}
        log = self._log(material.rows)
        figure, axes = facets(
            [panel.title for panel in shown],
            (6.8, 4.3),
            (3.6, 3.0),
            headline=f"{tail} latency against overall accuracy",
            small_print=style.small_print(material.rows, cost, style.some(len(shown), len(every))),
            labels=(f"{tail} latency (ms)" + (", log scale" if log else ""), "overall accuracy, $A_o$ (%)"),
            legend=[
                *([] if alone else (style.handle(policy, look) for policy, look in looks.items())),
                *_sizes(areas),
            ],
            page=self.page,
        )
        frames = [self._plane(panel) for panel in shown]
        for frame, ax in zip(frames, axes, strict=True):
            _marks(ax, frame, looks, areas)
        axes[0].margins(x=0.18, y=0.18)
        axes[0].autoscale_view()
        for ax in axes:
            style.slo(ax, self.slo_ms, "x")
        style.milliseconds(axes[0], "x", log)
        if not log:
            axes[0].set_xlim(left=max(axes[0].get_xlim()[0], 0))
        how: dict[str, Any] = {"va": "top", "size": style.points(8), "color": style.SOFT, "style": "italic"}
        axes[0].text(0.012, 0.985, "↖ better", transform=axes[0].transAxes, **how)
        if alone:
            named = [_label(one, looks[one["policy"]], areas[one["instances"]]) for one in records(frames[0])]
            put(figure, axes[0], named, style.points(8.5))
        return figure

    def _plane(self, panel: Panel) -> pd.DataFrame:
        """Return a row per policy: the latency's `value`, `lo` and `hi`, and those of the accuracy as y, y_lo, y_hi."""
        late = metrics(panel.rows, [self.metric])
        right = metrics(panel.rows, ["accuracy_overall"]).set_index("policy")[["value", "lo", "hi"]] * 100
        return late.join(right.set_axis(["y", "y_lo", "y_hi"], axis=1), on="policy", how="inner")

    def _log(self, rows: Sequence[Row]) -> bool:
        if self.log is not None:
            return self.log
        return style.wants_log((one.value for row in rows if (one := row.metrics[self.metric])), 12)


def _marks(ax: Axes, frame: pd.DataFrame, looks: dict[str, style.Look], areas: dict[float, float]) -> None:
    import seaborn

    labels = ax.get_xlabel(), ax.get_ylabel()
    seaborn.scatterplot(
        frame.assign(policy=frame["policy"].astype(str)),
        x="value",
        y="y",
        hue="policy",
        palette={policy: look.color for policy, look in looks.items()},
        style="policy",
        markers={policy: look.marker for policy, look in looks.items()},
        size="instances",
        sizes=areas,
        linewidth=0.8,
        legend=False,
        ax=ax,
        zorder=4,
    )
    colors = [looks[policy].color for policy in frame["policy"]]
    ax.hlines(frame["y"], frame["lo"], frame["hi"], color=colors, linewidth=1.1, alpha=0.75, zorder=3)
    ax.vlines(frame["value"], frame["y_lo"], frame["y_hi"], color=colors, linewidth=1.1, alpha=0.75, zorder=3)
    ax.set(xlabel=labels[0], ylabel=labels[1])


def _label(one: Any, look: style.Look, area: float) -> Label:
    """Return the name of the policy in a row of the plane."""
    ends = [
        (value if math.isnan(lo) else lo, value if math.isnan(hi) else hi)
        for value, lo, hi in ((one["value"], one["lo"], one["hi"]), (one["y"], one["y_lo"], one["y_hi"]))
    ]
    return Label(
        style.label(one["policy"]), one["value"], one["y"], math.sqrt(area) / 2, look.color, (ends[0], ends[1])
    )


def _sizes(areas: dict[float, float]) -> list[Artist]:
    """Return a legend of the marks' sizes for at most three of the costs, and none where all cost the same."""
    from matplotlib.lines import Line2D

    if len(areas) < 2:
        return []
    costs = [list(areas)[index] for index in spread(len(areas), 3)]
    how: dict[str, Any] = {"marker": "o", "linestyle": "", "color": style.FAINT}
    return [Line2D([], [], markersize=math.sqrt(areas[one]), label=f"{one:g} instances", **how) for one in costs]
