"""The pictures of `parm accuracy` show the numbers of its table."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from experiments.accuracy import figures
from experiments.accuracy.options import Known
from experiments.accuracy.table import Line
from experiments.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINE = Line(
    dataset="d", network="mlp", width="", code="addition", k=2, r=1, recipe="best", seed=0, epochs=5, device="cpu",
    available=0.9, degraded=0.8, degraded_lo=0.77, degraded_hi=0.83, default=0.1, train_seconds=1.0, train_flop=1e12,
    losses=1, agreement=0.85, encode_us=5.0, decode_us=6.0, model="mlp on d", coding="addition k=2", note="",
)  # fmt: skip
LINES = [
    LINE,
    replace(LINE, coding="the paper's example", degraded=0.3, degraded_lo=0.25, degraded_hi=0.35),
    replace(LINE, recipe="paper", degraded=0.6, degraded_lo=0.55, degraded_hi=0.65),
]
KNOWN = Known(model="mlp on d", coding="addition k=2", degraded=0.7, source="somebody")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    def draw(kind: str, lines: list[Line]) -> tuple[Figure, str]:
        kept: list[tuple[Figure, str]] = []
        monkeypatch.setattr(style, "save", lambda figure, _folder, stem: kept.append((figure, stem)) or [])
        figures.draw([kind], lines, [KNOWN], tmp_path)
        return kept[0]

    return draw


def points(axes: Any, marker: str) -> set[float]:
    return {round(float(line.get_xdata()[0]), 6) for line in axes.lines if line.get_marker() == marker}


def test_degraded_shows_every_line_of_the_table_and_what_others_measured(drawn: Any) -> None:
    figure, stem = drawn("degraded", LINES)
    (axes,) = figure.axes
    assert stem == "degraded"
    looks = figures._recipes(LINES)
    assert points(axes, looks["best"].marker) >= {80.0, 30.0}
    assert points(axes, looks["paper"].marker) == {60.0}
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "none"]
    assert [float(line.get_xdata()[0]) for line in hollow] == [70.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["addition k=2", "the paper's example"]
    upright = {round(float(line.get_xdata()[0]), 6) for line in axes.lines if len(line.get_xdata()) == 2}
    assert {90.0, 10.0} <= upright


def test_overall_mixes_available_and_degraded_by_the_fraction_unavailable(drawn: Any) -> None:
    figure, stem = drawn("overall", LINES)
    (axes,) = figure.axes
    assert stem == "overall"
    ends = {tuple(np.round(line.get_ydata(), 6).tolist()) for line in axes.lines}
    assert ends == {(90.0, 89.0), (90.0, 84.0), (90.0, 87.0), (90.0, 82.0)}  # the last one: the default answer


def test_several_seeds_give_one_mark_with_the_interval_over_them(drawn: Any) -> None:
    lines = [replace(LINE, seed=seed, degraded=value) for seed, value in enumerate((0.78, 0.8, 0.82))]
    figure, _ = drawn("degraded", lines)
    (axes,) = figure.axes
    assert points(axes, figures._recipes(lines)["best"].marker) == {70.0, 80.0}  # and the hollow one
    ((low, high),) = [line.get_xdata() for line in axes.lines if len(set(line.get_xdata())) == 2]
    assert (low, high) == pytest.approx((80 - 4.968, 80 + 4.968), abs=0.01)
    assert "95% intervals over 3 seeds" in [text.get_text() for text in figure.texts]


@pytest.mark.parametrize("recipes", [1, 2, 7])
def test_the_marks_of_a_code_stay_in_its_row_and_apart(recipes: int, drawn: Any) -> None:
    codings = ("addition k=2", "addition k=3", "addition k=4")
    lines = [replace(LINE, recipe=f"recipe {n}", coding=coding) for coding in codings for n in range(recipes)]
    figure, _ = drawn("degraded", lines)
    figure.canvas.draw()
    (axes,) = figure.axes
    marks = [line for line in axes.lines if line.get_marker() not in ("None", "") and line.get_markersize() == 5]
    heights = sorted(float(line.get_ydata()[0]) for line in marks)
    assert [round(height) for height in heights] == [row for row in range(3) for _ in range(recipes)]
    pixels = sorted(float(axes.transData.transform((0, height))[1]) for height in heights)
    assert min(np.diff(pixels), default=9.0) >= 5 * figure.dpi / 72, "no mark over another"


def test_a_long_name_of_a_model_is_wrapped_beside_its_neighbour(drawn: Any) -> None:
    names = ["ResNet-18 width 16 on CIFAR-10", "LeNet-5 on Fashion-MNIST", "d", "mlp on d"]
    figure, _ = drawn("degraded", [replace(LINE, model=name) for name in names])
    figure.canvas.draw()
    boxes = [axes.title.get_window_extent() for axes in figure.axes] + [
        axes._left_title.get_window_extent() for axes in figure.axes
    ]
    shown = [box for box in boxes if box.width > 1]
    assert len(shown) == 4
    assert all(one.x1 < other.x0 for one, other in itertools.pairwise(shown))
