"""Lines that lie on each other stay visible, and intervals are the ones that were computed."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest

from experiments.figures import lines, style
from experiments.figures.accuracy import Accuracy
from experiments.figures.frames import metrics, quantiles
from experiments.figures.heatmap import Heatmap
from experiments.figures.latency_vs_sweep import LatencyVsSweep
from experiments.figures.ranking import Ranking
from tests.experiments.figures.material import SWEEP, material, texts


def frame(**values: list[float]) -> pd.DataFrame:
    rows = [
        {"policy": policy, "x": float(x), "value": value, "lo": value - 1, "hi": value + 1}
        for policy, line in values.items()
        for x, value in enumerate(line)
    ]
    return pd.DataFrame(rows)


def test_a_line_that_lies_on_another_is_dashed_and_named() -> None:
    one = frame(a=[10, 20, 300], b=[10.02, 20, 300], c=[11, 20, 300], d=[10, 20, 300])
    twins = lines.twins([one])
    assert twins == {"b": "a", "d": "a"}
    patterns = [lines.pattern(policy, twins) for policy in "abcd"]
    assert patterns[0] == patterns[2] == "-"
    assert patterns[1] != patterns[3]
    looks = style.looks("abcd")
    assert [str(entry.get_label()) for entry in lines.legend(looks, twins)] == [
        "a", "b (dashed: on a)", "c", "d (dashed: on a)",
    ]  # fmt: skip


@pytest.mark.parametrize("thin", [False, True])
def test_dashes_of_lines_on_each_other_never_cover_each_other(thin: bool) -> None:
    twins = {"b": "a", "c": "a"}
    seen = []
    for policy in "abc":
        pattern = lines.pattern(policy, twins, thin=thin)
        if pattern == "-":
            continue
        offset, (on, off) = pattern
        places = np.arange(0, 90, 0.1) + 1e-6
        seen.append((places + offset) % (on + off) < on)
    assert not np.any(np.sum(seen, axis=0) > 1)
    assert all(drawn.any() for drawn in seen)


def test_the_lines_and_bars_are_the_numbers_of_the_frame() -> None:
    one = frame(a=[10, 20, 30], b=[1, 2, 3])
    figure = matplotlib.figure.Figure()
    grid = figure.subplots(1, 1)
    lines.draw(grid, one, style.looks("ab"), {})
    assert [line.get_ydata().tolist() for line in grid.lines] == [[10, 20, 30], [1, 2, 3]]  # type: ignore[union-attr]
    bars = [segment[:, 1].tolist() for bar in grid.collections for segment in bar.get_segments()]  # type: ignore[attr-defined]
    assert bars == [[9, 11], [19, 21], [29, 31], [0, 2], [1, 3], [2, 4]]
    assert (grid.get_xlabel(), grid.get_ylabel()) == ("", "")


def test_frames_are_tidy() -> None:
    data = material(SWEEP)
    table = metrics(data.rows, ["p50", "p999"])
    assert len(table) == 2 * len(data.rows)
    assert list(table["policy"].cat.categories) == data.policies
    row = data.rows[1].metrics["p999"]
    assert row is not None
    found = table[(table["policy"] == data.rows[1].policy) & (table["metric"] == "p999")].iloc[0]
    assert (found["value"], found["lo"], found["hi"]) == (row.value, row.lo, row.hi)
    assert found["workload.arrivals.rate"] == 100
    tail = quantiles([one for one in data.outcomes if one.point == SWEEP[0]], floor=0.01)
    assert tail["slower"].min() == pytest.approx(0.01, rel=0.01)
    assert (tail["lo"] <= tail["value"]).all()


def test_a_heat_map_has_every_point_or_says_which_are_left_out() -> None:
    points = [point | {"k": k} for point in SWEEP for k in (2, 3, 4)]
    data = material(points)
    figure = Heatmap(slo="1s").draw(data)
    written = texts(figure)
    assert figure is not None
    assert sum(text.get_text().count("±") for ax in figure.axes for text in ax.texts) == len(data.rows)
    assert {text.get_weight() for ax in figure.axes for text in ax.texts} == {"bold"}
    assert "of 2" not in written
    many = material([point | {"c": c} for point in points for c in range(6)])
    assert "9 of 12 panels" in texts(Heatmap().draw(many))
    assert Heatmap().reason(material(SWEEP)) == "fewer than two keys are swept"
    assert Heatmap(down="x").reason(data) == "'x' is not swept"
    together = material([{"one": number, "two": 2 * number} for number in (1, 2)])
    assert Heatmap().reason(together) == "fewer than two keys are swept"


def test_a_ranking_has_every_number_and_marks_the_least_of_each_row() -> None:
    points = [point | {"k": k, "c": c} for point in SWEEP for k in (2, 3) for c in (1, 2)]
    data = material(points)
    figure = Ranking().draw(data)
    assert figure is not None
    shown = [text for ax in figure.axes for text in ax.texts if text.get_text()]
    numbers = {row.point_key + row.policy: row.metrics["p999"].value for row in data.rows if row.metrics["p999"]}
    assert sorted(float(text.get_text()) for text in shown) == pytest.approx(sorted(numbers.values()), rel=0.01)
    least = [
        min(number for key, number in numbers.items() if key.startswith(row.point_key))
        for row in data.rows
        if row.policy == data.policies[0]
    ]
    bold = [float(text.get_text()) for text in shown if text.get_weight() == "bold"]
    assert sorted(bold) == pytest.approx(sorted(least), rel=0.01)
    assert len([ax for ax in figure.axes if ax.get_visible() and ax.get_title(loc="left")]) == len(SWEEP)
    apart = Ranking(apart="k").draw(data)
    assert apart is not None
    assert {ax.get_title(loc="left") for ax in apart.axes} >= {"k = 2", "k = 3"}
    assert Ranking(apart="x").reason(data) == "'x' is not swept"
    alone = [row for row in data.rows if row.policy == data.policies[0]]
    assert Ranking().reason(dataclasses.replace(data, rows=alone)) == "there is one policy only"


def test_crowded_ticks_do_not_touch_and_every_point_is_drawn() -> None:
    points = [{"stickiness": at} for at in (0, 0.5, 0.9, 0.99, 0.999, 1)]
    figure = LatencyVsSweep(width="column").draw(material(points))
    assert figure is not None
    figure.draw_without_rendering()
    ax = figure.axes[0]
    assert all(len(line.get_xdata()) == 6 for line in ax.get_lines())  # type: ignore[arg-type]
    boxes = [tick.get_window_extent() for tick in ax.get_xticklabels()]
    assert len(boxes) >= 3
    assert not any(one.overlaps(two) for one, two in pairwise(boxes))


def test_bars_of_accuracy_lie_on_their_policys_row_and_end_at_its_number() -> None:
    data = material()
    figure = Accuracy().draw(data)
    assert figure is not None
    for ax, metric in zip(figure.axes, ("accuracy_available", "accuracy_degraded", "accuracy_overall"), strict=True):
        rows = [(index, one) for index, row in enumerate(data.rows) if (one := row.metrics[metric])]
        bars = [patch for patch in ax.patches if patch.get_width() > 0]  # type: ignore[attr-defined]
        found = sorted((bar.get_y() + bar.get_height() / 2, bar.get_width()) for bar in bars)  # type: ignore[attr-defined]
        assert found == [(pytest.approx(index), pytest.approx(100 * one.value)) for index, one in rows]
