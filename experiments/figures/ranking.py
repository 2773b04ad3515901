"""The policies side by side at every sweep point: who is best, and how many times later are the others?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from experiments.analysis.estimates import LatencyMetric
from experiments.figures import style
from experiments.figures.base import Figure, FigureData, spread
from experiments.figures.frames import metrics, records
from experiments.figures.heatmap import short
from experiments.figures.panels import facets, panels, together

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd

CELL = (0.62, 0.22)
"""Width and height of a number, in inches."""
LEAST = 5.0, 1.9
"""Least width and height of a single panel, in inches: room for the headline, and for the scale of colours."""
MOST_TIMES = 10.0
"""Policies later than the best by more than this factor have one colour."""


class Ranking(Figure):
    """A latency metric with a row per sweep point and a column per policy, coloured by how many times the best it is.

    Bold: the least of its row.
    """

    kind: Literal["ranking"] = "ranking"
    metric: LatencyMetric = "p999"
    """The latency metric that is shown."""
    apart: str | None = None
    """The swept key that has a panel for each of its values; the first where three or more keys are swept."""

    def reason(self, material: FigureData) -> str | None:
        """Return why the figure cannot be drawn, or None."""
        if self.apart is not None and material.rows and self.apart not in material.swept:
            return f"'{self.apart}' is not swept"
        if material.rows and len(material.policies) == 1:
            return "there is one policy only"
        return super().reason(material)

    def _draw(self, material: FigureData) -> matplotlib.figure.Figure:
        import seaborn
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import LogNorm

        keys, rows = list(material.swept), material.rows
        apart = self.apart or (keys[0] if len(keys) > 2 else None)
        inside = [key for key in keys if apart is None or key not in together(rows, apart)]
        every = panels(rows, apart_from=inside)
        shown = [every[index] for index in spread(len(every))]
        frames = [metrics(panel.rows, [self.metric]) for panel in shown]
        names = [style.label(policy) for policy in material.policies]
        for frame in frames:
            frame["row"] = [", ".join(style.value(one[key]) for key in inside) for one in records(frame)]
            frame["times"] = frame["value"] / frame.groupby("row", sort=False)["value"].transform("min")
        deep, wide = max(frame["row"].nunique() for frame in frames), len(names)
        most = max(float(frame["times"].max()) for frame in frames)
        end = min(max(most, 1.1), MOST_TIMES)
        scale = LogNorm(1.0, end)
        colors = seaborn.color_palette("rocket_r", as_cmap=True)
        margin = 0.085 * max(map(len, frames[0]["row"]), default=0)
        figure, axes = facets(
            [panel.title for panel in shown],
            (max(margin + 0.8 + CELL[0] * wide, LEAST[0]), max(1.0 + CELL[1] * deep, LEAST[1])),
            (margin / 2 + CELL[0] * wide, 1.0 + CELL[1] * deep),
            headline=f"{style.METRICS[self.metric]} (ms) of each policy at every sweep point",
            small_print=style.small_print(
                rows,
                "bold: the least of its row, within its interval or not",
                style.some(len(shown), len(every), "panels"),
            ),
            labels=("", ""),
            page=self.page,
            narrowest=CELL[0] * wide / 2,
        )
        for frame, ax in zip(frames, axes, strict=True):
            order = list(dict.fromkeys(frame["row"]))
            table = frame.pivot(index="row", columns="policy", values="times").reindex(order, columns=material.policies)
            seaborn.heatmap(
                table.astype(float), norm=scale, cmap=colors, cbar=False, linewidths=0.6, linecolor="white", ax=ax
            )
            self._write(ax, frame, order, material.policies, lambda times: sum(colors(scale(times))[:3]) < 1.6)
            ax.set_xticks([index + 0.5 for index in range(wide)], names, rotation=90)
            ax.set_yticks([index + 0.5 for index in range(len(order))], order, rotation=0)
            ax.set(xlabel="", ylabel="")
            ax.tick_params(length=0)
            ax.label_outer()
        bar = figure.colorbar(
            ScalarMappable(scale, colors),
            ax=axes,
            fraction=0.03,
            aspect=30,
            pad=0.02,
            extend="max" if most > MOST_TIMES else "neither",
        )
        bar.outline.set_visible(False)
        bar.set_label("times the least", size=style.points(8))
        ticks = [tick for tick in (1, 1.5, 2, 3, 5, 10) if tick <= end]
        if deep * len(shown) < 6:
            ticks = [ticks[0], ticks[-1]]
        bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
        bar.ax.minorticks_off()
        return figure

    def _write(self, ax: Any, frame: pd.DataFrame, order: list[str], policies: list[str], dark: Any) -> None:
        width, height = ax.get_figure().get_size_inches()
        place = ax.get_subplotspec().get_gridspec()
        room = min(width / place.ncols / len(policies) / 0.5, height / place.nrows / len(order) / 0.18)
        for one in records(frame):
            if math.isnan(one["value"]):
                continue
            ax.text(
                policies.index(one["policy"]) + 0.5,
                order.index(one["row"]) + 0.5,
                short(one["value"], 3),
                ha="center",
                va="center",
                size=style.points(7.5) * min(1.0, room),
                weight="bold" if one["times"] == 1 else "normal",
                color="white" if dark(one["times"]) else style.INK,
            )
