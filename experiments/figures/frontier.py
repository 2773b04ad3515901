"""Tail latency, overall accuracy and cost of every policy, and which of them no other dominates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveFloat

from experiments.analysis import cost
from experiments.analysis.estimates import LatencyMetric
from experiments.analysis.frontier import ACCURACY, Choice, describe, frontiers
from experiments.figures import style
from experiments.figures.base import Figure, FigureData, spread
from experiments.figures.labels import Label, put
from experiments.figures.panels import facets

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from experiments.analysis.summary import Row

AREA = 190.0
"""Area of the mark of the dearest choice, in square points; the others in proportion to their cost."""
PALE = 0.28
"""How much of its colour a dominated choice keeps."""
BUDGET = "cluster.extra"
DEPTH = 3.0
"""The accuracy axis reaches down this many times as far as the frontier does."""
SHALLOWEST = 1.2
"""But at least so many points."""


class Frontier(Figure):
    """Tail latency against overall accuracy, cost as the marks' size; names what no other policy dominates."""

    kind: Literal["frontier"] = "frontier"
    metric: LatencyMetric = "p999"
    """The latency on the horizontal axis, and the one that decides who dominates."""
    panels: int = Field(default=4, ge=1, le=9)
    """Most conditions shown (values of the swept `workload` and `stragglers` keys), evenly spread."""
    reach: PositiveFloat = Field(default=5.0, gt=1)
    """The latency axis ends at this many times the lowest latency; what is later is an arrow at its end."""

    def reason(self, material: FigureData) -> str | None:
        """Return why the figure cannot be drawn, or None."""
        if material.rows and not material.outcomes:
            return "the run's cells are not there"
        return super().reason(material)

    def _draw(self, material: FigureData) -> matplotlib.figure.Figure:
        every = frontiers(material.rows, material.outcomes, self.metric)
        shown = [every[index] for index in spread(len(every), self.panels)]
        kinds = style.looks(material.coloured_kinds or material.kinds, style.palette(self.page))
        looks = {kind: kinds[kind] for kind in material.kinds}
        plane = _Plane(self.metric, self.reach, [choice for group in shown for choice in group])
        tail = style.METRICS[self.metric]
        title = (
            f"{tail} latency, {'overall accuracy and ' if plane.answers else ''}cost: what no other policy dominates"
        )
        remarks = ["pale marks are dominated", "+6 is a budget of 6" if BUDGET in material.swept else ""]
        log = style.wants_log(plane.latencies, 3)
        figure, axes = facets(
            [", ".join(style.pair(key, at) for key, at in group[0].conditions.items()) for group in shown],
            (8.0, 5.0),
            (5.6, 4.6),
            headline=title,
            small_print=style.small_print(material.rows, *remarks, plane.beyond, style.some(len(shown), len(every))),
            labels=(
                f"{tail} latency (ms)" + (", log scale" if log else ""),
                "overall accuracy, $A_o$ (%)" if plane.answers else f"cost ({plane.unit})",
            ),
            legend=[*(style.handle(kind, look) for kind, look in looks.items()), *plane.sizes()],
            page=self.page,
        )
        for group, ax in zip(shown, axes, strict=True):
            for choice in sorted(group, key=lambda choice: -choice.spent):
                plane.mark(ax, choice, looks[choice.row.kind])
        axes[0].margins(x=0.1, y=0.1)
        axes[0].autoscale_view()
        for ax in axes:
            style.slo(ax, self.slo_ms, "x")
        style.milliseconds(axes[0], "x", log)
        y, text, align = (0.985, "↖ better", "top") if plane.answers else (0.02, "↙ better", "bottom")
        how: dict[str, Any] = {"va": align, "size": style.points(8), "color": style.SOFT, "style": "italic"}
        axes[0].text(0.012, y, text, transform=axes[0].transAxes, **how)
        for group, ax in zip(shown, axes, strict=True):
            best = [choice for choice in group if _best(choice) and plane.seen(choice)]
            policies = dict.fromkeys(choice.row.policy for choice in best)
            families = [[choice for choice in best if choice.row.policy == policy] for policy in policies]
            for family in families:
                plane.join(ax, family, looks[family[0].row.kind])
            put(figure, ax, [plane.label(family, looks[family[0].row.kind]) for family in families], style.points(8))
        return figure


