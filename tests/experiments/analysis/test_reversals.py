"""Which pairs of policies change their order: what is certain, how often it is wrong, and what cannot be asked."""

from __future__ import annotations

import csv
import dataclasses
import io

import numpy as np
import pytest

from experiments.analysis.outcome import Outcome
from experiments.analysis.reversals import Found, Order, Reversals, as_text, reversals
from sim.errors import ParmError
from tests.experiments.analysis.test_selection import trials

QUEUE, SLOW = "cluster.queue", "stragglers"


def made(late: dict[tuple[str, str], dict[str, float]], spread: float = 0.1, seed: int = 1) -> list[Outcome]:
    """Ten trials of each policy with these p99.9, by queue and slowness; a trial's noise is in part shared."""
    generator = np.random.default_rng(seed)
    found = []
    for (queue, slow), policies in late.items():
        shared = generator.normal(0, spread, 10)
        for policy, value in policies.items():
            point, noise = {QUEUE: queue, SLOW: slow}, shared + generator.normal(0, spread, 10)
            found += [dataclasses.replace(one, point=point) for one in trials(policy, value, noise)]
    return found


def orders(found: Found) -> dict[tuple[str, str, str, str], Order]:
    return {(*pair.point.values(), pair.better, pair.worse): pair.order for pair in found.pairs}


TWO_QUEUES = {
    ("one", "synthetic"): {"a": 40, "b": 45, "c": 60},
    ("one", "recorded"): {"a": 50, "b": 45, "c": 60},
    ("two", "synthetic"): {"a": 50, "b": 45, "c": 50},
    ("two", "recorded"): {"a": 50, "b": 50, "c": 60},
}


def test_each_point_is_compared_with_the_reference_of_its_other_keys() -> None:
    found = reversals(made(TWO_QUEUES), Reversals(against={SLOW: "synthetic"}))
    assert orders(found) == {
        ("one", "recorded", "a", "b"): Order.REVERSED,
        ("one", "recorded", "a", "c"): Order.KEPT,
        ("one", "recorded", "b", "c"): Order.KEPT,
        ("two", "recorded", "b", "a"): Order.OPEN,
        ("two", "recorded", "b", "c"): Order.KEPT,
    }
    (pair,) = found.reversed
    assert (pair.there.value, pair.here.value) == (pytest.approx(5, abs=0.5), pytest.approx(-5, abs=0.5))
    assert (found.comparisons, found.doubtful) == (12, 1)
    assert "1 of 5 pairs reversed, 3 kept, 1 undecided; 1 undecided at the reference" in found.sentence()


def test_one_reference_for_all_keys() -> None:
    found = reversals(made(TWO_QUEUES), Reversals(against={SLOW: "synthetic", QUEUE: "one"}))
    assert len(found.pairs) == 9
    assert {pair.point[QUEUE] + pair.point[SLOW] for pair in found.reversed} == {"onerecorded", "twosynthetic"}


def test_of_accuracies_more_is_better() -> None:
    counts = {"available": 1000, "available_correct": 900, "degraded": 0, "degraded_correct": 0}
    low = {"available_correct": 100}
    at = [made({("one", slow): {"a": 1, "b": 1}}) for slow in ("synthetic", "recorded")]
    worse = {("a", "recorded"), ("b", "synthetic")}
    outcomes = [
        dataclasses.replace(one, accuracy=counts | (low if (one.policy, one.point[SLOW]) in worse else {}))
        for one in (*at[0], *at[1])
    ]
    found = reversals(outcomes, Reversals(against={SLOW: "synthetic"}, metric="accuracy_overall"))
    assert orders(found) == {("one", "recorded", "a", "b"): Order.REVERSED}
    assert found.pairs[0].there.value == pytest.approx(0.8)


def test_noise_is_no_reversal() -> None:
    """Eight equal policies at eight points: 224 pairs; without shared error a tenth of worlds would name some."""
    equal = {("one", str(slow)): dict.fromkeys("abcdefgh", 50.0) for slow in range(8)}
    wrong = sum(bool(reversals(made(equal, seed=seed), Reversals(against={SLOW: "0"})).reversed) for seed in range(20))
    assert wrong == 0
    certain = [reversals(made(equal, seed=seed), Reversals(against={SLOW: "0"})) for seed in range(20)]
    assert sum(bool(found.pairs) for found in certain) <= 3


def test_the_file_has_a_row_for_each_pair() -> None:
    found = reversals(made(TWO_QUEUES), Reversals(against={SLOW: "synthetic"}))
    rows = list(csv.DictReader(io.StringIO(as_text(found))))
    assert [(row[QUEUE], row[SLOW], row["better"], row["worse"]) for row in rows] == [*orders(found)]
    assert [row["order"] for row in rows] == [order.value for order in orders(found).values()]
    assert float(rows[0]["here_hi"]) < 0 < float(rows[0]["there_lo"])
    assert list(found.frame()["order"]) == [row["order"] for row in rows]


def test_what_cannot_be_asked() -> None:
    outcomes = made(TWO_QUEUES)
    with pytest.raises(ParmError, match=r"'rate' is not swept; swept are cluster\.queue, stragglers"):
        reversals(outcomes, Reversals(against={"rate": 3}))
    with pytest.raises(ParmError, match="there is no sweep point with stragglers = none"):
        reversals(outcomes, Reversals(against={SLOW: "none"}))
