"""How right the answers were: available, degraded and overall."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from experiments.figures import lines, style
from experiments.figures.base import Figure, FigureData, spread
from experiments.figures.frames import inside, metrics, records
from experiments.figures.panels import Along, along, grid, panels, wrapped

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd
    from matplotlib.axes import Axes

    Sheet = tuple[matplotlib.figure.Figure, list[Axes]]

NAMES = {
    "accuracy_available": "available, $A_a$",
    "accuracy_degraded": "degraded, $A_d$",
    "accuracy_overall": "overall, $A_o$",
}

DEGRADED = "degraded: a reconstruction, a backup or a default answer"


class Accuracy(Figure):
    """Accuracy of available, of unavailable and of all predictions; bars, or lines against the swept value."""

    has_latency_axis: ClassVar[bool] = False

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
        frame = metrics(material.rows, list(NAMES))
        frame[["value", "lo", "hi"]] *= 100
        return self._bars(material, frame) if key is None else self._lines(material, frame, key)

    def _sheet(
        self, material: FigureData, height: float, headline: str, rows: int = 1, omitted: str = "", **more: Any
    ) -> Sheet:
        """Return a figure with three panels beside each other, or one where the page is narrow, `rows` times."""
        columns = 3 if grid(3, self.page) == (1, 3) else 1
        small = style.small_print(material.rows, DEGRADED, omitted)
        size = (2.9, height if columns == 3 else 0.7 * height)
        return style.sheet(rows * 3 // columns, columns, size, headline, small, page=self.page, sharey=True, **more)

    def _bars(self, material: FigureData, frame: pd.DataFrame) -> matplotlib.figure.Figure:
        import seaborn

        looks, policies = self.looks(material), material.policies
        figure, axes = self._sheet(
            material, 0.85 + 0.36 * len(policies), "Accuracy of the answers that clients received"
        )
        for (metric, name), ax in zip(NAMES.items(), axes, strict=True):
            part = frame[frame["metric"] == metric]
            seaborn.barplot(
                part,
                x="value",
                y="policy",
                order=policies,
                hue="policy",
                hue_order=policies,
                palette={policy: look.color for policy, look in looks.items()},
                saturation=1,
                errorbar=None,
                width=0.62,
                alpha=0.85,
                legend=False,
                ax=ax,
                zorder=2,
            )
            places = part["policy"].map(policies.index).astype(int)
            ax.hlines(places, part["lo"], part["hi"], color=style.INK, linewidth=1.3, zorder=3)
            for height, one in zip(places, records(part), strict=True):
                text = f"{one['value']:.1f} ±{max(one['hi'] - one['value'], one['value'] - one['lo']):.1f}"
                right = max(one["hi"], 100 * self.lowest) + 1.5 * (1 - self.lowest)
                ax.text(right, height, text, va="center", size=style.points(8))
            for height in set(range(len(policies))) - set(places):
                ax.text(100 * self.lowest, height, " none", va="center", size=style.points(8), color=style.SOFT)
            ax.set_title(name, color=style.INK)
            ax.set_xlim(100 * self.lowest, 100 + 34 * (1 - self.lowest))
            ax.set_xticks([tick for tick in (0, 25, 50, 75, 90, 95, 100) if self._ticked(tick)])
            ax.set_xlabel("accuracy (%)", loc="left")
            ax.set_ylabel("")
            ax.spines["bottom"].set_bounds(100 * self.lowest, 100)
            ax.grid(axis="y", visible=False)
            ax.spines["left"].set_visible(False)
            ax.tick_params(axis="y", length=0, labelsize=style.points(9), labelcolor=style.INK)
            ax.label_outer()
        axes[0].set_yticks(range(len(policies)), [style.label(policy) for policy in policies])
        axes[0].set_ylim(len(policies) - 0.5, -0.5)
        return figure

    def _ticked(self, tick: int) -> bool:
        return tick >= 100 * self.lowest and (self.lowest >= 0.5 or tick not in {90, 95})

    def _lines(self, material: FigureData, frame: pd.DataFrame, key: Along) -> matplotlib.figure.Figure:
        looks = self.looks(material)
        every = panels(material.rows, apart_from=key.key)
        groups = [every[index] for index in spread(len(every), 4)]
        frame["x"] = frame[key.key].map(key.coordinate)
        parts = [
            (frame[inside(frame, group.point) & (frame["metric"] == metric)], name, group.title)
            for group in groups
            for metric, name in NAMES.items()
        ]
        twins = lines.twins([part for part, *_ in parts])
        figure, axes = self._sheet(
            material,
            2.6,
            f"Accuracy against {style.axis(key.key).split(' (')[0]}",
            len(groups),
            style.some(len(groups), len(every)),
            legend=lines.legend(looks, twins),
            sharex=True,
        )
        for (part, name, title), ax in zip(parts, axes, strict=True):
            if len(part):
                lines.draw(ax, part, looks, twins)
            ax.set_title(wrapped(f"{name}; {title}" if title else name, ax), color=style.INK)
            key.dress(ax)
            ax.set(xlabel="", ylabel="")
            ax.grid(axis="x", visible=False)
            ax.label_outer()
        figure.supxlabel(style.axis(key.key))
        figure.supylabel("accuracy (%)")
        return figure
