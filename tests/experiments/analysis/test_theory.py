"""Theory is laid over a figure exactly where a formula describes what was simulated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import cli
from experiments.analysis import summary
from experiments.analysis.theory import Theory, theory
from experiments.config import loader
from experiments.config.schema import Experiment
from experiments.figures.advantage import Advantage, times
from experiments.figures.base import Figure, FigureData
from experiments.figures.ccdf import Ccdf
from experiments.figures.latency_vs_sweep import LatencyVsSweep
from sim.distributions.families import Gamma
from sim.theory import FirstOf, HedgedOnce, MMc, redundancy_d
from tests.command import parm
from tests.outcomes import outcome, with_tail

FILES = Path(cli.__file__).parent
RATE = "workload.arrivals.rate"


def said(policy: Any = "none", queue: str = "single_queue", **changes: Any) -> Theory | None:
    data: dict[str, Any] = {
        "name": "plain",
        "workload": {"arrivals": {"kind": "poisson", "rate": 100}, "queries": 1000},
        "cluster": {"instances": 4, "service": {"kind": "exponential", "mean": 0.02}, "queue": queue},
        "policies": [policy],
    }
    for key, value in changes.items():
        section, _, name = key.partition("_")
        if name:
            data[section][name] = value
        else:
            data[key] = value
    experiment = Experiment.model_validate(data)
    measured = experiment.execution == "in_the_loop"
    arrivals = experiment.workload.arrivals
    return theory(experiment.policies[0], experiment.cluster, arrivals, experiment.stragglers, measured=measured)


def replication(copies: int, cancel: str = "all") -> dict[str, Any]:
    return {"kind": "replication", "copies": copies, "cancel": cancel}


def test_what_theory_says() -> None:
    assert said() == Theory("M/M/4", MMc(100, 0.02, 4).mean(), MMc(100, 0.02, 4))
    assert said("equal_resources", cluster_extra=2) == Theory("M/M/6", MMc(100, 0.02, 6).mean(), MMc(100, 0.02, 6))
    assert said(queue="random") == Theory("M/M/1", MMc(25, 0.02).mean(), MMc(25, 0.02))
    assert said(replication(2), "random") == Theory("redundancy-d", redundancy_d(100, 0.02, 4, 2))
    one = MMc(100, 0.005)
    for queue in ("single_queue", "random", "shortest_queue"):
        assert said(replication(4), queue) == Theory("M/M/1", one.mean(), one)
    assert said("tied") == said({"kind": "tied", "copies": 4}, "round_robin") == said()


@pytest.mark.parametrize(
    "changes",
    [
        {"queue": "shortest_queue"},
        {"policy": "hedged"},
        {"policy": {"kind": "coded", "k": 2}},
        {"policy": replication(2)},
        {"policy": replication(2, "queued"), "queue": "random"},
        {"policy": replication(2) | {"cancel_seconds": 0.001}, "queue": "random"},
        {"policy": "tied", "queue": "random"},
        {"policy": {"kind": "tied", "message_delay": 0.001}},
        {"stragglers": [{"kind": "heterogeneous", "factors": [2]}]},
        {"cluster_service": {"kind": "gamma", "mean": 0.02, "shape": 4}},
        {"cluster_batching": {"kind": "fixed", "size": 2}},
        {"cluster_network": {"gbps": 1}},
        {"cluster_network": {"latency": 0.001}},
        {"cluster_network": {"overhead": 0.001}},
        {"cluster_deadline": 0.5},
        {"workload_arrivals": {"kind": "gamma", "rate": 100, "cv": 2}},
        {"workload_arrivals": {"kind": "poisson", "rate": 200}},
    ],
    ids=str,
)
def test_where_theory_says_nothing(changes: dict[str, Any]) -> None:
    assert said(**changes) is None


LOOP = {"kind": "closed_loop", "clients": 2, "think": 0.01}
GAMMA = {"kind": "gamma", "mean": 0.02, "shape": 2}


def loop(policy: Any, **changes: Any) -> Theory | None:
    return said(policy, **{"workload_arrivals": LOOP, "cluster_service": GAMMA, **changes})


def hedged(**options: Any) -> dict[str, Any]:
    return {"kind": "hedged", "after": 0.03, "cancel": "all", **options}


def test_what_theory_says_where_nothing_waits() -> None:
    service = Gamma(mean=0.02, shape=2)
    alone = Theory("one service", 0.02, FirstOf(service))
    assert loop("none") == loop("equal_resources") == loop("tied") == alone
    both = loop(replication(2))
    assert both == Theory("the first of 2", FirstOf(service, 2).mean(), FirstOf(service, 2))
    assert both is not None
    assert both.mean == pytest.approx(0.0125), "of two Erlang-2 times of mean 1 the smaller has a mean of 5/8"
    late = loop(hedged())
    assert late is not None
    assert late.law == HedgedOnce(service, 0.03)
    assert both.mean < late.mean < alone.mean


@pytest.mark.parametrize(
    ("policy", "changes"),
    [
        (replication(2), {"cluster_instances": 3}),  # two clients with two copies each need four
        (replication(2, "queued"), {}),
        (replication(2) | {"cancel_seconds": 0.001}, {}),
        (hedged(copies=3), {"cluster_instances": 6}),
        (hedged(budget=0.5), {}),
        ({"kind": "hedged", "after_quantile": 0.9, "cancel": "all"}, {}),
        ({"kind": "coded", "k": 2}, {}),
        ("none", {"queue": "round_robin"}),
        ("none", {"cluster_instances": 1}),
        ("none", {"cluster_deadline": 0.5}),
        ("none", {"cluster_service": {"kind": "sum", "terms": [GAMMA, GAMMA]}}),  # it does not know its quantiles
        ("none", {"cluster_service": {"kind": "pareto", "minimum": 0.01, "shape": 0.9}}),  # nor has it a mean
    ],
    ids=str,
)
def test_where_something_may_wait_theory_says_nothing(policy: Any, changes: dict[str, Any]) -> None:
    assert loop(policy, **changes) is None


def test_metrics_are_the_summarys() -> None:
    known = said()
    assert known is not None
    assert known.metric("mean") == pytest.approx(1000 * known.mean)
    low, high = known.metric("p50"), known.metric("p999")
    assert low is not None
    assert high is not None
    assert known.metric("gap") == pytest.approx(high - low)
    assert known.metric("accuracy_overall") is None
    assert known.quantiles(np.array([0.5])) == pytest.approx([low])
    of_mean_only = said(replication(2), "random")
    assert of_mean_only is not None
    assert of_mean_only.metric("p50") is None
    assert of_mean_only.quantiles(np.array([0.5])) is None


def material(theory: Any = None) -> FigureData:
    cells = [
        outcome(policy, trial, scale, model=False, point={RATE: rate})
        for rate in (50, 80, 150)
        for policy, scale in (("none", 0.02), ("other", 0.01))
        for trial in range(3)
    ]
    return FigureData(summary.rows(cells), cells, theory=theory)


def lines(figure: Any) -> list[Any]:
    """The lines of theory in a figure's panels, told by their dashes."""
    from experiments.figures import style

    thin = style.thin()
    return [
        line
        for ax in figure.axes
        for line in ax.get_lines()
        if line.get_color() == thin["color"] and line.get_linewidth() == thin["linewidth"]
    ]


