"""Latency against what it costs: whether one way of spending instances is better than another at the same cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from experiments.analysis import cost
from experiments.analysis.estimates import LatencyMetric
from experiments.analysis.frontier import CONDITIONS
from experiments.figures import style
from experiments.figures.base import Figure, FigureData, spread
from experiments.figures.panels import Panel, facets, panels

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from experiments.analysis.summary import Row
    from experiments.figures.style import Look

HOLLOW = ("P", "X", "*", "h", "<", ">")
"""Marks of the swept values that are not joined."""


class LatencyVsCost(Figure):
    """A latency against cost, such as the average number of instances: a line for each policy, with intervals."""

    kind: Literal["latency_vs_cost"] = "latency_vs_cost"
    metric: LatencyMetric = "p999"
    """The latency on the vertical axis."""
    joined: tuple[Any, ...] | None = None
    """Values of the swept keys under `cluster` and `policies` whose points a line joins; others are hollow marks, one
    shape for each value. All are joined where it is left out."""
    panels: int = 4
    """Most conditions shown (values of the swept `workload`, `stragglers` and `model` keys), evenly spread."""
    log: bool | None = None
    """Whether latency has a log axis; where it is left out, as the spread of the values asks for."""

    def _draw(self, material: FigureData) -> matplotlib.figure.Figure:
        chosen = [key for key in material.swept if key.partition(".")[0] not in CONDITIONS]
        every = panels(material.rows, apart_from=chosen) if chosen else panels(material.rows)
        shown = [every[index] for index in spread(len(every), self.panels)]
        looks = self.looks(material)
        others = list(dict.fromkeys(name for row in material.rows if (name := self._alone(row, chosen)) is not None))
        marks = {name: HOLLOW[index % len(HOLLOW)] for index, name in enumerate(others)}
        rule = cost.RULES[material.rows[0].equal_cost]
        unit = "instances on average" if rule.column == "instances" else rule.unit.removeprefix("in ")
        metric = style.METRICS[self.metric]
        figure, axes = facets(
            [panel.title for panel in shown],
            (6.8, 4.2),
            (4.6, 3.6),
            headline=f"{metric} latency against cost",
            small_print=style.small_print(material.rows, style.some(len(shown), len(every), "conditions")),
            labels=(unit, f"{metric} latency (ms)"),
            legend=[*(style.handle(policy, look) for policy, look in looks.items()), *_hollow(marks)],
            page=self.page,
        )
        for panel, ax in zip(shown, axes, strict=True):
            self._panel(ax, panel, looks, marks, chosen)
            style.slo(ax, self.slo_ms)
        known = [one.value for row in material.rows if (one := row.metrics[self.metric]) is not None]
        log = style.wants_log(known) if self.log is None else self.log
        style.milliseconds(axes[0], "y", log)
        axes[0].set_xlim(left=0)
        if not log:
            axes[0].set_ylim(bottom=0)
        return figure

    def _alone(self, row: Row, chosen: Sequence[str]) -> str | None:
        """Return the name of a row's swept values if it is not joined to others."""
        values = [row.point[key] for key in chosen]
        if self.joined is None or not values or all(value in self.joined for value in values):
            return None
        return ", ".join(style.value(value) for value in values if value not in self.joined)

    def _panel(
        self,
        ax: Axes,
        panel: Panel,
        looks: Mapping[str, Look],
        marks: Mapping[str, str],
        chosen: Sequence[str],
    ) -> None:
        for policy, look in looks.items():
            mine = [row for row in panel.rows if row.policy == policy and row.metrics[self.metric] is not None]
            line = sorted((self._place(row) for row in mine if self._alone(row, chosen) is None), key=lambda at: at[0])
            how: dict[str, Any] = {"color": look.color, "linewidth": 1.4, "markersize": 5}
            ax.plot([x for x, *_ in line], [y for _, y, *_ in line], marker=look.marker, **how, zorder=3)
            for row in mine:
                x, y, low, high = self._place(row)
                ax.vlines(x, low, high, color=look.color, linewidth=1.0, zorder=2)
                name = self._alone(row, chosen)
                if name is not None:
                    how = {"markeredgecolor": look.color, "markerfacecolor": "white", "markeredgewidth": 1.2}
                    ax.plot(x, y, marker=marks[name], markersize=8, linestyle="", **how, zorder=4)

    def _place(self, row: Row) -> tuple[float, float, float, float]:
        """Return a row's cost, and its latency with the ends of its interval."""
        one = row.metrics[self.metric]
        assert one is not None
        low, high = (one.value if math.isnan(end) else end for end in (one.lo, one.hi))
        return cost.of(row.cost, row.equal_cost) * cost.RULES[row.equal_cost].factor, one.value, low, high


def _hollow(marks: Mapping[str, str]) -> list[Artist]:
    from matplotlib.lines import Line2D

    how: dict[str, Any] = {"linestyle": "", "markerfacecolor": "white", "markeredgecolor": style.SOFT, "markersize": 8}
    return [Line2D([], [], marker=mark, label=name, **how) for name, mark in marks.items()]
