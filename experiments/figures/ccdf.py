"""How many queries were slower than a given latency: the whole tail at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from experiments.analysis.quantiles import MS
from experiments.analysis.statistics import student_t
from experiments.analysis.summary import point_key
from experiments.figures import style
from experiments.figures.base import Figure, FigureData, spread
from experiments.figures.panels import Panel, grid, panels
from sim.distributions.base import Floats

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.axes import Axes

    from experiments.analysis.outcome import Outcome

PROBE = np.array([0.5])
"""A quantile that theory is asked for to see whether it says anything."""

SEEN = 5
"""The tail is drawn as far as this many queries of a trial lie beyond."""


class Ccdf(Figure):
    """Fraction of queries slower than a latency, on a log axis, averaged over the trials with a band."""

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
        looks = style.looks(material.policies)
        rows, columns = grid(len(shown))
        fewest = min(outcome.queries for outcome in material.outcomes)
        floor = min(max(SEEN / fewest, 1e-5), 0.1)
        legend = [style.handle(policy, look) for policy, look in looks.items()]
        if any(_predicted(material, policy, panel, PROBE) is not None for panel in shown for policy in looks):
            legend.append(style.theory())
        figure, axes = style.sheet(
            rows,
            columns,
            (6.8, 4.2) if len(shown) == 1 else (3.6, 2.8),
            "How many queries are slower: the tail of the latency",
            style.small_print(
                material.rows,
                style.some(len(shown), len(every)),
                intervals=any(row.trials > 1 for row in material.rows),
            ),
            legend,
            sharex=True,
            sharey=True,
        )
        for panel, ax in zip(shown, axes, strict=False):
            for policy, look in looks.items():
                trials = [
                    outcome
                    for outcome in material.outcomes
                    if outcome.policy == policy and point_key(outcome.point) == point_key(panel.point)
                ]
                if trials:
                    _curve(ax, trials, look, floor)
                beyond = np.logspace(0, math.log10(floor), 100)[1:]
                predicted = _predicted(material, policy, panel, 1 - beyond)
                if predicted is not None:
                    ax.plot(predicted, beyond, **style.thin())
            ax.set_title(panel.title)
        self._dress(axes, len(shown), columns, floor)
        if self.log:
            _begin(axes[0], material.outcomes)
        return figure

    def _dress(self, axes: Sequence[Axes], count: int, columns: int, floor: float) -> None:
        from matplotlib.ticker import FuncFormatter, LogLocator

        first = axes[0]
        first.set_yscale("log")
        first.set_ylim(floor, 1)
        first.yaxis.set_major_locator(LogLocator(10))
        first.yaxis.set_major_formatter(FuncFormatter(lambda part, _: f"{100 * part:g}%"))
        style.milliseconds(first, "x", self.log)
        for index, ax in enumerate(axes):
            ax.set_visible(index < count)
            for quantile in self.quantiles:
                if floor <= 1 - quantile < 1:
                    ax.axhline(1 - quantile, color=style.FAINT, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
                    name = f"p{100 * quantile:g}" if quantile != 0.5 else "median"
                    where = (0.012, 1 - quantile)
                    ax.text(*where, name, transform=ax.get_yaxis_transform(), size=7, color=style.SOFT, va="bottom")
            if index % columns == 0:
                ax.set_ylabel("share of queries slower")
            if index >= count - columns:
                ax.set_xlabel("latency (ms)")
                ax.tick_params(labelbottom=True)


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


def _curve(ax: Axes, trials: Sequence[Outcome], look: style.Look, floor: float) -> None:
    beyond = 1 - np.asarray(trials[0].quantiles["probabilities"])
    kept = beyond >= floor * 0.999
    seconds = np.asarray([trial.quantiles["seconds"] for trial in trials])[:, kept] * MS
    beyond = beyond[kept]
    centre = seconds.mean(axis=0)
    ax.plot(centre, beyond, color=look.color, linewidth=1.7, zorder=3)
    if len(trials) > 1:
        bands = [student_t(column.tolist()) for column in seconds.T]
        # On a log axis a band that reaches below zero would have no end.
        low = np.maximum([band.lo for band in bands], seconds.min(axis=0) / 2)
        ax.fill_betweenx(beyond, low, [band.hi for band in bands], color=look.color, alpha=0.16, linewidth=0, zorder=2)
    marks = [
        int(np.argmin(np.abs(np.log10(beyond) - power)))
        for power in (math.log10(0.5), -1, -2, -3)
        if 10**power >= floor
    ]
    ax.plot(
        centre[marks],
        beyond[marks],
        color=look.color,
        marker=look.marker,
        linestyle="",
        markersize=4.5,
        markeredgecolor="white",
        markeredgewidth=0.6,
        zorder=4,
    )