def legend(figure: Any) -> list[str]:
    return [text.get_text() for one in figure.legends for text in one.get_texts()]


def known(policy: str, point: dict[str, Any]) -> Theory | None:
    if policy != "none" or point[RATE] == 150:
        return None
    queue = MMc(point[RATE], 0.01)
    return Theory("M/M/1", queue.mean(), queue)


def test_the_sweep_shows_theory_where_there_is_one() -> None:
    figure = LatencyVsSweep(metric="mean", beside=None).draw(material(known))
    (line,) = lines(figure)
    assert line.get_xdata() == pytest.approx([50, 80])
    assert line.get_ydata() == pytest.approx([20, 50]), "1 / (mu - lambda)"
    assert "theory" in legend(figure)


@pytest.mark.parametrize("figure", [LatencyVsSweep(), Ccdf()], ids=lambda figure: figure.stem)
def test_nothing_is_drawn_where_nothing_applies(figure: Figure) -> None:
    for nothing in (None, lambda policy, point: None):
        drawn = figure.draw(material(nothing))
        assert not lines(drawn)
        assert "theory" not in legend(drawn)


def test_a_mean_alone_is_no_curve_in_the_ccdf() -> None:
    drawn = Ccdf().draw(material(lambda policy, point: Theory("redundancy-d", 0.02)))
    assert not lines(drawn)
    assert "theory" not in legend(drawn)


