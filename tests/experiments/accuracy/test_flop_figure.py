"""The figure of A_d against the cost of training."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.accuracy import figures
from experiments.accuracy.options import Known
from experiments.accuracy.table import Line


def line(coding: str, recipe: str, seed: int, degraded: float, flop: float) -> Line:
    return Line(
        "digits", "mlp", "", "addition", 2, 1, recipe, seed, 1, "cpu", 0.95, degraded, degraded - 0.01, degraded + 0.01,
        0.1, 1.0, flop, 1, 0.9, 1.0, 1.0, "mlp on digits", coding, "",
    )  # fmt: skip


LINES = [
    line("sum", "long", 0, 0.9, 4e12),
    line("sum", "short", 0, 0.7, 1e12),
    line("sum", "short", 1, 0.8, 1e12),
    line("other", "short", 0, 0.85, 2e12),
    line("nothing trained", "", 0, 0.5, 0.0),
]


def test_a_codes_recipes_are_joined_from_the_cheapest_to_the_dearest_with_seeds_averaged(tmp_path: Path) -> None:
    figure = figures._flop(LINES, [Known(model="mlp on digits", coding="sum", degraded=0.88, source="paper")])
    (ax,) = figure.axes
    curves = {
        tuple(map(float, one.get_xdata())): list(one.get_ydata()) for one in ax.lines if one.get_marker() != "None"
    }
    assert curves[1e12, 4e12] == pytest.approx([75, 90])
    assert curves[(2e12,)] == pytest.approx([85])
    assert len(curves) == 2  # what nothing was trained for has no place on an axis of FLOP
    level = [one.get_ydata()[0] for one in ax.lines if one.get_marker() == "None"]
    assert level == pytest.approx([95, 88])
    assert ax.get_xscale() == "log"
    files = figures.draw(["flop"], LINES, [], tmp_path)
    assert {file.name for file in files} == {"flop.png", "flop.pdf"}