class _Plane:
    """Where choices lie, and how large they are drawn."""

    def __init__(self, metric: str, reach: float, choices: Sequence[Choice]) -> None:
        self._metric = metric
        self.answers = any(choice.row.metrics[ACCURACY] is not None for choice in choices)
        rule = cost.RULES[choices[0].row.equal_cost]
        self.unit = rule.unit.removeprefix("in ")
        self._factor = rule.factor
        self._costs = sorted({choice.spent for choice in choices})
        self._area = AREA / self._costs[-1]
        every = [one.value for choice in choices if (one := choice.row.metrics[metric]) is not None]
        self._end = reach * min(every)
        self.latencies = [value for value in every if value <= self._end]
        """All that are on the axis, in ms."""
        right = [at.scaled(100).value for choice in choices if (at := choice.row.metrics[ACCURACY]) is not None]
        best = [at.scaled(100).value for choice in choices if _best(choice) and (at := choice.row.metrics[ACCURACY])]
        self._floor = max(best) - max(SHALLOWEST, DEPTH * (max(best) - min(best))) if best else -math.inf
        off = [f"{self._end:.3g} ms"] * (len(self.latencies) < len(every))
        off += [f"{self._floor:.3g}%"] * (min(right, default=math.inf) < self._floor)
        self.beyond = f"arrows: beyond {' and '.join(off)}" if off else ""
        """What to say of choices that are not in the plane."""

    def seen(self, choice: Choice) -> bool:
        """Say whether the choice lies in the plane."""
        (x, *_), (y, *_) = self._at(choice.row)
        return not math.isnan(x) and not math.isnan(y)

    def mark(self, ax: Axes, choice: Choice, look: style.Look) -> None:
        """Draw a choice, with the interval of its latency where it is on the frontier."""
        if not self.seen(choice):
            return
        (x, left, right), (y, *_) = self._at(choice.row)
        best = _best(choice)
        if best and x <= self._end:
            ax.plot([left, min(right, self._end)], [y, y], color=look.color, linewidth=1.0, alpha=0.7, zorder=4)
        ax.scatter(
            min(x, self._end),
            max(y, self._floor),
            s=self._area * choice.spent,
            color=look.color if best else style.pale(look.color, PALE),
            marker=r"$\rightarrow$" if x > self._end else r"$\downarrow$" if y < self._floor else look.marker,
            edgecolor="none" if x > self._end or y < self._floor else "white",
            lw=0.8 if best else 0.5,
            zorder=5 if best else 3,
        )

    def join(self, ax: Axes, family: Sequence[Choice], look: style.Look) -> None:
        """Draw a thin line through the choices that are one policy, from the cheapest to the dearest."""
        places = [self._at(choice.row) for choice in sorted(family, key=lambda choice: choice.spent)]
        xs = [min(x, self._end) for (x, *_), _ in places]
        ax.plot(xs, [y for _, (y, *_) in places], color=look.color, linewidth=0.8, alpha=0.5, zorder=3.5)

    def label(self, family: Sequence[Choice], look: style.Look) -> Label:
        """Return the name of a policy, with its options on the frontier, for the mark that is farthest to the left."""
        first = min(family, key=lambda choice: self._at(choice.row)[0][0])
        (x, left, _), (y, *_) = self._at(first.row)
        right = max(self._at(choice.row)[0][2] for choice in family)
        radius = math.sqrt(self._area * first.spent) / 2
        text = f"{style.label(first.row.policy)} {_options(family)}".strip()
        end = self._end
        return Label(text, min(x, end), y, radius, look.color, ((min(left, end), min(right, end)), (y, y)))

    def sizes(self) -> list[Artist]:
        """Return a legend of the marks' sizes, for at most three of the costs."""
        from matplotlib.lines import Line2D

        return [
            Line2D(
                [],
                [],
                marker="o",
                linestyle="",
                color=style.FAINT,
                markersize=math.sqrt(self._area * self._costs[index]),
                label=f"{self.unit} {self._costs[index] * self._factor:.4g}",
            )
            for index in spread(len(self._costs), 3)
        ]

    def _at(self, row: Row) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Return (value, low, high) along x and along y."""
        late, right = row.metrics[self._metric], row.metrics[ACCURACY]
        spent = cost.of(row.cost, row.equal_cost) * self._factor
        ends = []
        for interval, factor in ((late, 1.0), (right, 100.0) if self.answers else (None, 1.0)):
            if interval is None:
                value = math.nan if factor > 1 else spent
                ends.append((value, value, value))
                continue
            one = interval.scaled(factor)
            low, high = (one.value if math.isnan(end) else end for end in (one.lo, one.hi))
            ends.append((one.value, low, high))
        return ends[0], ends[1]


def _best(choice: Choice) -> bool:
    return not choice.dominated_by


def _options(family: Sequence[Choice]) -> str:
    """Return the options of a policy's choices, such as `+3 +6` for two budgets."""
    words = []
    for choice in family:
        others = {key: at for key, at in choice.options.items() if key != BUDGET}
        budget = f"+{choice.options[BUDGET]}" if BUDGET in choice.options else ""
        words.append(" ".join(filter(None, [describe(others), budget])))
    return (" " if all(word.startswith("+") for word in words) else " / ").join(words)