def test_the_ccdf_shows_the_whole_distribution() -> None:
    drawn = Ccdf().draw(material(known))
    found = lines(drawn)
    assert len(found) == 2, "at the two sweep points where theory knows it"
    x, y = found[0].get_data()
    assert y == pytest.approx(np.exp(-np.asarray(x) / 20)), "M/M/1 at half load: exponential with a mean of 20 ms"
    assert "theory" in legend(drawn)


@pytest.mark.parametrize(
    ("name", "sweep"),
    [
        ("theory", "{workload.arrivals.rate: [50, 150]}"),
        ("theory-copies", "{workload.arrivals.clients: [2, 4]}"),
        ("stickiness", "{stragglers.sticky.stickiness: [0, 0.9, 1]}"),
    ],
)
def test_the_examples_run_and_draw_their_figures(
    name: str, sweep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ["--set", "workload.queries=400", "--set", "trials=2", "--set", f"sweep={sweep}", "--workers", "1"]
    assert parm("run", FILES / f"{name}.yaml", "--out", tmp_path, *small, monkeypatch=monkeypatch) == 0
    experiment = loader.load(FILES / f"{name}.yaml")
    assert experiment.figures is not None
    for figure in experiment.figures:
        assert (tmp_path / "figures" / f"{figure.stem}.png").stat().st_size > 20_000
    rows = json.loads((tmp_path / "summary.json").read_text())["rows"]
    assert len(rows) == (3 if name == "stickiness" else 2) * len(experiment.policies)


def test_the_advantage_is_a_paired_ratio() -> None:
    """Trials differ by a factor of ten, policies by one of two: paired, the ratio is sure."""
    cells = [
        outcome(policy, trial, model=False, point={RATE: rate}, latency=dict.fromkeys(("mean", "mean"), value))
        for rate in (50, 100)
        for trial, scale in enumerate((0.01, 0.1))
        for policy, value in (("coded", scale), ("other", 2 * scale))
    ]
    where = summary.point_key({RATE: 50})
    found = times(cells, "other", "coded", where, "mean")
    assert (found.value, found.lo, found.hi) == pytest.approx((2, 2, 2))
    assert times(cells, "coded", "other", where, "mean").value == pytest.approx(0.5)
    assert np.isnan(times(cells, "nobody", "coded", where, "mean").value)


def test_the_advantage_at_a_percentile_is_that_of_all_trials_together() -> None:
    """Every latency of one policy is twice the other's, in every trial: so are the percentiles of all queries."""
    cells = [
        with_tail(outcome(policy, trial, model=False, point={RATE: 50}), factor * scale, 5 * factor * scale)
        for trial, scale in enumerate((0.01, 0.02, 0.03))
        for policy, factor in (("coded", 1), ("other", 2))
    ]
    found = times(cells, "other", "coded", summary.point_key({RATE: 50}), "p999")
    assert (found.value, found.lo, found.hi) == pytest.approx((2, 2, 2), rel=1e-6)


def test_the_advantage_says_why_it_does_not_apply() -> None:
    whole = material()
    assert Advantage().reason(whole) is None
    assert Advantage(against="nobody").reason(whole) == "there is no policy 'nobody'"
    assert Advantage(along="cluster.extra").reason(whole) == "'cluster.extra' is not swept"
    assert Advantage().reason(FigureData(whole.rows[:1], whole.outcomes)) == "there is one policy only"
    cells = [outcome(policy, 0, model=False) for policy in ("a", "b")]
    assert Advantage().reason(FigureData(summary.rows(cells), cells)) == "nothing is swept"
    assert Advantage().reason(FigureData(whole.rows)) == "the cells' latencies were not kept"
    assert Advantage().reason(FigureData([])) == "the run has no finished cell"
    drawn = Advantage(against="other", even=True).draw(whole)
    assert drawn is not None
    assert legend(drawn) == ["none"]
    ticks = [round(float(tick), 6) for tick in drawn.axes[0].get_xticks()]
    assert ticks == [0, 1, 2], "evenly spaced, whatever the values"
