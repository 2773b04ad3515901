"""How many queries were slower than a given latency: the whole tail at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from experiments.analysis.quantiles import MS
from experiments.analysis.summary import point_key
from experiments.figures import lines, style
from experiments.figures.base import Figure, FigureData, spread
from experiments.figures.frames import quantiles
from experiments.figures.panels import Panel, facets, panels
from sim.distributions.base import Floats

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd
    from matplotlib.axes import Axes

    from experiments.analysis.outcome import Outcome

PROBE = np.array([0.5])
"""A quantile that theory is asked for to see whether it says anything."""

SEEN = 5
"""The tail is drawn as far as this many queries of a trial lie beyond."""


class Ccdf(Figure):
    """Fraction of queries slower than a latency, on a log axis, over all trials' queries, with a band."""

    kind: Literal["ccdf"] = "ccdf"
    log: bool = True
    """Whether the latency axis is logarithmic too."""
    quantiles: tuple[float, ...] = Field(default=(0.5, 0.99, 0.999))
    """Quantiles marked by thin lines."""
    panels: int = Field(default=6, ge=1, le=9)
    """Most sweep points shown, evenly spread over the sweep."""

    def reason(self, material: FigureData) -> str | None:
        """Return why the figure cannot be drawn, or None."""
        return super().reason(material) or (None if material.outcomes else "the cells' quantiles were not kept")

    def _draw(self, material: FigureData) -> matplotlib.figure.Figure:
        every = panels(material.rows)
        shown = [every[index] for index in spread(len(every), self.panels)]
        looks = self.looks(material)
        fewest = min(outcome.queries for outcome in material.outcomes)
        floor = min(max(SEEN / fewest, 1e-5), 0.1)
        frames = [
            quantiles([one for one in material.outcomes if point_key(one.point) == point_key(panel.point)], floor)
            for panel in shown
        ]
        twins = lines.twins(frames, "slower")
        legend = lines.legend(looks, twins)
        if any(_predicted(material, policy, panel, PROBE) is not None for panel in shown for policy in looks):
            legend.append(style.theory())
        figure, axes = facets(
            [panel.title for panel in shown],
            (6.8, 4.2),
            (3.6, 2.8),
            headline="How many queries are slower: the tail of the latency",
            small_print=style.small_print(
                material.rows,
                style.some(len(shown), len(every)),
                intervals=any(row.trials > 1 for row in material.rows),
            ),
            labels=("latency (ms)", "share of queries slower"),
            legend=legend,
            page=self.page,
        )
        for panel, frame, ax in zip(shown, frames, axes, strict=True):
            _curves(ax, frame, looks, twins)
            for policy in looks:
                beyond = np.logspace(0, math.log10(floor), 100)[1:]
                predicted = _predicted(material, policy, panel, 1 - beyond)
                if predicted is not None:
                    ax.plot(predicted, beyond, **style.thin())
            style.slo(ax, self.slo_ms, "x")
        self._dress(axes, floor)
        if self.log:
            _begin(axes[0], material.outcomes)
        return figure

    def _dress(self, axes: Sequence[Axes], floor: float) -> None:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

        first = axes[0]
        first.set_yscale("log")
        first.set_ylim(floor, 1)
        first.yaxis.set_major_locator(LogLocator(10))
        first.yaxis.set_minor_locator(NullLocator())
        first.yaxis.set_major_formatter(FuncFormatter(lambda part, _: f"{100 * part:g}%"))
        style.milliseconds(first, "x", self.log)
        for ax in axes:
            for quantile in self.quantiles:
                if floor <= 1 - quantile < 1:
                    ax.axhline(1 - quantile, color=style.FAINT, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
                    name = f"p{100 * quantile:g}" if quantile != 0.5 else "median"
                    how: dict[str, Any] = {"size": style.points(7), "color": style.SOFT, "va": "bottom"}
                    ax.text(0.012, 1 - quantile, name, transform=ax.get_yaxis_transform(), **how)


def _predicted(material: FigureData, policy: str, panel: Panel, p: Floats) -> Floats | None:
    """Return the quantiles that theory gives, in ms, or None."""
    theory = material.predicted(policy, panel.point)
    return None if theory is None else theory.quantiles(p)


def _begin(ax: Axes, outcomes: Sequence[Outcome]) -> None:
    """Let a log axis begin left of 95% of all queries, since a CCDF says nothing about the fastest."""
    quickest = []
    for outcome in outcomes:
        index = int(np.searchsorted(outcome.quantiles["probabilities"], 0.05))
        quickest.append(outcome.quantiles["seconds"][index] * MS)
    ax.set_xlim(left=max(0.8 * min(quickest), 1e-3))
    style.milliseconds(ax, "x", log=True)


def _curves(ax: Axes, frame: pd.DataFrame, looks: dict[str, style.Look], twins: dict[str, str]) -> None:
    """Draw every policy's curve with its band, and its marker at the median and at each power of ten."""
    curves = lines.curves(ax, frame, looks, x="value", y="slower", orient="y", linewidth=1.7, zorder=3)
    floor = math.log10(frame["slower"].min()) - 1e-9
    for policy, line in curves.items():
        look, part = looks[policy], frame[frame["policy"] == policy]
        line.set_linestyle(lines.pattern(policy, twins))
        # On a log axis a band that reaches below zero would have no end.
        low = np.maximum(part["lo"], part["value"] / 2)
        ax.fill_betweenx(part["slower"], low, part["hi"], color=look.color, alpha=0.16, linewidth=0, zorder=2)
        powers = np.log10(part["slower"].to_numpy())
        marks = [int(np.argmin(np.abs(powers - power))) for power in (math.log10(0.5), -1, -2, -3) if power >= floor]
        how: dict[str, Any] = {
            "linestyle": "",
            "markersize": 4.5,
            "markeredgecolor": "white",
            "markeredgewidth": 0.6,
            "zorder": 4,
        }
        ax.plot(part["value"].iloc[marks], part["slower"].iloc[marks], color=look.color, marker=look.marker, **how)
