"""The tail and the median of the latency against what was swept, or policy by policy where nothing was."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from experiments.analysis.estimates import LatencyMetric
from experiments.analysis.statistics import Interval
from experiments.figures import style
from experiments.figures.base import Figure, FigureData, spread
from experiments.figures.panels import Along, Panel, along, grid, panels

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.axes import Axes

    from experiments.analysis.reference import Reference
    from experiments.analysis.summary import Row

NOTHING = Interval(math.nan, math.nan, math.nan)


class LatencyVsSweep(Figure):
    """Tail and median latency against the swept value; without a sweep, one line per policy."""

    kind: Literal["latency_vs_sweep"] = "latency_vs_sweep"
    metric: LatencyMetric = "p999"
    """The metric drawn solid, with its interval as a bar."""
    beside: LatencyMetric | None = "p50"
    """The metric drawn dashed, with its interval as a band; none where it is null."""
    along: str | None = None
    """The swept key on the horizontal axis; the first numeric one where it is left out."""
    even: bool = False
    """Whether the swept values stand at even distances, where they crowd to scale, as 0.9, 0.99 and 0.999 do."""
    log: bool | None = None
    """Whether latency has a log axis; where it is left out, as the spread of the values asks for."""

    @property
    def metrics(self) -> list[LatencyMetric]:
        """The metrics that are drawn, the solid one first."""
        return [self.metric] if self.beside in (None, self.metric) else [self.metric, self.beside]

    def reason(self, material: FigureData) -> str | None:
        """Return why the figure cannot be drawn, or None."""
        if self.along is not None and material.rows and self.along not in material.swept:
            return f"'{self.along}' is not swept"
        return super().reason(material)

    def _draw(self, material: FigureData) -> matplotlib.figure.Figure:
        key = along(material.rows, self.along, even=self.even)
        return self._rows(material) if key is None else self._lines(material, key)

    def _lines(self, material: FigureData, key: Along) -> matplotlib.figure.Figure:
        every = panels(material.rows, apart_from=key.key)
        shown = [every[index] for index in spread(len(every))]
        looks = style.looks(material.policies)
        rows, columns = grid(len(shown))
        legend = [style.handle(policy, look) for policy, look in looks.items()]
        given = [one for one in material.references if one.key == key.key and one.metric in self.metrics]
        legend += [style.hollow(source) for source in dict.fromkeys(one.source for one in given)]
        if any(self._predicted(material, row, metric) for row in material.rows for metric in self.metrics):
            legend.append(style.theory())
        size = (6.8, 3.9) if len(shown) == 1 else (3.6, 2.7)
        names = " and ".join(style.METRICS[metric] for metric in self.metrics)
        lines = (
            f"{' solid, '.join(style.METRICS[metric] for metric in self.metrics)} dashed" if self.metrics[1:] else ""
        )
        figure, axes = style.sheet(
            rows,
            columns,
            size,
            f"Latency against {style.axis(key.key).split(' (')[0]}: {names}",
            style.small_print(material.rows, lines, style.some(len(shown), len(every))),
            legend,
            sharex=True,
            sharey=True,
        )
        log = self._log(material.rows)
        for panel, ax in zip(shown, axes, strict=False):
            self._mark(ax, given, key, looks)
            self._panel(ax, panel, key, looks, log)
            self._overlay(ax, material, panel, key)
        for index, ax in enumerate(axes):
            if index % columns == 0:
                ax.set_ylabel("latency (ms)")
            ax.label_outer()
            ax.set_visible(index < len(shown))
            if len(shown) - columns <= index < len(shown):
                ax.tick_params(labelbottom=True)
                ax.set_xlabel(style.axis(key.key))
        if not log:
            axes[0].set_ylim(bottom=0)
        return figure

    def _panel(self, ax: Axes, panel: Panel, key: Along, looks: dict[str, style.Look], log: bool) -> None:
        for index, (policy, look) in enumerate(looks.items()):
            rows = sorted((row for row in panel.rows if row.policy == policy), key=key.position)
            places = [key.position(row) for row in rows]
            for metric in self.metrics:
                solid = metric == self.metric
                known = [row.metrics[metric] or NOTHING for row in rows]
                lows, highs = [one.lo for one in known], [one.hi for one in known]
                moved = style.beside(ax, index, len(looks)) if solid else ax.transData
                ax.plot(
                    places,
                    [one.value for one in known],
                    color=look.color,
                    marker=look.marker,
                    markersize=5 if solid else 3,
                    linewidth=1.8 if solid else 1.1,
                    linestyle="-" if solid else (0, (4, 2)),
                    zorder=4 if solid else 3,
                    markeredgecolor="white",
                    markeredgewidth=0.6,
                    transform=moved,
                )
                ends = [*lows, *(one.value for one in known), *highs]
                seen = [(x, y) for x, y in zip(places * 3, ends, strict=True) if not log or y > 0]
                if seen:  # what is moved sideways does not count by itself when the axes' limits are chosen
                    ax.update_datalim(seen)
                if solid:
                    ax.vlines(places, lows, highs, color=look.color, linewidth=1.1, zorder=3, transform=moved)
                elif len(places) > 1:
                    ax.fill_between(places, lows, highs, color=look.color, alpha=0.13, linewidth=0, zorder=2)
        ax.autoscale_view()
        style.milliseconds(ax, "y", log)
        key.dress(ax)
        ax.set_title(panel.title)
        ax.grid(axis="x", visible=False)

    def _predicted(self, material: FigureData, row: Row, metric: LatencyMetric) -> float | None:
        theory = material.predicted(row.policy, row.point)
        return None if theory is None else theory.metric(metric)

    def _overlay(self, ax: Axes, material: FigureData, panel: Panel, key: Along) -> None:
        """Draw what theory says of the panel's rows, where it says anything."""
        for policy in material.policies:
            rows = sorted((row for row in panel.rows if row.policy == policy), key=key.position)
            for metric in self.metrics:
                known = [(row, one) for row in rows if (one := self._predicted(material, row, metric)) is not None]
                if known:
                    ax.plot([key.position(row) for row, _ in known], [one for _, one in known], **style.thin())

    def _mark(self, ax: Axes, given: Sequence[Reference], key: Along, looks: dict[str, style.Look]) -> None:
        """Draw what others measured as hollow marks."""
        for one in given:
            known = [(key.coordinate(at), number) for at in key.values if (number := one.at(at)) is not None]
            look = looks.get(one.policy)
            if look is None or not known:
                continue
            ax.plot(
                *zip(*known, strict=True),
                linestyle="",
                marker=look.marker,
                markersize=8 if one.metric == self.metric else 6,
                markerfacecolor="none",
                markeredgecolor=look.color,
                markeredgewidth=1.1,
                zorder=5,
            )

    def _rows(self, material: FigureData) -> matplotlib.figure.Figure:
        from matplotlib.lines import Line2D

        policies = material.policies
        looks = style.looks(policies)
        marks = [
            Line2D(
                [], [], color=style.SOFT, marker="o", linestyle="", label=style.METRICS[metric], markerfacecolor=face
            )
            for metric, face in zip(self.metrics, (style.SOFT, "white"), strict=False)
        ]
        names = " and ".join(style.METRICS[metric] for metric in reversed(self.metrics))
        figure, (ax,) = style.sheet(
            1,
            1,
            (6.8, 0.75 + 0.42 * len(policies)),
            f"Latency by policy: {names}",
            style.small_print(material.rows),
            marks if len(marks) > 1 else (),
        )
        for height, row in enumerate(material.rows):
            look = looks[row.policy]
            known = [(metric, row.metrics[metric]) for metric in self.metrics]
            ends = [one.value for _, one in known if one]
            ax.plot([min(ends), max(ends)], [height] * 2, color=look.color, linewidth=1, alpha=0.35, zorder=2)
            for metric, one in known:
                if one is None:
                    continue
                solid = metric == self.metric
                ax.plot(
                    [one.lo, one.hi], [height] * 2, color=look.color, linewidth=3, alpha=0.45, solid_capstyle="butt"
                )
                ax.plot(
                    one.value,
                    height,
                    marker=look.marker,
                    color=look.color,
                    markerfacecolor=look.color if solid else "white",
                    markersize=7 if solid else 5.5,
                    zorder=4,
                )
                ax.annotate(
                    f"{one.value:.3g}", (one.value, height), (0, 6), textcoords="offset points", ha="center", size=7.5
                )
        ax.set_yticks(range(len(policies)), [style.label(policy) for policy in policies])
        ax.tick_params(axis="y", labelsize=9, labelcolor=style.INK, length=0)
        ax.set_ylim(len(policies) - 0.5, -0.6)
        ax.spines["left"].set_visible(False)
        log = self._log(material.rows)
        if not log:
            ax.set_xlim(left=0)
        style.milliseconds(ax, "x", log)
        ax.set_xlabel("latency (ms)" + (", log scale" if log else ""))
        ax.grid(axis="y", visible=False)
        return figure

    def _log(self, rows: Sequence[Row]) -> bool:
        if self.log is not None:
            return self.log
        return style.wants_log(one.value for row in rows for metric in self.metrics if (one := row.metrics[metric]))
