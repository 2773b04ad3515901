"""What every figure's options do, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.text
import pytest
from matplotlib.figure import Figure as Drawn

from experiments.config import loader
from experiments.figures import style
from experiments.figures.accuracy import Accuracy
from experiments.figures.advantage import Advantage
from experiments.figures.base import Figure
from experiments.figures.ccdf import Ccdf
from experiments.figures.drawing import draw_all
from experiments.figures.heatmap import Heatmap
from experiments.figures.latency_accuracy import LatencyAccuracy
from experiments.figures.latency_vs_sweep import LatencyVsSweep
from experiments.figures.ranking import Ranking
from sim.errors import ParmError
from tests.experiments.figures.material import SWEEP, material, texts

TWO_KEYS = [point | {"cluster.queue": queue} for point in SWEEP for queue in ("single_queue", "random")]
KINDS: tuple[type[Figure], ...] = (LatencyVsSweep, Heatmap, Ccdf, Accuracy, LatencyAccuracy, Advantage, Ranking)
YAML = """\
name: options
workload: {arrivals: {kind: poisson, rate: 100}, queries: 2000}
cluster: {instances: 4, extra: 2, service: {kind: exponential, mean: 0.02}}
policies: [none, equal_resources]
figures:
  - kind: KIND
    OPTION
