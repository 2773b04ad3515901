"""Draws the figures that an experiment names and saves them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.figures.accuracy import Accuracy
from experiments.figures.advantage import Advantage
from experiments.figures.base import Figure, FigureData
from experiments.figures.ccdf import Ccdf
from experiments.figures.frontier import Frontier
from experiments.figures.heatmap import Heatmap
from experiments.figures.latency_accuracy import LatencyAccuracy
from experiments.figures.latency_vs_cost import LatencyVsCost
from experiments.figures.latency_vs_sweep import LatencyVsSweep
from experiments.figures.over_time import OverTime
from experiments.figures.ranking import Ranking
from experiments.figures.timeline import Timeline
from sim.errors import ParmError

__all__ = ["EVERY", "Advantage", "Frontier", "LatencyVsCost", "OverTime", "Ranking", "draw_all", "stems"]

EVERY: tuple[Figure, ...] = (LatencyVsSweep(), Heatmap(), Ccdf(), Accuracy(), LatencyAccuracy(), Timeline())
"""All figures with their defaults, which an experiment gets that names none; `advantage`, `frontier`,
`latency_vs_cost`, `over_time` and `ranking` are drawn where they are named."""


def stems(figures: Sequence[Figure | str] | None) -> list[str]:
    """Return the file names, without endings and numbers, that `draw_all` may write."""
    return list(dict.fromkeys(figure.stem for figure in _all_of(figures)))


def draw_all(
    figures: Sequence[Figure | str] | None, material: FigureData, folder: Path, stem: str | None = None
) -> list[str]:
    """Draw `figures`, given as kinds or by bare name, into `folder`; all that apply for None.

    Returns a sentence for each figure that cannot be drawn, and the caption of each that has no title. A second figure
    of the same name gets a number. With `stem`, one of `stems`, only figures of that name are drawn.
    """
    from experiments.figures import style

    notes: list[str] = []
    taken: dict[str, int] = {}
    for figure in _all_of(figures):
        if stem not in (None, figure.stem):
            continue
        try:
            drawn = figure.draw(material)
        except ParmError as error:
            notes.append(f"no figure {figure.stem}: {error}")
            continue
        if drawn is None:
            if figures is not None:
                notes.append(f"no figure {figure.stem}: {figure.reason(material.of(figure.policies))}")
            continue
        taken[figure.stem] = taken.get(figure.stem, 0) + 1
        number = taken[figure.stem]
        name = figure.stem if number == 1 else f"{figure.stem}-{number}"
        style.save(drawn, folder, name, figure.formats)
        if not figure.title:
            notes.append(f"caption of {name}: {drawn.get_label()}")
    return notes


def _all_of(figures: Sequence[Figure | str] | None) -> list[Figure]:
    every = EVERY if figures is None else figures
    return [named if isinstance(named, Figure) else Figure.model_validate(named) for named in every]
