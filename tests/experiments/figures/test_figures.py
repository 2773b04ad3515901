import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.transforms import Bbox

from experiments.analysis import summary
from experiments.analysis.outcome import measure
from experiments.figures import labels, style
from experiments.figures.accuracy import Accuracy
from experiments.figures.base import Figure, FigureData, spread
from experiments.figures.ccdf import Ccdf
from experiments.figures.drawing import EVERY, draw_all
from experiments.figures.labels import Label, put
from experiments.figures.latency_accuracy import LatencyAccuracy
from experiments.figures.latency_vs_sweep import LatencyVsSweep
from experiments.figures.panels import along, panels
from experiments.figures.scene import choose
from experiments.figures.timeline import Timeline
from sim.cluster import Cluster
from sim.policies import Coded, EqualResources, Replication
from sim.simulation import simulate
from sim.streams import Streams
from sim.trace import Role, Route
from tests.experiments.figures.material import SWEEP, material, texts
from workloads.arrivals import Poisson


@pytest.fixture(scope="module")
def traces():
    cluster = Cluster.model_validate({"instances": 6, "extra": 3, "service": {"kind": "exponential", "mean": 0.01}})
    found = {}
    for policy in (EqualResources(), Replication(), Coded(k=2), Coded(k=3, r=2)):
        schedule = Poisson(rate=250).schedule(3000, np.random.default_rng(1))
        found[policy.name_in_yaml(), policy.group] = simulate(cluster, policy, (), schedule, Streams(1))
    return found


def of(trace, policy):
    cell = measure(trace, policy=policy, kind=policy, point={}, trial=0, warmup=10, seconds={})
    return FigureData(summary.rows([cell]), [cell], lambda _: trace)


@pytest.mark.parametrize(
    ("points", "trials"), [([{}], 1), ([point | {"b": b} for point in SWEEP[:2] for b in ("x", "y")], 3)]
)
def test_every_figure_is_drawn_as_png_and_pdf(tmp_path, points, trials):
    notes = draw_all(None, material(points, trials), tmp_path)
    assert notes == []
    names = ["accuracy", "ccdf", *["heatmap"] * (len(points) > 1), "latency_accuracy", "latency_vs_sweep"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{n}.{e}" for n in names for e in ("pdf", "png")]
    assert all(path.read_bytes()[:4] in (b"\x89PNG", b"%PDF") for path in tmp_path.iterdir())


def test_the_same_material_gives_the_same_bytes(tmp_path, traces):
    both = of(traces["coded", (2, 1)], "coded")
    for name in ("a", "b"):
        draw_all(["ccdf", "timeline"], both, tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
        assert b"CreationDate" not in path.read_bytes()


def test_a_figure_that_does_not_apply_says_why_when_it_was_asked_for(tmp_path):
    latency_only = material(model=False)
    assert draw_all(None, latency_only, tmp_path) == []
    notes = draw_all(["accuracy", "timeline", "latency_accuracy"], latency_only, tmp_path / "none")
    assert notes == [
        "no figure accuracy: the experiment has no model",
        "no figure timeline: the traces were not kept",
        "no figure latency_accuracy: the experiment has no model",
    ]
    assert Accuracy().draw(latency_only) is None
    assert LatencyVsSweep(along="cluster.extra").reason(material(SWEEP)) == "'cluster.extra' is not swept"
    assert [figure.draw(FigureData([])) for figure in EVERY] == [None] * 6


def test_a_second_figure_of_a_kind_does_not_replace_the_first(tmp_path):
    named = [LatencyVsSweep(), LatencyVsSweep(metric="p99"), LatencyVsSweep(metric="mean", beside=None, name="mean")]
    draw_all(named, material(SWEEP), tmp_path)
    stems = {path.stem for path in tmp_path.iterdir()}
    assert stems == {"latency_vs_sweep", "latency_vs_sweep-2", "mean"}


def test_figures_are_kinds_with_options_that_are_checked():
    assert set(Figure.members()) >= {"latency_vs_sweep", "ccdf", "accuracy", "latency_accuracy", "timeline"}
    assert Figure.model_validate("ccdf") == Ccdf()
    assert Figure.model_validate({"kind": "latency_accuracy", "metric": "p99"}) == LatencyAccuracy(metric="p99")
    for bad in ({"metric": "p42"}, {"groups": 0}, {"colour": "red"}):
        with pytest.raises(ValueError):
            Figure.model_validate({"kind": "latency_vs_sweep"} | bad)


def test_every_interval_lies_inside_the_axes():
    wide = material(SWEEP)
    for figure in (LatencyVsSweep(log=True), LatencyVsSweep(log=False)):
        ax = figure.draw(wide).axes[0]
        low, high = ax.get_ylim()
        for row in wide.rows:
            for metric in ("p50", "p999"):
                assert low <= row.metrics[metric].value <= high
            assert row.metrics["p999"].hi <= high


def test_policies_keep_their_colours_through_the_figures():
    drawn = [figure.draw(material()) for figure in (Ccdf(), LatencyVsSweep())]
    looks = style.looks(["equal_resources", "coded_k2"])
    for figure in drawn:
        colors = {line.get_color() for line in figure.axes[0].get_lines()}
        assert {look.color for look in looks.values()} <= colors
    assert len({(look.color, look.marker) for look in style.looks(map(str, range(40))).values()}) == 40


@pytest.mark.filterwarnings("error")
def test_latencies_that_are_all_zero_are_drawn_without_a_warning():
    quick = [
        dataclasses.replace(one, quantiles={**one.quantiles, "seconds": [0.0] * len(one.quantiles["seconds"])})
        for one in material().outcomes
    ]
    ccdf = Ccdf().draw(FigureData(summary.rows(quick), quick))
    assert ccdf is not None
    ccdf.draw_without_rendering()


def test_drawing_leaves_the_style_of_others_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    Ccdf().draw(material())
    assert dict(matplotlib.rcParams) == before


def test_what_is_left_out_of_a_long_sweep_is_said():
    long = material([{"cluster.extra": extra} for extra in range(12)])
    figure = Ccdf(panels=4).draw(long)
    assert "4 of 12 sweep points" in texts(figure)
    assert "extra instances = 0" in texts(figure) and "extra instances = 11" in texts(figure)


@given(st.integers(1, 60), st.integers(2, 9))
def test_panels_are_spread_evenly_with_both_ends(count, most):
    shown = spread(count, most)
    assert len(shown) == min(count, most)
    assert (shown[0], shown[-1]) == (0, count - 1)


def test_the_axis_takes_the_first_key_with_numbers_that_vary():
    rows = material([{"one": 5, "word": word, "rate": rate} for word in "ab" for rate in (1.5, 2.5)]).rows
    assert along(rows).key == "rate"
    assert along(rows, "word").key == "word"
    assert [panel.title for panel in panels(rows, apart_from="rate")] == ["one = 5, word = a", "one = 5, word = b"]
    assert along(material().rows) is None


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=6, unique=True))
def test_labels_do_not_overlap_each_other(points):
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(8, 6))
    ax = figure.subplots()
    ax.set(xlim=(-0.5, 1.5), ylim=(-0.2, 1.2))
    put(figure, ax, [Label(f"policy {i}", x, y, 5, "k", ((x, x), (y, y))) for i, (x, y) in enumerate(points)])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent().padded(-1) for text in ax.texts]
    assert not any(one.overlaps(two) for i, one in enumerate(boxes) for two in boxes[:i])


