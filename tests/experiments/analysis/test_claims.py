"""Claims and references are judged right on outcomes that were made up for it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from experiments.analysis import claims, reference
from experiments.analysis.claims import Claim, judge
from experiments.analysis.estimates import Estimate, estimate, measured
from experiments.analysis.outcome import COSTS, Measured, Outcome
from experiments.analysis.reference import Reference
from experiments.analysis.statistics import paired
from experiments.analysis.summary import rows
from experiments.figures.base import FigureData
from experiments.figures.latency_vs_sweep import LatencyVsSweep
from sim.errors import ParmError
from tests.outcomes import with_tail

RATE = "workload.arrivals.rate"


def outcome(policy: str, trial: int, p50: float, p999: float, blocks: int = 0, **point: object) -> Outcome:
    """Return a cell with these latencies, given in ms."""
    latency = {"mean": p50, "p50": p50, "p99": (p50 + p999) / 2, "p999": p999, "gap": p999 - p50}
    seconds = {name: value / 1000 for name, value in latency.items()}
    routes = {"own": 90_000_000, "reconstruction": 10_000_000, "replica": 0, "backup": 0, "default": 0}
    parts = tuple(
        Measured(
            queries=100,
            latency={n: v * (1 + 0.01 * (i - 4.5)) for n, v in seconds.items()},
            routes=routes,
            accuracy=None,
        )
        for i in range(blocks)
    )
    made = Outcome(
        queries=100_000_000,
        latency=seconds,
        routes=routes,
        accuracy=None,
        policy=policy,
        kind=policy,
        point={RATE: point.get("rate", 270)},
        trial=trial,
        warmup=0,
        settled=True,
        cost=dict.fromkeys(COSTS, 1.0),
        quantiles={},
        blocks=parts,
    )
    return with_tail(made, p50 / 1000, p999 / 1000)


def runs(coded: dict[int, list[float]], equal: float = 50.0, p50: float = 20.0) -> list[Outcome]:
    """Return trials of both policies; `coded` has the p99.9 of coded as a share of the other, by rate and trial."""
    found = []
    for rate, values in coded.items():
        for trial, value in enumerate(values):
            found.append(outcome("equal", trial, p50, equal + 0.01 * trial, rate=rate))
            found.append(outcome("coded", trial, p50 + 0.3, value * (equal + 0.01 * trial), rate=rate))
    return found


def claim(**options: object) -> Claim:
    given = {"says": "so", "kind": "reduction", "metric": "p999", "policy": "coded", "against": "equal"} | options
    return Claim.model_validate(given)


def verdict(outcomes: list[Outcome], **options: object) -> claims.ClaimVerdict:
    (one,) = judge([claim(**options)], outcomes)
    return one


def test_a_reduction_is_paired_by_trial() -> None:
    one = verdict(runs({270: [0.60, 0.60, 0.60]}), between=[0.38, 0.43])
    assert one.reproduced
    # the trials differ, but the share is the same in each: pairing leaves hardly any doubt
    assert one.mean.value == pytest.approx(0.4, abs=1e-3)
    assert one.mean.margin < 0.001


def test_the_interval_is_students_over_the_trials() -> None:
    shares = [0.599, 0.600, 0.602]
    one = verdict(runs({270: shares}), between=[0.3, 0.5])
    expected = paired([1, 1, 1], shares)
    assert (one.mean.lo, one.mean.hi) == pytest.approx((expected.lo, expected.hi), abs=5e-4)


@pytest.mark.parametrize(
    ("shares", "over", "because"),
    [
        ({150: [0.60, 0.61], 270: [0.59, 0.60]}, "each", ""),
        ({150: [0.70, 0.70], 270: [0.70, 0.71]}, "each", "the mean is outside"),
        # on average inside, but one point is clearly not
        ({150: [0.50, 0.50], 270: [0.69, 0.69]}, "each", "2 of 2 points are outside (150; 270)"),
        ({150: [0.50, 0.50], 270: [0.69, 0.69]}, "all", ""),
        # a point outside whose interval reaches the range does not refute
        ({150: [0.54, 0.62], 270: [0.60, 0.61]}, "each", ""),
    ],
)
def test_the_rule(shares: dict[int, list[float]], over: str, because: str) -> None:
    one = verdict(runs(shares), between=[0.38, 0.43], over=over)
    assert one.because == because
    assert one.reproduced == (not because)


def test_wide_intervals_do_not_agree_with_everything() -> None:
    one = verdict(runs({270: [0.50, 0.70]}), between=[0.38, 0.40])
    assert one.mean.lo < 0.38
    assert one.mean.hi > 0.40
    assert not one.reproduced


def test_factor_difference_and_level() -> None:
    outcomes = runs({270: [0.6, 0.6]})
    gap = verdict(outcomes, kind="factor", metric="gap", between=[2.6, 3.2])
    assert gap.mean.value == pytest.approx(30 / (30 - 20.3), rel=0.01)
    assert verdict(outcomes, kind="difference", metric="p50", below=0.5).mean.value == pytest.approx(0.3, abs=0.02)
    assert not verdict(outcomes, kind="difference", metric="p50", below=0.2).reproduced
    level = Claim.model_validate({"says": "so", "kind": "level", "metric": "p999", "policy": "equal", "above": 50})
    assert judge([level], outcomes)[0].mean.value == pytest.approx(50.0, rel=1e-3)
    share = Claim.model_validate(
        {"says": "so", "kind": "level", "metric": "unavailable", "policy": "coded", "below": 1}
    )
    assert judge([share], outcomes)[0].mean.value == pytest.approx(0.1)


def test_only_the_points_that_are_named_count() -> None:
    outcomes = runs({150: [0.9, 0.9], 270: [0.6, 0.6]})
    assert verdict(outcomes, between=[0.38, 0.43], at={RATE: 270}).reproduced
    assert not verdict(outcomes, between=[0.38, 0.43], at={RATE: 150}).reproduced


def test_a_single_trial_has_the_interval_of_its_sections() -> None:
    one = verdict(
        [outcome("equal", 0, 20, 50, blocks=10), outcome("coded", 0, 20, 30, blocks=10)],
        kind="difference",
        between=[-21, -19],
    )
    assert one.mean.value == pytest.approx(-20)
    assert one.mean.lo < -20 < one.mean.hi
    without = verdict([outcome("equal", 0, 20, 50), outcome("coded", 0, 20, 30)], between=[0.38, 0.43])
    assert without.reproduced
    assert np.isnan(without.mean.lo)


def test_nothing_to_judge_is_not_reproduced() -> None:
    one = verdict([outcome("equal", 0, 20, 50)], between=[0, 1])
    assert not one.reproduced
    assert one.because == "the run has no value for it"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "a claim needs 'between', or 'below', 'above' or both of these"),
        ({"between": [0, 1], "below": 1}, "a claim needs 'between', or 'below', 'above' or both of these"),
        ({"between": [1, 0]}, "the range goes from 1 down to 0"),
        ({"between": [0, 1], "metric": "p100"}, "'p100' is not a percentile"),
    ],
)
def test_impossible_claims(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence.replace(".", r"\.")):
        claim(**options)


def test_verdicts_are_read_as_they_were_written(tmp_path: Path) -> None:
    outcomes = runs({150: [0.6, 0.6], 270: [0.7]})
    written = judge([claim(between=[0.38, 0.43]), claim(kind="difference", metric="p50", below=0.5)], outcomes)
    folder = tmp_path / "bundle" / "fig"
    folder.mkdir(parents=True)
    (folder / "claims.json").write_text(claims.as_json(written))
    for place, name in ((folder, "fig"), (folder.parent, "fig")):
        (found,) = claims.read(place).items()
        assert found[0] == name
        assert [str(one) for one in found[1]] == [str(one) for one in written]  # text, since NaN differs from itself
    assert json.loads(claims.as_json(written))["claims"][1]["claimed"] == [None, 0.5]


def test_a_folder_without_claims_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParmError, match="neither the directory of a finished run"):
        claims.read(tmp_path)
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(ParmError, match="no run there has claims"):
        claims.read(tmp_path)
    (tmp_path / "claims.json").write_text("[]")
    with pytest.raises(ParmError, match="cannot be read as the claims of a run"):
        claims.read(tmp_path)


def test_percentiles_that_no_table_has_come_from_the_quantiles() -> None:
    one = outcome("coded", 0, 20, 100)
    assert measured(one, "p999") == pytest.approx(100)  # as measured, exactly
    assert measured(one, "p995") == pytest.approx(20 + 80 * np.log(100) / np.log(500), rel=1e-3)
    assert measured(one, "p50") == pytest.approx(20)
    assert np.isnan(measured(outcome("coded", 0, 20, 100, blocks=2).blocks[0], "p995"))


def test_an_average_over_points_keeps_the_trials_apart() -> None:
    mean = Estimate.mean([Estimate(2.0, (1.0, 3.0)), Estimate(3.0, (4.0, 2.0))])
    assert mean == Estimate(2.5, (2.5, 2.5))
    assert mean.interval.margin == 0  # what one point has too much of in a trial, the other lacks
    assert np.isnan(estimate(lambda a, b: 0.0, "p50", [outcome("a", 0, 1, 2)], [outcome("b", 1, 1, 2)]).value)


def test_a_reference_is_set_beside_what_was_simulated() -> None:
    given = Reference(source="them", policy="coded", metric="p999", key=RATE, values={"150": 33.0, "270.0": 30, "9": 1})
    found = reference.compare([given], runs({150: [0.6, 0.6], 270: [0.66, 0.66], 300: [0.5]}))
    assert [(one.at, one.expected) for one in found] == [(150, 33.0), (270, 30.0)]
    assert [one.ratio for one in found] == pytest.approx([0.6 * 50 / 33, 0.66 * 50 / 30], rel=1e-3)
    assert reference.sentences(found) == ["them: p999 of coded is off by -9.1% to +10.0% (2 points)"]
    table = list(csv.DictReader(io.StringIO(reference.as_csv(found))))
    assert [row["at"] for row in table] == ["150", "270"]
    assert float(table[0]["ratio"]) == pytest.approx(0.909, abs=0.001)
    assert float(table[0]["simulated_lo"]) < float(table[0]["simulated"]) < float(table[0]["simulated_hi"])


def test_a_reference_along_names() -> None:
    given = Reference(source="them", policy="coded", key="cluster.queue", values={"round_robin": 3})
    assert given.at("round_robin") == 3
    assert given.at("random") is None
    assert given.at(True) is None


def test_a_reference_is_drawn_as_hollow_marks() -> None:
    outcomes = runs({150: [0.6, 0.6], 270: [0.66, 0.66]})
    given = [
        Reference(source="them", policy="coded", metric="p999", key=RATE, values={"150": 33.0, "400": 30}),
        Reference(source="not drawn", policy="coded", metric="p99", key=RATE, values={"150": 7.0}),
    ]
    drawn = LatencyVsSweep().draw(FigureData(rows(outcomes), outcomes, references=given))
    assert drawn is not None
    hollow = [line for line in drawn.axes[0].get_lines() if line.get_markerfacecolor() == "none"]
    assert [line.get_xydata().tolist() for line in hollow] == [[[150.0, 33.0]]]
    (legend,) = drawn.legends
    assert [text.get_text() for text in legend.get_texts()] == ["equal", "coded", "them"]
