"""Figures of a study: accuracy of reconstructed predictions, overall accuracy, and accuracy against training's cost."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.accuracy.options import Known
from experiments.accuracy.table import Line
from experiments.analysis.statistics import student_t
from experiments.figures import style

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_UNAVAILABLE = 0.1
"""End of the axis of the unavailable fraction, as in the paper."""
JPEG = "JPEG copy of CIFAR-10"
INCHES_PER_LETTER = 0.085
"""Of a title, on average and generously."""


def draw(kinds: Sequence[str], lines: Sequence[Line], reference: Sequence[Known], folder: Path) -> list[Path]:
    """Draw the figures named, as PNG and PDF; returns the files."""
    written: list[Path] = []
    with style.applied():
        for kind in kinds:
            written += style.save(_FIGURES[kind](lines, reference), folder, kind)
    return written


def _subjects(lines: Sequence[Line]) -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(line.model, []).append(line)
    return found


def _recipes(lines: Sequence[Line]) -> dict[str, style.Look]:
    names = list(dict.fromkeys(line.recipe for line in lines))
    return {
        name: style.Look(style.PALETTE[1 + index % (len(style.PALETTE) - 1)], style.MARKERS[index % 9])
        for index, name in enumerate(names)
    }


def _small_print(lines: Sequence[Line]) -> str:
    seeds = len({line.seed for line in lines})
    parts = [
        f"95% intervals over {seeds} seeds" if seeds > 1 else "1 seed, 95% intervals over test images",
    ]
    if any("JPEG" in line.note for line in lines):
        parts.append(JPEG)
    return "; ".join(parts)


def _degraded(lines: Sequence[Line], reference: Sequence[Known]) -> Figure:
    from matplotlib.lines import Line2D

    subjects, looks = _subjects(lines), _recipes(lines)
    codings = list(dict.fromkeys(line.coding for line in lines))
    legend: list[Artist] = [
        Line2D([], [], color=look.color, marker=look.marker, linestyle="", label=name or "nothing trained")
        for name, look in looks.items()
    ]
    legend += [
        Line2D([], [], color=style.INK, linewidth=1.3, label="available, $A_a$"),
        Line2D([], [], color=style.SOFT, linewidth=1, linestyle=":", label="default answer"),
    ]
    known = [one for one in reference if one.model in subjects and one.coding in codings]
    legend += [style.hollow(source) for source in dict.fromkeys(one.source for one in known)]
    columns = min(4, len(subjects))
    rows = -(-len(subjects) // columns)
    width = max(2.2, 5.2 / columns)
    panel = width - (INCHES_PER_LETTER * max(map(len, codings)) + 0.3) / columns
    figure, axes = style.sheet(
        rows,
        columns,
        (width, 0.9 + max(0.3, 0.13 * len(looks)) * len(codings)),
        "Accuracy of reconstructed predictions, $A_d$",
        _small_print(lines),
        legend,
        sharey=True,
    )
    for ax in axes[len(subjects) :]:
        ax.set_visible(False)
    for ax, (subject, mine) in zip(axes, subjects.items(), strict=False):
        _marks(ax, mine, codings, looks)
        for one in known:
            if one.model == subject:
                height = codings.index(one.coding)
                ax.plot(100 * one.degraded, height, "o", markersize=8, markerfacecolor="none", color=style.SOFT)
        ax.set_title(_wrapped(subject, panel), color=style.INK)
        ax.set_xlabel("accuracy (%)", loc="left")
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0)
        ax.label_outer()
    axes[0].set_yticks(range(len(codings)), codings)
    axes[0].set_ylim(len(codings) - 0.5, -0.5)
    return figure


def _wrapped(title: str, inches: float) -> str:
    return "\n".join(textwrap.wrap(title, max(int(inches / INCHES_PER_LETTER), 12), break_on_hyphens=False))


def _marks(ax: Axes, lines: Sequence[Line], codings: Sequence[str], looks: dict[str, style.Look]) -> None:
    ax.axvline(100 * sum(line.available for line in lines) / len(lines), color=style.INK, linewidth=1.3, zorder=1)
    ax.axvline(100 * sum(line.default for line in lines) / len(lines), color=style.SOFT, linewidth=1, linestyle=":")
    for index, (recipe, look) in enumerate(looks.items()):
        moved = min(0.22, 0.8 / len(looks)) * (index - (len(looks) - 1) / 2)  # within the row, whatever their number
        for height, coding in enumerate(codings):
            found = [line for line in lines if line.recipe == recipe and line.coding == coding]
            if not found:
                continue
            value, low, high = _interval(found)
            ax.plot([100 * low, 100 * high], [height + moved] * 2, color=look.color, linewidth=1.2)
            ax.plot(100 * value, height + moved, color=look.color, marker=look.marker, markersize=5)


def _interval(lines: Sequence[Line]) -> tuple[float, float, float]:
    """Return mean and interval, over seeds if there are several, else over test images."""
    if len(lines) == 1:
        return lines[0].degraded, lines[0].degraded_lo, lines[0].degraded_hi
    found = student_t([line.degraded for line in lines])
    return found.value, found.lo, min(found.hi, 1.0)


def _overall(lines: Sequence[Line], reference: Sequence[Known]) -> Figure:
    del reference  # they are A_d
    from matplotlib.lines import Line2D

    subjects = _subjects(lines)
    series = list(dict.fromkeys((line.coding, line.recipe) for line in lines))
    looks = style.looks(f"{coding} {recipe}" for coding, recipe in [("", ""), *series])
    legend: list[Artist] = [
        Line2D([], [], color=looks[f"{coding} {recipe}"].color, label=f"{coding} ({recipe})" if recipe else coding)
        for coding, recipe in series
    ]
    legend.append(Line2D([], [], color=style.SOFT, linestyle=":", linewidth=1, label="default answer"))
    columns = min(3, len(subjects))
    figure, axes = style.sheet(
        -(-len(subjects) // columns),
        columns,
        (max(2.4, 5.0 / columns), 2.8),
        "Overall accuracy, $A_o = (1 - f) A_a + f A_d$",
        _small_print(lines),
        legend,
    )
    ends = (0.0, MOST_UNAVAILABLE)
    for ax in axes[len(subjects) :]:
        ax.set_visible(False)
    for ax, (subject, mine) in zip(axes, subjects.items(), strict=False):
        for coding, recipe in series:
            found = [line for line in mine if (line.coding, line.recipe) == (coding, recipe)]
            if not found:
                continue
            available = sum(line.available for line in found) / len(found)
            color = looks[f"{coding} {recipe}"].color
            value, low, high = ([_mix(available, one, f) for f in ends] for one in _interval(found))
            ax.plot(ends, value, color=color)
            ax.fill_between(ends, low, high, color=color, alpha=0.15, linewidth=0)
            if (coding, recipe) == series[0]:
                flat = sum(line.default for line in found) / len(found)
                ax.plot(ends, [_mix(available, flat, f) for f in ends], color=style.SOFT, linestyle=":", linewidth=1)
        ax.set_title(subject, color=style.INK)
        ax.set_xlabel("fraction unavailable, $f$", loc="left")
        ax.set_xlim(*ends)
    axes[0].set_ylabel("overall accuracy (%)")
    return figure


def _mix(available: float, other: float, unavailable: float) -> float:
    return 100 * ((1 - unavailable) * available + unavailable * other)


def _flop(lines: Sequence[Line], reference: Sequence[Known]) -> Figure:
    """A_d against FLOP, from the cheapest recipe of a code to its dearest; published values are horizontal lines."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    trained = [line for line in lines if line.train_flop > 0]
    subjects = _subjects(trained or lines)
    codings = list(dict.fromkeys(line.coding for line in trained))
    looks = style.looks(["", *codings])
    legend: list[Artist] = [
        Line2D([], [], color=looks[coding].color, marker=looks[coding].marker, label=coding) for coding in codings
    ]
    legend.append(Line2D([], [], color=style.INK, linewidth=1.3, label="available, $A_a$"))
    known = [one for one in reference if one.model in subjects and one.coding in codings]
    legend += [
        Line2D([], [], color=style.SOFT, linestyle="--", linewidth=1, label=source)
        for source in dict.fromkeys(one.source for one in known)
    ]
    columns = min(3, len(subjects))
    figure, axes = style.sheet(
        -(-len(subjects) // columns),
        columns,
        (max(2.4, 5.0 / columns), 2.8),
        "Accuracy of reconstructed predictions, $A_d$, against the cost of training",
        _small_print(lines),
        legend,
    )
    for ax in axes[len(subjects) :]:
        ax.set_visible(False)
    for ax, (subject, mine) in zip(axes, subjects.items(), strict=False):
        ax.axhline(100 * sum(line.available for line in mine) / len(mine), color=style.INK, linewidth=1.3, zorder=1)
        for coding in codings:
            _curve(ax, [line for line in mine if line.coding == coding], looks[coding])
        for one in known:
            if one.model == subject:
                ax.axhline(100 * one.degraded, color=style.SOFT, linestyle="--", linewidth=1, zorder=1)
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda flop, _: f"{flop:.0e}".replace("e+", "e")))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_title(subject, color=style.INK)
        ax.set_xlabel("FLOP of training", loc="left")
    axes[0].set_ylabel("accuracy (%)")
    return figure


def _curve(ax: Axes, lines: Sequence[Line], look: style.Look) -> None:
    recipes = dict.fromkeys(line.recipe for line in lines)
    points = [[line for line in lines if line.recipe == recipe] for recipe in recipes]
    points.sort(key=lambda found: found[0].train_flop)
    flop = [sum(line.train_flop for line in found) / len(found) for found in points]
    ends = [_interval(found) for found in points]
    value, low, high = ([100 * end[part] for end in ends] for part in range(3))
    ax.plot(flop, value, color=look.color, marker=look.marker, markersize=5)
    ax.vlines(flop, low, high, color=look.color, linewidth=1.2)


_FIGURES = {"degraded": _degraded, "overall": _overall, "flop": _flop}
"""By their names in YAML."""