@pytest.mark.parametrize("key", [(2, 1), (3, 2)])
def test_the_timeline_shows_a_reconstruction_with_exactly_the_answers_that_it_used(traces, key):
    trace = traces["coded", key]
    scene = choose(trace, 3)
    queries, tasks = trace.queries, trace.tasks
    assert queries.route[scene.query] == Route.RECONSTRUCTION
    assert trace.group[scene.query] == scene.unit
    assert len(scene.used) == int(queries.used[scene.query]).bit_count() == key[0]
    assert all(tasks.back[row] <= queries.reply[scene.query] for row in scene.used)
    assert any(tasks.role[row] == Role.PARITY for row in scene.used)
    assert scene.own not in scene.used
    assert scene.units == list(range(scene.units[0], scene.units[0] + 3))
    assert set(trace.group[scene.queries]) == set(scene.units)
    figure = Timeline().draw(of(trace, "coded"))
    assert "a reconstruction overtakes a straggler" in texts(figure)
    assert "parity" in texts(figure)


def test_the_timeline_shows_replicas_and_refuses_a_policy_without_either(traces):
    figure = Timeline(groups=2).draw(of(traces["replication", (0, 0)], "replication"))
    assert "a replica overtakes a straggler" in texts(figure)
    plain = of(traces["equal_resources", (0, 0)], "equal_resources")
    assert Timeline().draw(plain) is None
    assert "answered by a reconstruction or a replica" in Timeline().reason(plain)
    assert "of coded was answered" in Timeline(policy="coded").reason(plain)


def test_figures_are_known_without_importing_matplotlib():
    code = "import sys, experiments.figures.drawing; assert not {'matplotlib', 'seaborn', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("line", "inside"),
    [
        (((0, 0), (3, 3)), True),
        (((1.5, 1.5), (1.6, 1.7)), True),
        (((0, 1.5), (3, 1.5)), True),
        (((0, 0), (0.9, 0.9)), False),
        (((0, 1.2), (1.2, 2.4)), False),
        (((0, 2.5), (3, 2.5)), False),
    ],
)
def test_a_line_to_a_label_enters_another_label_or_not(line, inside):
    box = Bbox.from_extents(1, 1, 2, 2)
    assert labels._enters(line, box) is inside
    assert labels._enters(line[::-1], box) is inside


def test_lines_to_labels_cross_or_not():
    assert labels._cross(((0, 0), (2, 2)), ((0, 2), (2, 0)))
    assert not labels._cross(((0, 0), (2, 2)), ((0, 1), (2, 3)))
    assert not labels._cross(((0, 0), (2, 2)), ((3, 4), (4, 3)))
