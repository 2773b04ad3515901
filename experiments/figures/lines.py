"""Lines with intervals, one for each policy: drawn by seaborn, the intervals are ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.figures.style import Look, handle, inches, label

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

    from experiments.figures.style import LineStyle

SAME = 0.005
"""Two lines are drawn as the same if they are nowhere farther apart than this share of their values, and than twice
this share of what all values span."""


def draw(
    axes: Axes, frame: pd.DataFrame, looks: Mapping[str, Look], twins: Mapping[str, str], *, thin: bool = False
) -> None:
    """Draw a line per policy through (`x`, `value`), and its intervals from `lo` to `hi`.

    Intervals are bars, those of different policies side by side; for a thin line, a band. `twins`: see `twins`.
    """
    from matplotlib.transforms import ScaledTranslation

    frame = frame.dropna(subset=["value"])
    found = curves(
        axes,
        frame,
        looks,
        x="x",
        y="value",
        style="policy",
        markers={policy: look.marker for policy, look in looks.items()},
        dashes=False,
        linewidth=1.1 if thin else 1.8,
        markersize=3 if thin else 5,
        markeredgewidth=0.6,
        zorder=3 if thin else 4,
    )
    places, room = list(looks), 72 * inches(axes)
    step = min(2.6, 0.7 * room / (frame["x"].nunique() * len(places)))
    axes.margins(x=max(0.05, (step * (len(places) - 1) / 2 + 4) / room))
    for policy, line in found.items():
        color = looks[policy].color
        line.set_linestyle(pattern(policy, twins, thin=thin))
        part = frame[frame["policy"] == policy].dropna(subset=["lo", "hi"]).sort_values("x")
        if thin:
            axes.fill_between(part["x"], part["lo"], part["hi"], color=color, alpha=0.13, linewidth=0, zorder=2)
            continue
        # Moved after it is drawn, so that the axes' limits are those of the data.
        aside = step * (places.index(policy) - (len(places) - 1) / 2) / 72
        figure = axes.get_figure(root=True)
        assert figure is not None
        moved = axes.transData + ScaledTranslation(aside, 0, figure.dpi_scale_trans)
        line.set_transform(moved)
        if len(part):
            bars = axes.vlines(part["x"], part["lo"], part["hi"], color=color, linewidth=1.1, zorder=3)
            bars.set_transform(moved)


def curves(axes: Axes, frame: pd.DataFrame, looks: Mapping[str, Look], **how: Any) -> dict[str, Line2D]:
    """Draw the columns `x` and `y` of a frame as they are, one line per policy; the axes keep their labels."""
    import seaborn

    names = [policy for policy in looks if (frame["policy"] == policy).any()]
    before, labels = len(axes.lines), (axes.get_xlabel(), axes.get_ylabel())
    seaborn.lineplot(
        frame.assign(policy=frame["policy"].astype(str)),
        hue="policy",
        hue_order=names,
        style_order=names,
        palette={policy: looks[policy].color for policy in names},
        estimator=None,
        errorbar=None,
        legend=False,
        ax=axes,
        **how,
    )
    axes.set(xlabel=labels[0], ylabel=labels[1])
    return dict(zip(names, axes.lines[before:], strict=True))


def twins(frames: Sequence[pd.DataFrame], along: str = "x") -> dict[str, str]:
    """Return the policies whose line lies on an earlier policy's in one of the panels, each with that policy."""
    found: dict[str, str] = {}
    ends = [(frame["value"].min(), frame["value"].max()) for frame in frames if len(frame)]
    span = max((high for _, high in ends), default=0.0) - min((low for low, _ in ends), default=0.0)
    for frame in frames:
        known: dict[str, Any] = {}
        for policy, part in frame.groupby("policy", observed=True, sort=False) if len(frame) else ():
            line = part.sort_values(along)["value"].to_numpy()
            for other, seen in known.items():
                near = len(line) == len(seen) and np.allclose(line, seen, rtol=SAME, atol=0)
                if near and np.allclose(line, seen, rtol=0, atol=2 * SAME * span):
                    found.setdefault(str(policy), other)
                    break
            known[str(policy)] = line
    return found


def pattern(policy: str, twins: Mapping[str, str], *, thin: bool = False) -> LineStyle:
    """Return a policy's dashes: of lines that lie on each other, each is visible in its own part of the way."""
    base = twins.get(policy, policy)
    group = [base, *(one for one, other in twins.items() if other == base)]
    index, count = group.index(policy), len(group)
    if index == 0 and not thin:
        return "-"
    if count == 1:
        return (0, (4, 2))
    step, drawn = (3.0, 2.0) if thin else (3.0, 3.0)
    return (step * (count - index), (drawn, step * count - drawn))


def legend(looks: Mapping[str, Look], twins: Mapping[str, str]) -> list[Artist]:
    """Return the policies' entries in a legend, which say whose line lies on whose."""
    return [
        handle(
            policy,
            look,
            f"(dashed: on {label(twins[policy])})" if policy in twins else "",
            pattern(policy, twins),
        )
        for policy, look in looks.items()
    ]
