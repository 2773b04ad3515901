"""The warm-up: known before the simulation, the same for all policies, and never the phenomenon."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from experiments.analysis.outcome import Outcome
from experiments.analysis.summary import rows
from experiments.analysis.warmup import WarmupSeconds, has_trend, relaxation_queries, warmup_queries
from experiments.config import loader
from experiments.run.cells import cells
from experiments.run.runner import _measured, simulate_cell
from sim.errors import ParmError

ARRIVAL = np.arange(10_000) / 50


@pytest.mark.parametrize(
    ("rule", "load", "cut"),
    [
        ("none", 0.9, 0),
        (0, 0.9, 0),
        (700, 0.9, 700),
        (WarmupSeconds(seconds=2), 0.9, 100),
        ("auto", None, 100),
        ("auto", 0.5, 100),
        ("auto", 0.9, 976),
        ("auto", 0.99, 1000),
        ("auto", 1.5, 1000),
    ],
)
def test_a_rule_gives_its_number_of_queries(rule: object, load: float | None, cut: int) -> None:
    assert warmup_queries(rule, ARRIVAL, load) == cut  # type: ignore[arg-type]


def test_the_automatic_cut_grows_with_the_load() -> None:
    found = [relaxation_queries(load) for load in np.linspace(0, 1.1, 50)]
    assert all(one <= other for one, other in itertools.pairwise(found))


def test_a_trend_is_told_from_an_outage_and_from_rounding() -> None:
    assert has_trend(range(10))
    assert has_trend(range(10, 0, -1))
    assert not has_trend([1, 1, 1, 1, 1, 9, 9, 1, 1, 1])
    assert not has_trend([0.1 + 1e-15 * i for i in range(10)])
    assert not has_trend([])
    generator = np.random.default_rng(1)
    assert sum(has_trend(generator.random(10)) for _ in range(2000)) / 2000 < 0.005


def run(tmp_path: Path, text: str) -> list[Outcome]:
    file = tmp_path / "experiment.yaml"
    file.write_text(text)
    experiment = loader.load(file)
    return [_measured(cell, simulate_cell(cell)) for cell in cells(experiment)]


def test_case_1_a_freeze_is_in_the_tail(tmp_path: Path) -> None:
    """The only instance stands still from 10 s to 16 s: the slowest 0.1% of 6000 queries waited nearly 6 s."""
    (tmp_path / "freeze.csv").write_text("time,factor\n0,1\n10,1000000000\n16,1\n1000,1\n")
    found = run(
        tmp_path,
        """
name: outage
trials: 2
workload: {arrivals: {kind: deterministic, rate: 50}, queries: 6000}
cluster: {instances: 1, service: 0.01}
stragglers: [{kind: replay, file: freeze.csv, aligned: true}]
policies: [none]
figures: []
""",
    )
    assert [one.warmup for one in found] == [0, 0]
    assert [one.latency["p999"] for one in found] == pytest.approx([5.95, 5.95], abs=0.01)


def test_case_2_a_recorded_burst_is_in_the_tail(tmp_path: Path) -> None:
    """800 queries arrive within 0.8 s; the last of them waits for the 720 or so before it, 10 ms each."""
    steady = np.arange(0, 90, 0.02)
    burst = 30 + np.arange(800) * 0.001
    times = np.sort(np.concatenate([steady, burst]))
    (tmp_path / "burst.csv").write_text("timestamp\n" + "\n".join(f"{time:.3f}" for time in times))
    (one,) = run(
        tmp_path,
        f"""
name: burst
trials: 1
workload: {{arrivals: {{kind: replay, file: burst.csv}}, queries: {len(times)}}}
cluster: {{instances: 1, service: 0.01}}
policies: [none]
figures: []
""",
    )
    waits, free = [], 0.0
    for time in times:
        free = max(free, time) + 0.01
        waits.append(free - time)
    assert one.warmup == 0
    assert one.latency["p999"] == pytest.approx(float(np.quantile(waits, 0.999)), abs=0.002)
    assert one.latency["p999"] > 6


def test_case_3_hedging_keeps_its_gain(tmp_path: Path) -> None:
    """One of three instances stands still for 6 s: without redundancy a third of the queries wait for it."""
    rows_of = "".join(f"0,1,{instance}\n1000,1,{instance}\n" for instance in (1, 2))
    (tmp_path / "freeze1.csv").write_text("time,factor,instance\n0,1,0\n10,1000000000,0\n16,1,0\n1000,1,0\n" + rows_of)
    found = run(
        tmp_path,
        """
name: policies
trials: 2
workload: {arrivals: {kind: poisson, rate: 60}, queries: 6000}
cluster: {instances: 3, service: 0.01, queue: round_robin}
stragglers: [{kind: replay, file: freeze1.csv, aligned: true}]
policies: [none, {kind: hedged, after: 0.05}]
figures: []
""",
    )
    none, hedged = ([one.latency["p999"] for one in found if one.policy == name] for name in ("none", "hedged"))
    assert np.mean(none) == pytest.approx(5.69, abs=0.2)
    assert np.mean(hedged) == pytest.approx(0.062, abs=0.02)


def test_every_policy_of_a_trial_loses_the_same_queries(tmp_path: Path) -> None:
    found = run(
        tmp_path,
        """
name: pairs
trials: 2
workload: {arrivals: {kind: poisson, rate: 95}, queries: 3000}
cluster: {instances: 5, extra: 2, service: {kind: exponential, mean: 0.045}}
policies: [none, equal_resources, {kind: replication, copies: 2}, {kind: coded, k: 3}]
figures: []
""",
    )
    assert len({one.warmup for one in found}) == 1
    assert 30 < found[0].warmup <= 300


@pytest.mark.parametrize(
    ("arrivals", "cluster", "note"),
    [
        ("{kind: deterministic, rate: 10}", "{instances: 1, service: 0.1}", None),
        ("{kind: closed_loop, clients: 4, think: 0}", "{instances: 4, service: 0.02}", None),
        ("{kind: poisson, rate: 120}", "{instances: 1, service: 0.01}", "unstable: offered load 1.2 on the deployed"),
    ],
)
def test_case_13_notes_tell_constant_from_unstable(
    tmp_path: Path, arrivals: str, cluster: str, note: str | None
) -> None:
    found = run(
        tmp_path,
        f"""
name: notes
trials: 2
workload: {{arrivals: {arrivals}, queries: 20000}}
cluster: {cluster}
policies: [none]
figures: []
""",
    )
    (row,) = rows(found)
    blamed = [one for one in row.notes if one.startswith(("unstable", "too short"))]
    assert [one[: len(note or "")] for one in blamed] == ([note] if note else [])


def test_a_warm_up_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    text = """
name: late
trials: 1
warmup: {seconds: 1000}
workload: {arrivals: {kind: deterministic, rate: 50}, queries: 100}
cluster: {instances: 1, service: 0.01}
policies: [none]
figures: []
"""
    with pytest.raises(ParmError, match="leaves none to measure"):
        run(tmp_path, text)
