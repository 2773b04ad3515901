"""Which policy is best: the marks, how often they are wrong, and a search that adds trials."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from experiments.analysis.outcome import Outcome
from experiments.analysis.selection import MOST_LOOKS, Rule, Selection, Standing, looks, sentences, standings, verdicts
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
    found = {mark.policy: mark for mark in standings(right, Rule("accuracy_overall", within=0.001))}
    assert found["good"].standing is Standing.BEST
    assert found["bad"].standing is Standing.WORSE
    assert found["bad"].behind.value == pytest.approx(0.965, abs=0.01)


def test_a_zone_may_be_a_share_of_the_best_value() -> None:
    made = {name: trials(name, late, np.array([-0.1, 0.0, 0.1])) for name, late in (("a", 40), ("b", 41.5))}
    near = {mark.policy: mark.standing for mark in standings(made, Rule(within=0.05, relative=True))}
    assert near == {"a": Standing.BEST, "b": Standing.CLOSE}
    assert standings(made, Rule(within=0.03, relative=True))[1].standing is Standing.WORSE


def test_a_single_short_trial_decides_nothing() -> None:
    one = {name: [outcome(name, 0, queries=60, blocks=())] for name in ("a", "b")}
    assert {mark.standing for mark in standings(one)} == {Standing.UNDECIDED}


def wrong(found: list[tuple[str, Standing]], behind: dict[str, float], zone: float) -> bool:
    """Say whether anything that is said of policies is wrong, which are so much worse than the best."""
    return any(
        {
            Standing.BEST: behind[policy] > 0,
            Standing.CLOSE: behind[policy] > zone,
            Standing.WORSE: behind[policy] <= 0,
            Standing.UNDECIDED: False,
        }[standing]
        for policy, standing in found
    )


def test_all_that_is_said_is_right_often_enough() -> None:
    """Five policies, one of them better by a hair: 5% of 100 tables may be wrong, and 11 hardly ever are."""
    generator, count = np.random.default_rng(2), 0
    late = {"a": 40.0, "b": 40.01, "c": 40.01, "d": 40.01, "e": 40.01}
    for _ in range(100):
        made = {name: trials(name, at, generator.normal(0, 1, 5)) for name, at in late.items()}
        found = [(mark.policy, mark.standing) for mark in standings(made, Rule(within=0.005))]
        count += wrong(found, {name: at - 40 for name, at in late.items()}, 0.005)
    assert count <= 10


def test_the_numbers_of_trials_grow_by_half_and_are_the_same_for_a_longer_search() -> None:
    assert looks(10, 100) == (10, 15, 23, 35, 53, 80)
    assert looks(10, 1000)[:6] == looks(10, 100)
    assert looks(10, 7) == (7,)
    assert len(looks(10, 10_000)) <= MOST_LOOKS


def searched(late: dict[str, float], spread: float, seed: int, rule: Rule) -> Selection:
    generator = np.random.default_rng(seed)
    most = rule.counts[-1]
    made = {name: trials(name, at, generator.normal(0, spread, most)) for name, at in late.items()}
    search = Selection(list(late), rule)
    while search.look({policy: made[policy][:count] for policy, count in search.trials.items()}):
        pass
    again = standings({policy: made[policy][: search.seen(policy)] for policy in late}, rule)
    assert [mark.standing for mark in again] == [mark.standing for mark in search.marks()]
    return search


def test_who_is_surely_no_better_than_the_leader_by_more_than_the_zone_gets_no_more_trials() -> None:
    """b is as good as a for all that matters; c varies so much that it may be better than both."""
    rule, generator = Rule(within=0.5, counts=looks(10, 60)), np.random.default_rng(3)
    spreads = {"a": 0.1, "b": 0.1, "c": 6.0}
    made = {name: trials(name, 40.0, generator.normal(0, spread, 60)) for name, spread in spreads.items()}
    search = Selection(list(made), rule)
    while search.look({policy: made[policy][:count] for policy, count in search.trials.items()}):
        pass
    assert min(search.trials["a"], search.trials["b"]) == 10
    assert search.trials["c"] == max(search.trials["a"], search.trials["b"]) > 10


def test_a_search_goes_on_with_those_that_may_be_best_only() -> None:
    rule = Rule(counts=looks(10, 400))
    search = searched({"a": 40.0, "b": 41.5, "c": 80.0}, 2.0, 5, rule)
    assert search.settled
    assert search.trials["c"] == 10
    assert search.trials["a"] == search.trials["b"] > 10
    assert {mark.policy: mark.standing for mark in search.marks()}["c"] is Standing.WORSE
    short = searched({"a": 40.0, "b": 40.2}, 20.0, 5, Rule(counts=looks(10, 40)))
    assert not short.settled
    assert {mark.standing for mark in short.marks()} == {Standing.UNDECIDED}
    assert set(short.trials.values()) == {35}


def test_a_search_errs_rarely_where_the_others_are_worse_by_just_the_zone() -> None:
    """The chance of a wrong answer is below 5%: of 40 searches none to 6 are wrong."""
    rule, late = Rule(counts=looks(10, 2000)), {"a": 40.0, "b": 41.0, "c": 41.0}
    missed = 0
    for seed in range(40):
        search = searched(late, 1.0, seed, rule)
        assert search.settled
        found = [(mark.policy, mark.standing) for mark in search.marks()]
        missed += wrong(found, {name: at - 40 - 1e-9 * (at > 40) for name, at in late.items()}, 1.0)
        chosen = [mark.policy for mark in search.marks() if mark.standing in (Standing.BEST, Standing.CLOSE)]
        missed += "a" not in chosen
    assert missed <= 6


def test_the_sentence() -> None:
    generator = np.random.default_rng(3)
    made = [one for name, late in (("a", 40), ("b", 45)) for one in trials(name, late, generator.normal(0, 0.1, 5))]
    assert sentences(verdicts(made)) == ["p99.9, all at 95% confidence: best: a; worse: b"]
    assert sentences(verdicts(made[:5])) == []
