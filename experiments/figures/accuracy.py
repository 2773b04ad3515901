"""How right the answers were: available, degraded and overall."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from experiments.figures import style
from experiments.figures.base import Figure, FigureData, spread
from experiments.figures.panels import Along, along, panels

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.axes import Axes

    from experiments.analysis.summary import Row

NAMES = {
    "accuracy_available": "available, $A_a$",
    "accuracy_degraded": "degraded, $A_d$",
    "accuracy_overall": "overall, $A_o$",
}

DEGRADED = "degraded: a reconstruction, a backup or a default answer"


class Accuracy(Figure):
    """Accuracy of available, of unavailable and of all predictions; bars, or lines against the swept value."""

    kind: Literal["accuracy"] = "accuracy"
    lowest: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Where the accuracy axis of the bars begins, as a fraction."""
    along: str | None = None
    """The swept key on the horizontal axis; the first numeric one where it is left out."""

    def reason(self, material: FigureData) -> str | None:
        """Return why the figure cannot be drawn, or None."""
        if material.rows and all(row.metrics["accuracy_overall"] is None for row in material.rows):
            return "the experiment has no model"
        if self.along is not None and material.rows and self.along not in material.swept:
            return f"'{self.along}' is not swept"
        return super().reason(material)

    def _draw(self, material: FigureData) -> matplotlib.figure.Figure:
        key = along(material.rows, self.along)
        return self._bars(material) if key is None else self._lines(material, key)

    def _bars(self, material: FigureData) -> matplotlib.figure.Figure:
        looks = style.looks(material.policies)
        figure, axes = style.sheet(
            1,
            3,
            (2.9, 0.85 + 0.36 * len(material.rows)),
            "Accuracy of the answers that clients received",
            style.small_print(material.rows, DEGRADED),
            sharey=True,
        )
        for (metric, name), ax in zip(NAMES.items(), axes, strict=True):
            for height, row in enumerate(material.rows):
                self._bar(ax, height, row, metric, looks[row.policy])
            ax.set_title(name, color=style.INK)
            ax.set_xlim(100 * self.lowest, 100 + 34 * (1 - self.lowest))
            ax.set_xticks([tick for tick in (0, 25, 50, 75, 90, 95, 100) if self._ticked(tick)])
            ax.set_xlabel("accuracy (%)", loc="left")
            ax.spines["bottom"].set_bounds(100 * self.lowest, 100)
            ax.grid(axis="y", visible=False)
            ax.spines["left"].set_visible(False)
            ax.tick_params(axis="y", length=0)
        axes[0].set_yticks(range(len(material.rows)), [style.label(row.policy) for row in material.rows])
        axes[0].tick_params(axis="y", labelsize=9, labelcolor=style.INK)
        axes[0].set_ylim(len(material.rows) - 0.5, -0.5)
        return figure

    def _ticked(self, tick: int) -> bool:
        return tick >= 100 * self.lowest and (self.lowest >= 0.5 or tick not in {90, 95})

    def _bar(self, ax: Axes, height: int, row: Row, metric: str, look: style.Look) -> None:
        one = row.metrics[metric]
        if one is None:
            ax.text(100 * self.lowest, height, " none", va="center", size=8, color=style.SOFT)
            return
        left, shown = 100 * self.lowest, one.scaled(100)
        ax.barh(height, max(shown.value - left, 0), left=left, height=0.62, color=look.color, alpha=0.85, zorder=2)
        ax.plot([shown.lo, shown.hi], [height] * 2, color=style.INK, linewidth=1.3, zorder=3, solid_capstyle="butt")
        text = f"{shown.value:.1f} ±{shown.margin:.1f}"
        ax.text(max(shown.hi, left) + 1.5 * (1 - self.lowest), height, text, va="center", size=8)

    def _lines(self, material: FigureData, key: Along) -> matplotlib.figure.Figure:
        looks = style.looks(material.policies)
        every = panels(material.rows, apart_from=key.key)
        groups = [every[index] for index in spread(len(every), 4)]
        figure, axes = style.sheet(
            len(groups),
            3,
            (2.9, 2.6),
            f"Accuracy against {style.axis(key.key).split(' (')[0]}",
            style.small_print(material.rows, DEGRADED, style.some(len(groups), len(every))),
            [style.handle(policy, look) for policy, look in looks.items()],
            sharex=True,
            sharey=True,
        )
        for number, group in enumerate(groups):
            for (metric, name), ax in zip(NAMES.items(), axes[3 * number : 3 * number + 3], strict=True):
                for index, (policy, look) in enumerate(looks.items()):
                    moved = style.beside(ax, index, len(looks))
                    rows = [row for row in group.rows if row.policy == policy]
                    known = [(key.position(row), one.scaled(100)) for row in rows if (one := row.metrics[metric])]
                    places = [place for place, _ in known]
                    ax.plot(
                        places,
                        [one.value for _, one in known],
                        color=look.color,
                        marker=look.marker,
                        markeredgecolor="white",
                        markeredgewidth=0.6,
                        zorder=3,
                        transform=moved,
                    )
                    lows, highs = [one.lo for _, one in known], [one.hi for _, one in known]
                    ax.vlines(places, lows, highs, color=look.color, linewidth=1.1, transform=moved)
                    if known:  # what is moved sideways does not count by itself when the axes' limits are chosen
                        ax.update_datalim([*zip(places, lows, strict=True), *zip(places, highs, strict=True)])
                ax.set_title(name + (f"\n{group.title}" if group.title else ""), color=style.INK)
                key.dress(ax)
                ax.grid(axis="x", visible=False)
                ax.label_outer()
            axes[3 * number].set_ylabel("accuracy (%)")
        return figure
