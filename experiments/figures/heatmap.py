"""One metric over two swept keys: a heat map for each policy, on one scale of colours."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from experiments.analysis.estimates import LatencyMetric
from experiments.figures import style
from experiments.figures.base import Figure, FigureData, spread
from experiments.figures.frames import metrics, records
from experiments.figures.panels import Along, along, facets, panels, together

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd

CELL = (0.62, 0.42)
"""Width and height of a sweep point, in inches."""


class Heatmap(Figure):
    """A latency metric over two swept keys, a panel per policy; every number with its margin."""

    kind: Literal["heatmap"] = "heatmap"
    metric: LatencyMetric = "p999"
    """The latency metric that is shown."""
    along: str | None = None
    """The swept key on the horizontal axis; the first numeric one where it is left out."""
    down: str | None = None
    """The swept key on the vertical axis; the first other one where it is left out."""

    def reason(self, material: FigureData) -> str | None:
        """Return why the figure cannot be drawn, or None."""
        for key in (self.along, self.down):
            if key is not None and material.rows and key not in material.swept:
                return f"'{key}' is not swept"
        if material.rows and self._keys(material) is None:
            return "fewer than two keys are swept"
        return super().reason(material)

    def _keys(self, material: FigureData) -> tuple[Along, Along] | None:
        """Return the keys along x and y."""
        across = along(material.rows, self.along)
        if across is None:
            return None
        taken = together(material.rows, across.key)
        others = {key: list(dict.fromkeys(row.point[key] for row in material.rows)) for key in material.swept}
        found = [Along(key, at) for key, at in others.items() if key not in taken and len(at) > 1]
        found.sort(key=lambda one: one.key != self.down)
        return (across, found[0]) if found and self.down in (None, found[0].key) else None

    def _draw(self, material: FigureData) -> matplotlib.figure.Figure:
        import seaborn
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import LogNorm, Normalize

        keys = self._keys(material)
        assert keys is not None
        across, down = keys
        every = [
            (panel, policy)
            for panel in panels(material.rows, apart_from=(across.key, down.key))
            for policy in material.policies
        ]
        shown = [every[index] for index in spread(len(every))]
        frames = [
            metrics([row for row in panel.rows if row.policy == policy], [self.metric]) for panel, policy in shown
        ]
        numbers = [one["value"] for frame in frames for one in records(frame) if not math.isnan(one["value"])]
        scale = (LogNorm if style.wants_log(numbers, 10) else Normalize)(min(numbers), max(numbers))
        rows, columns = len(down.values), len(across.values)
        size = (0.5 + CELL[0] * columns, 0.5 + CELL[1] * rows)
        name = style.METRICS[self.metric]
        figure, axes = facets(
            [", ".join(filter(None, (style.label(policy), panel.title))) for panel, policy in shown],
            size,
            size,
            headline=f"{name} latency (ms) against {_words(across.key)} and {_words(down.key)}",
            small_print=style.small_print(
                material.rows,
                "" if self.slo_ms is None else f"bold: the interval is below the SLO of {self.slo_ms:g} ms",
                style.some(len(shown), len(every), "panels"),
            ),
            labels=(style.axis(across.key), style.axis(down.key)),
            page=self.page,
        )
        colors = seaborn.color_palette("crest", as_cmap=True)
        for frame, ax in zip(frames, axes, strict=True):
            labels = ax.get_xlabel(), ax.get_ylabel()
            table = frame.pivot(index=down.key, columns=across.key, values="value")
            table = table.reindex(index=down.values, columns=across.values)
            seaborn.heatmap(
                table.astype(float), norm=scale, cmap=colors, cbar=False, linewidths=0.6, linecolor="white", ax=ax
            )
            self._write(ax, frame, across, down, lambda value: sum(colors(scale(value))[:3]) < 1.6)
            names = [style.value(one) for one in across.values]
            turned = 90 if max(map(len, names)) * 0.065 * style.zoom() > style.inches(ax) / columns else 0
            ax.set_xticks([index + 0.5 for index in range(columns)], names, rotation=turned)
            ax.set_yticks([index + 0.5 for index in range(rows)], [style.value(one) for one in down.values], rotation=0)
            ax.set(xlabel=labels[0], ylabel=labels[1])
            ax.tick_params(length=0)
            ax.label_outer()
        bar = figure.colorbar(ScalarMappable(scale, colors), ax=axes, fraction=0.05, aspect=30, pad=0.02)
        bar.outline.set_visible(False)
        style.milliseconds(bar.ax, "y")
        bar.ax.minorticks_off()
        return figure

    def _write(self, ax: Any, frame: pd.DataFrame, across: Along, down: Along, dark: Any) -> None:
        """Write every number, and its margin below it where there is room."""
        width, height = ax.get_figure().get_size_inches()
        place = ax.get_subplotspec().get_gridspec()
        room = min(width / place.ncols / len(across.values) / 0.5, height / place.nrows / len(down.values) / 0.36)
        size = style.points(7.5) * min(1.0, room)
        for one in records(frame):
            margin = max(one["hi"] - one["value"], one["value"] - one["lo"])
            text = short(one["value"], 3) + ("" if math.isnan(margin) or room < 0.8 else f"\n±{short(margin, 2)}")
            met = self.slo_ms is not None and one["value"] < self.slo_ms and not one["hi"] >= self.slo_ms
            ax.text(
                across.values.index(one[across.key]) + 0.5,
                down.values.index(one[down.key]) + 0.5,
                text,
                ha="center",
                va="center",
                size=size,
                linespacing=1.0,
                weight="bold" if met else "normal",
                color="white" if dark(one["value"]) else style.INK,
            )


def short(number: float, digits: int) -> str:
    """Return a number to so many significant digits, without an exponent."""
    return f"{float(f'{number:.{digits}g}'):.10g}"


def _words(key: str) -> str:
    return style.axis(key).split(" (")[0]
