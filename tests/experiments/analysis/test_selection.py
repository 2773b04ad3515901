"""Which policy is best: the marks, and how often they are wrong."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from experiments.analysis.outcome import Outcome
from experiments.analysis.selection import Standing, sentences, standings
from tests.outcomes import outcome, with_tail

BASE = dataclasses.replace(outcome("a", 0, model=False), queries=10_000_000)


def trials(policy: str, late: float, noise: np.ndarray) -> list[Outcome]:
    """Trials with a p99.9 of `late` ms and noise in ms."""
    return [
        with_tail(dataclasses.replace(BASE, policy=policy, trial=number), 0.01, (late + by) / 1000)
        for number, by in enumerate(noise)
    ]


def marks(latest: dict[str, float], spread: float = 0.1, shared: float = 0.0) -> dict[str, Standing]:
    generator = np.random.default_rng(1)
    common = generator.normal(0, shared, 10)
    made = {name: trials(name, late, common + generator.normal(0, spread, 10)) for name, late in latest.items()}
    return {mark.policy: mark.standing for mark in standings(made)}


def test_the_marks() -> None:
    assert marks({"a": 40, "b": 45, "c": 60}) == {"a": Standing.BEST, "b": Standing.WORSE, "c": Standing.WORSE}
    assert marks({"a": 40, "b": 40, "c": 60}) == {"a": Standing.CLOSE, "b": Standing.CLOSE, "c": Standing.WORSE}
    assert marks({"a": 40, "b": 41}, spread=5) == {"a": Standing.UNDECIDED, "b": Standing.UNDECIDED}
    assert marks({"a": 40}) == {"a": Standing.BEST}


def test_common_random_numbers_decide_what_would_be_undecided() -> None:
    assert marks({"a": 40, "b": 43}, spread=0.2, shared=3)["a"] is Standing.BEST
    assert marks({"a": 40, "b": 43}, spread=6)["a"] is not Standing.BEST


def test_more_accuracy_is_better() -> None:
    right = {name: [outcome(name, trial) for trial in range(4)] for name in ("good", "bad")}
    right["bad"] = [
        dataclasses.replace(one, accuracy=one.accuracy | {"available_correct": 100}) for one in right["bad"]
    ]
    found = {mark.policy: mark for mark in standings(right, "accuracy_overall", zone=0.001)}
    assert found["good"].standing is Standing.BEST
    assert found["bad"].standing is Standing.WORSE
    assert found["bad"].behind.value == pytest.approx(0.965, abs=0.01)


def test_a_single_short_trial_decides_nothing() -> None:
    one = {name: [outcome(name, 0, queries=60, blocks=())] for name in ("a", "b")}
    assert {mark.standing for mark in standings(one)} == {Standing.UNDECIDED}


def test_all_that_is_said_is_right_often_enough() -> None:
    """Five equal policies, where every one that is called best or worse is an error."""
    generator, wrong = np.random.default_rng(2), 0
    for _ in range(40):
        made = {name: trials(name, 40, generator.normal(0, 1, 5)) for name in "abcde"}
        wrong += any(mark.standing in (Standing.BEST, Standing.WORSE) for mark in standings(made, zone=0.0))
    assert wrong <= 6


def test_the_sentence() -> None:
    generator = np.random.default_rng(3)
    made = [one for name, late in (("a", 40), ("b", 45)) for one in trials(name, late, generator.normal(0, 0.1, 5))]
    assert sentences(made) == ["p99.9, all at 95% confidence: best: a; worse: b"]
    assert sentences(made[:5]) == []
