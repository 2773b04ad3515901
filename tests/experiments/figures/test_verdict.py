"""Sentences of a report: the best policy and who ties with it, and which policies keep an objective."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.analysis import summary
from experiments.analysis.outcome import Outcome
from experiments.figures import verdict
from tests import outcomes as outcomes_of


def outcome(policy: str, p999: float, trial: int, **point: Any) -> Outcome:
    """An outcome whose p99.9 is so many ms."""
    one = outcomes_of.outcome(policy, trial, model=False, point=point, queries=100_000)
    return outcomes_of.with_tail(one, 0.02, p999 / 1000)


def outcomes(noise: float = 1.0, **point: Any) -> list[Outcome]:
    """Five trials of three policies, whose p99.9 swings by `noise` ms, that of `coded` against that of the others."""
    levels = {"plain": (100.0, 1), "hedged": (51.0, 1), "coded": (50.0, -1)}
    return [
        outcome(policy, level + sign * noise * swing, trial, **point)
        for trial, swing in enumerate((-1.0, -0.5, 0.0, 0.5, 1.0))
        for policy, (level, sign) in levels.items()
    ]


def best(found: list[Outcome]) -> list[str]:
    return verdict.best(summary.rows(found), found)


def test_the_lowest_is_named_with_what_it_gains_on_the_first_policy() -> None:
    (sentence,) = best(outcomes(noise=0.01))
    assert (
        sentence == "Coded has the lowest p99.9, 50 ±0.44 ms (at 95% confidence), 2.0 times lower than plain (100 ms)."
    )


def test_what_the_intervals_cannot_tell_apart_is_said() -> None:
    (sentence,) = best(outcomes(noise=3.0))
    assert sentence.endswith("(100 ms). The measurement cannot tell it apart from hedged, at 95% confidence.")


def test_one_sentence_for_each_sweep_point() -> None:
    found = [*outcomes(**{"workload.arrivals.rate": 100}), *outcomes(**{"workload.arrivals.rate": 200})]
    first, second = best(found)
    assert first.startswith("At arrival rate 100 queries/s, coded")
    assert second.startswith("At arrival rate 200 queries/s, coded")


def test_nothing_beats_the_first_policy() -> None:
    found = [
        outcome(policy, level, trial) for trial in range(3) for policy, level in (("plain", 40.0), ("other", 80.0))
    ]
    (sentence,) = best(found)
    assert sentence.startswith("Plain has the lowest p99.9, 40 ")
    assert sentence.endswith("no other policy improves on it.")


@pytest.mark.parametrize(
    ("slo", "says"),
    [
        (75, "Hedged and coded meet p99.9 <= 75 ms; plain does not."),
        (200, "Plain, hedged and coded meet p99.9 <= 200 ms."),
        (10, "Plain, hedged and coded do not meet p99.9 <= 10 ms."),
    ],
)
def test_who_keeps_an_objective(slo: float, says: str) -> None:
    found = outcomes(noise=0.1)
    assert verdict.objective(summary.rows(found), slo) == [says]


def test_an_interval_that_holds_the_objective_decides_nothing() -> None:
    (sentence,) = verdict.objective(summary.rows(outcomes(noise=3.0)), 50.5)
    assert sentence == (
        "Plain does not meet p99.9 <= 50.5 ms; hedged and coded may or may not: the interval holds 50.5 ms."
    )