"""


def drawn(figure: Figure, points: Any = TWO_KEYS) -> Drawn:
    found = figure.draw(material(points))
    assert found is not None
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("width", "inches"), [("column", 3.35), ("text", 5.5), ("full", 7.0)])
def test_a_figure_is_as_wide_as_asked_and_no_text_leaves_it_or_meets_another_title(
    kind: type[Figure], width: str, inches: float
) -> None:
    figure = drawn(kind.model_validate({"kind": kind.name_in_yaml(), "width": width}))
    assert figure.get_figwidth() == inches
    figure.draw_without_rendering()
    page = figure.bbox.padded(1)
    shown = [ax for ax in figure.axes if ax.get_visible()]
    ticks = {tick for ax in figure.axes for tick in (*ax.get_xticklabels(), *ax.get_yticklabels())}
    for text in set(figure.findobj(matplotlib.text.Text)) - ticks:
        box = text.get_window_extent()
        assert not text.get_text().strip() or (page.x0 <= box.x0 and box.x1 <= page.x1), text.get_text()
    titles = [ax._left_title.get_window_extent() for ax in shown]  # type: ignore[attr-defined]
    assert not any(one.overlaps(two) for i, one in enumerate(titles) for two in titles[:i] if two.width)


def test_size_and_fonts() -> None:
    figure = drawn(Ccdf(size=(6, 5), font="serif", font_size=12))
    assert tuple(figure.get_size_inches()) == (6, 5)
    label = next(text for text in figure.findobj(matplotlib.text.Text) if text.get_text() == "latency (ms)")
    assert (label.get_fontsize(), label.get_fontfamily()) == (12, ["serif"])
    with pytest.raises(ParmError, match="too low for its panels"):
        Ccdf(size=(6, 1)).draw(material(TWO_KEYS))
    with pytest.raises(ParmError, match="'Nowhere Sans' is not installed"):
        Ccdf(font="Nowhere Sans").draw(material())


def test_formats_and_a_caption_in_place_of_a_title(tmp_path: Path) -> None:
    notes = draw_all([Ccdf(formats=("svg",), title=False), Ccdf(name="no", size=(3, 1))], material(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["ccdf.svg"]
    assert notes[0] == (
        "caption of ccdf: How many queries are slower: the tail of the latency. 3 trials, 20,000 queries each; "
        "95% intervals"
    )
    assert notes[1].startswith("no figure no: 3 x 1 inches is too low")
    assert "How many queries" not in texts(Ccdf(title=False).draw(material()))
    again = tmp_path / "again"
    draw_all([Ccdf(formats=("svg",), title=False)], material(), again)
    assert (again / "ccdf.svg").read_bytes() == (tmp_path / "ccdf.svg").read_bytes()


def test_a_style_sheet_is_laid_over_the_houses_style(tmp_path: Path) -> None:
    sheet = tmp_path / "mine.mplstyle"
    sheet.write_text(
        "# mine\nlines.linewidth: 3  # thick\naxes.prop_cycle: cycler('color', ['#111111', '#222222'])\nfont.size: 6\n"
    )
    figure = drawn(LatencyAccuracy(style=sheet), ({},))
    assert next(t for t in figure.findobj(matplotlib.text.Text) if "overall accuracy, " in t.get_text()).get_size() == 6
    colors = {line.get_color() for line in drawn(Ccdf(style=sheet)).axes[0].get_lines()}
    assert {"#111111", "#222222"} <= colors
    sheet.write_text("axes.gird: true\n")
    with pytest.raises(ParmError, match=r"mine\.mplstyle:1: 'axes.gird' is not a setting"):
        style.read_sheet(sheet)


def test_chosen_policies_are_drawn_in_their_order_and_keep_their_colours() -> None:
    figure = drawn(LatencyVsSweep(policies=("coded_k2",)), SWEEP)
    assert "equal resources" not in texts(figure)
    assert {line.get_color() for line in figure.axes[0].get_lines()} == {style.PALETTE[1]}
    turned = texts(drawn(LatencyVsSweep(policies=("coded_k2", "equal_resources")), SWEEP))
    assert turned.index("coded k2") < turned.index("equal resources")
    with pytest.raises(ParmError, match="there is no policy 'coded'; there are equal_resources, coded_k2"):
        Ccdf(policies=("coded",)).draw(material())


@pytest.mark.parametrize("kind", [LatencyVsSweep, Ccdf, LatencyAccuracy])
def test_an_slo_is_a_line_that_lies_inside_the_axes(kind: type[Figure]) -> None:
    figure = drawn(kind.model_validate({"kind": kind.name_in_yaml(), "slo": "0.05 s"}), SWEEP)
    assert "SLO 50 ms" in texts(figure)
    for ax in figure.axes:
        low, high = ax.get_ylim() if kind is LatencyVsSweep else ax.get_xlim()
        assert low < 50 < high


@pytest.mark.parametrize(
    ("kind", "option", "says"),
    [
        ("ccdf", "width: colum", "7: figures.0.width: must be 'column', 'text' or 'full', but is 'colum'."),
        ("ccdf", "slo: 50", "7: figures.0.slo: must be a time above 0 with its unit (s, ms or us), such as 50ms"),
        ("ccdf", "slo: 0ms", "7: figures.0.slo: must be a time above 0"),
        ("accuracy", "slo: 5ms", "7: figures.0.slo: accuracy has no axis of latencies"),
        ("ccdf", "formats: [gif]", "7: figures.0.formats.0: must be 'png', 'pdf' or 'svg', but is 'gif'."),
        ("ccdf", "formats: []", "7: figures.0.formats: needs at least 1 item"),
        ("ccdf", "font_size: 2", "7: figures.0.font_size: must be at least 4, but is 2."),
        ("ccdf", "style: no.mplstyle", "7: figures.0.style: there is no file 'no.mplstyle'"),
        ("ccdf", "style: bad.mplstyle", "bad.mplstyle:2: lines.linewidth:"),
        ("ccdf", "policies: [nine]", "7: figures.0.policies: there is no policy 'nine'; did you mean 'none'?"),
        ("ccdf", "policies: [none, none]", "6: figures.0: 'policies' names one twice."),
        ("advantage", "against: nine", "7: figures.0.against: there is no policy 'nine'"),
        ("ccdf", "{size: [3, 2], width: column}", "6: figures.0: 'width' and 'size' both say how wide it is"),
        ("timeline", "{query: 1, slowest: 2}", "6: figures.0: 'query' and 'slowest' both say"),
    ],
)
def test_bad_options_are_refused_with_their_line(tmp_path: Path, kind: str, option: str, says: str) -> None:
    (tmp_path / "bad.mplstyle").write_text("axes.grid: true\nlines.linewidth: thick\n")
    file = tmp_path / "e.yaml"
    lines = option.strip("{}").replace("], ", "]\n    ").replace("1, ", "1\n    ") if option[0] == "{" else option
    file.write_text(YAML.replace("KIND", kind).replace("OPTION", lines))
    with pytest.raises(ParmError) as error:
        loader.load(file)
    assert says in str(error.value)


def test_the_style_sheet_lies_beside_the_experiment(tmp_path: Path) -> None:
    (tmp_path / "mine.mplstyle").write_text("lines.linewidth: 2\n")
    file = tmp_path / "e.yaml"
    file.write_text(YAML.replace("KIND", "ccdf").replace("OPTION", "style: mine.mplstyle"))
    figures = loader.load(file).figures
    assert figures is not None
    assert figures[0].style == tmp_path / "mine.mplstyle"
