"""Runs that add trials until their intervals are narrow enough."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from experiments.analysis import summary
from experiments.config.precision import Precision
from experiments.config.schema import Experiment
from experiments.run.session import Session
from tests.command import parm
from tests.experiments.run.test_store import PLAIN, experiment
from tests.outcomes import outcome

FLAT: dict[str, Any] = {"traces": False, "figures": []}


def ran(folder: Path, fresh: bool = False, **options: Any) -> int:
    """Run into the folder; return the trials of its summary."""
    Session(workers=1, fresh=fresh).run(experiment(**FLAT, precision=options), folder)
    (row,) = summary.read(folder)
    return row.trials


def test_trials_are_added_until_the_interval_is_narrow_and_the_run_is_extended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = ran(tmp_path, p50="50%")
    assert first == 10
    assert "p50 within 50%: reached by all rows after 10 trials" in capsys.readouterr().out
    second = ran(tmp_path, p50="10%", max_trials=300)
    assert 10 < second < 300
    (row,) = summary.read(tmp_path)
    assert row.metrics["p50"] is not None
    assert row.metrics["p50"].margin < 0.1 * row.metrics["p50"].value
    assert "10 of 1" in capsys.readouterr().err  # cells of the first run are reused
    assert ran(tmp_path, p50="10%", max_trials=300) == second  # nothing is left to do
    assert ran(tmp_path, fresh=True, p50="50%") == 10


def test_it_ends_at_max_trials_and_says_what_was_reached(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(tmp_path, p999="0.1%", max_trials=13) == 13
    said = capsys.readouterr().out
    assert "p999 within 0.1%: not reached in 13 trials by 1 of the intervals (max_trials is 13)" in said
    assert "none: p999 within" in said


def test_it_ends_when_the_time_is_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(tmp_path, p999="0.1%", max_minutes=1e-9) == 10
    assert "max_minutes is over" in capsys.readouterr().out


def test_the_number_of_trials_grows_with_the_excess_within_bounds() -> None:
    rows = summary.rows([outcome("a", trial, queries=2000) for trial in range(10)])
    value = rows[0].metrics["p99"]
    assert value is not None

    def more(factor: float, affordable: int = 1000) -> int:
        return Precision(p99=f"{value.margin / factor}ms", max_trials=200).more(rows, 10, affordable)

    assert more(0.99) == 10
    assert more(1.01) == 13
    assert more(1.25) == 16
    assert more(9) == 20
    assert more(9, affordable=3) == 13


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "name a metric and its width"),
        ({"p999": "wide"}, "is no width"),
        ({"p999": 3}, "needs a unit"),
        ({"unavailable": "2ms"}, "it is a share"),
        ({"p999": "0%"}, "is no width"),
        ({"accuracy_overall": "1%"}, "needs a 'model'"),
        ({"p999": "5%", "max_trials": 1}, "greater than or equal to 2"),
    ],
)
def test_what_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        experiment(precision=options)


def test_p99_9_is_p999_and_cells_keep_their_ids() -> None:
    from experiments.run.cells import cells

    given = experiment(precision={"p99.9": "5%"})
    assert given.precision is not None
    assert given.precision.widths == {"p999": "5%"}
    assert [one.id for one in cells(given)] == [one.id for one in cells(experiment())]
    assert Experiment.model_validate(given.resolved()) == given


def test_check_says_the_least_and_the_most_that_it_may_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(json.dumps(PLAIN))
    asked = "precision={p99.9: 5%, max_trials: 50}"
    assert parm("check", file, "--set", asked, monkeypatch=monkeypatch) == 0
    said = capsys.readouterr().out
    assert "precision p999 within 5%: at least 10 trials (10 cells, 3,000 queries)" in said
    assert "at most 50 (50 cells, 15,000 queries)" in said
