"""The tail and the median of the latency against what was swept, or policy by policy where nothing was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from experiments.analysis.estimates import FigureMetric, unit
from experiments.figures import lines, style
from experiments.figures.base import Figure, FigureData, spread
from experiments.figures.frames import metrics, records
from experiments.figures.panels import Along, Panel, along, facets, panels

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.axes import Axes

    from experiments.analysis.reference import Reference
    from experiments.analysis.summary import Row
    from experiments.figures.style import Look


class LatencyVsSweep(Figure):
    """Tail and median latency against the swept value; without a sweep, one line per policy."""

    kind: Literal["latency_vs_sweep"] = "latency_vs_sweep"
    metric: FigureMetric = "p999"
    """The metric drawn solid, with its interval as a bar; goodput is drawn alone."""
    beside: FigureMetric | None = "p50"
    """The metric drawn dashed, with its interval as a band; none where it is null."""
    along: str | None = None
    """The swept key on the horizontal axis; the first numeric one where it is left out."""
    even: bool = False
    """Whether the swept values stand at even distances, where they crowd to scale, as 0.9, 0.99 and 0.999 do."""
    log: bool | None = None
    """Whether latency has a log axis; where it is left out, as the spread of the values asks for."""

    @property
    def metrics(self) -> list[FigureMetric]:
        """The metrics that are drawn, the solid one first: both in one unit."""
        if self.beside in (None, self.metric) or unit(self.metric) != unit(self.beside):
            return [self.metric]
        return [self.metric, self.beside]

    @property
    def _quantity(self) -> str:
        return "latency (ms)" if unit(self.metric) == "ms" else f"{style.METRICS[self.metric]} (queries/s)"

    def reason(self, material: FigureData) -> str | None:
        """Return why the figure cannot be drawn, or None."""
        if self.along is not None and material.rows and self.along not in material.swept:
            return f"'{self.along}' is not swept"
        if any(row.metrics[metric] is None for row in material.rows for metric in self.metrics):
            return "goodput was not measured: it needs 'goodput: 100ms', or a cluster.deadline"
        return super().reason(material)

    def _draw(self, material: FigureData) -> matplotlib.figure.Figure:
        key = along(material.rows, self.along, even=self.even)
        return self._rows(material) if key is None else self._lines(material, key)

    @property
    def _what(self) -> str:
        return "Latency" if unit(self.metric) == "ms" else "Goodput"

    def _lines(self, material: FigureData, key: Along) -> matplotlib.figure.Figure:
        every = panels(material.rows, apart_from=key.key)
        shown = [every[index] for index in spread(len(every))]
        looks = self.looks(material)
        frames = {
            metric: [
                frame.assign(x=frame[key.key].map(key.coordinate))
                for frame in (metrics(panel.rows, [metric]) for panel in shown)
            ]
            for metric in self.metrics
        }
        twins = {metric: lines.twins(frames[metric]) for metric in self.metrics}
        legend = lines.legend(looks, twins[self.metric])
        given = [one for one in material.references if one.key == key.key and one.metric in self.metrics]
        legend += [style.hollow(source) for source in dict.fromkeys(one.source for one in given)]
        if any(self._predicted(material, row, metric) for row in material.rows for metric in self.metrics):
            legend.append(style.theory())
        names = [style.METRICS[metric] for metric in self.metrics]
        figure, axes = facets(
            [panel.title for panel in shown],
            (6.8, 3.9),
            (3.6, 2.7),
            headline=f"{self._what} against {style.axis(key.key).split(' (')[0]}: {' and '.join(names)}",
            small_print=style.small_print(
                material.rows,
                f"{' solid, '.join(names)} dashed" if names[1:] else "",
                "dashes that coincide alternate" if names[1:] and twins[self.metrics[1]] else "",
                style.some(len(shown), len(every)),
            ),
            labels=(style.axis(key.key), self._quantity),
            legend=legend,
            page=self.page,
        )
        log = self._log(material.rows)
        for index, (panel, ax) in enumerate(zip(shown, axes, strict=True)):
            self._mark(ax, given, key, looks)
            for metric in reversed(self.metrics):
                lines.draw(ax, frames[metric][index], looks, twins[metric], thin=metric != self.metric)
            self._overlay(ax, material, panel, key)
            style.slo(ax, self.slo_ms if self._what == "Latency" else None)
            style.milliseconds(ax, "y", log)
            key.dress(ax)
            ax.grid(axis="x", visible=False)
        if not log:
            axes[0].set_ylim(bottom=0)
        return figure

    def _predicted(self, material: FigureData, row: Row, metric: FigureMetric) -> float | None:
        theory = material.predicted(row.policy, row.point) if unit(metric) == "ms" else None
        return None if theory is None else theory.metric(metric)

    def _overlay(self, ax: Axes, material: FigureData, panel: Panel, key: Along) -> None:
        """Draw what theory says of the panel's rows, where it says anything."""
        for policy in material.policies:
            rows = sorted((row for row in panel.rows if row.policy == policy), key=key.position)
            for metric in self.metrics:
                known = [(row, one) for row in rows if (one := self._predicted(material, row, metric)) is not None]
                if known:
                    ax.plot([key.position(row) for row, _ in known], [one for _, one in known], **style.thin())

    def _mark(self, ax: Axes, given: Sequence[Reference], key: Along, looks: dict[str, Look]) -> None:
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

        policies, looks = material.policies, self.looks(material)
        solid = {metric: style.SOFT if metric == self.metric else "white" for metric in self.metrics}
        marks = [
            Line2D([], [], color=style.SOFT, marker="o", linestyle="", label=style.METRICS[one], markerfacecolor=face)
            for one, face in solid.items()
        ]
        names = " and ".join(style.METRICS[metric] for metric in reversed(self.metrics))
        figure, (ax,) = style.sheet(
            1,
            1,
            (6.8, 0.75 + 0.42 * len(policies)),
            f"{self._what} by policy: {names}",
            style.small_print(material.rows),
            marks if len(marks) > 1 else (),
            self.page,
        )
        frame = metrics(material.rows, self.metrics)
        frame["y"] = frame["policy"].cat.codes
        for policy, part in frame.groupby("policy", observed=True):
            ax.plot(part["value"], part["y"], color=looks[str(policy)].color, linewidth=1, alpha=0.35, zorder=2)
            ax.hlines(part["y"], part["lo"], part["hi"], color=looks[str(policy)].color, linewidth=3, alpha=0.45)
        for one in records(frame):
            look, filled = looks[one["policy"]], one["metric"] == self.metric
            ax.plot(
                one["value"],
                one["y"],
                marker=look.marker,
                color=look.color,
                markerfacecolor=look.color if filled else "white",
                markersize=7 if filled else 5.5,
                zorder=4,
            )
            where: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "size": style.points(7.5)}
            ax.annotate(f"{one['value']:.3g}", (one["value"], one["y"]), (0, 6), **where)
        ax.set_yticks(range(len(policies)), [style.label(policy) for policy in policies])
        ax.tick_params(axis="y", labelsize=style.points(9), labelcolor=style.INK, length=0)
        ax.set_ylim(len(policies) - 0.5, -0.6)
        ax.spines["left"].set_visible(False)
        style.slo(ax, self.slo_ms if self._what == "Latency" else None, "x")
        log = self._log(material.rows)
        if not log:
            ax.set_xlim(left=0)
        style.milliseconds(ax, "x", log)
        ax.set(xlabel=self._quantity + (", log scale" if log else ""), ylabel="")
        ax.grid(axis="y", visible=False)
        return figure

    def _log(self, rows: Sequence[Row]) -> bool:
        if self.log is not None:
            return self.log
        return style.wants_log(one.value for row in rows for metric in self.metrics if (one := row.metrics[metric]))
