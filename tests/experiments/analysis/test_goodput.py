"""Goodput: right answers in time, per second, in every table that has a metric."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from experiments.analysis import claims, summary
from experiments.analysis.estimates import sample, unit
from experiments.run.cells import cells
from experiments.run.session import Session
from tests.experiments.run.test_store import experiment
from tests.outcomes import outcome

QUEUE: dict[str, Any] = {
    "traces": False,
    "engine": "auto",
    "trials": 4,
    "figures": [{"kind": "latency_vs_sweep", "metric": "goodput"}],
    "workload": {"arrivals": {"kind": "poisson", "rate": 50}, "queries": 6000},
    "cluster": {"instances": 1, "service": {"kind": "exponential", "mean": 0.01}},
}


def test_an_mm1_queue_answers_in_time_what_theory_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The latency of M/M/1 is exponential with rate mu - lambda = 50/s."""
    claim = {"kind": "level", "says": "it is in time", "policy": "none", "metric": "goodput", "between": [29, 34]}
    Session(workers=1).run(experiment(**QUEUE, goodput="20ms", claims=[claim]), tmp_path)
    (row,) = summary.read(tmp_path)
    found = row.metrics["goodput"]
    assert found is not None
    assert found.value == pytest.approx(50 * (1 - math.exp(-50 * 0.02)), rel=0.05)
    assert found.lo < found.value < found.hi
    said = " ".join(capsys.readouterr().out.split())
    assert "goodput" in said
    assert "goodput counts answers in time, right or wrong" in said
    (verdict,) = claims.read(tmp_path)[tmp_path.name]
    assert (verdict.reproduced, verdict.unit) == (True, "/s")
    assert (tmp_path / "figures" / "latency_vs_sweep.png").is_file()
    with (tmp_path / "summary.csv").open(newline="") as file:
        (record,) = csv.DictReader(file)
    assert float(record["goodput_per_instance"]) == pytest.approx(found.value)


def test_a_default_answer_is_in_time_and_is_none() -> None:
    """The deadline of the cluster is the default; a default answer comes at it."""
    from experiments.analysis.outcome import measure
    from experiments.run.runner import simulate_cell
    from sim.trace import Route

    given = experiment(**QUEUE | {"cluster": QUEUE["cluster"] | {"deadline": 0.02}})
    assert given.in_time == 0.02
    trace = simulate_cell(cells(given)[0]).trace
    found = measure(trace, policy="none", kind="none", point={}, trial=0, warmup=0, seconds={}, in_time=given.in_time)
    span = trace.queries.arrival[-1] - trace.queries.arrival[0]
    own = (trace.queries.route == Route.OWN).sum() * 5999 / 6000
    assert found.goodput == pytest.approx(own / span)


def test_it_is_divided_by_instances_and_price_and_more_is_better() -> None:
    trials = [outcome("a", trial, instances=4, goodput=100.0 + trial) for trial in range(5)]
    assert sample("goodput", trials).interval.value == 102
    assert sample("goodput_per_instance", trials).interval.value == 25.5
    assert [unit(name) for name in ("goodput_per_price", "p99", "unavailable")] == ["/s", "ms", ""]
    assert math.isnan(sample("goodput", [outcome("a", trial) for trial in range(5)]).interval.value)


def test_cells_without_the_option_keep_their_ids_and_others_do_not() -> None:
    plain, timed = experiment(), experiment(goodput=0.1)
    assert timed.in_time == experiment(goodput="100ms").in_time == 0.1
    assert cells(plain)[0].id != cells(timed)[0].id
    assert plain.in_time is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"goodput": "5%"}, "is no time"),
        ({"goodput": "soon"}, "is no width"),
        ({"precision": {"goodput": "1%"}}, "goodput needs a time"),
        ({"select": {"metric": "goodput", "within": 3}, "policies": ["none", "hedged"]}, "goodput needs a time"),
        (
            {"claims": [{"kind": "level", "says": "", "policy": "none", "metric": "goodput", "above": 1}]},
            "needs a time",
        ),
        ({"goodput": 0.1, "precision": {"goodput": "1ms"}}, "a share or a rate"),
    ],
)
def test_what_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        experiment(**options)
