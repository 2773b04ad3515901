"""Control variates: what is known of a trial's draws narrows intervals, and their means are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from experiments.analysis.outcome import Outcome
from experiments.analysis.quantiles import LEAST_CONTROLLED, Latencies
from experiments.analysis.summary import rows
from experiments.run.cells import cells
from experiments.run.controls import controls
from experiments.run.runner import simulate_cell
from tests.experiments.run.test_store import experiment
from tests.outcomes import outcome, with_tail

SLOW = {"kind": "slow_periods", "factor": 3, "mean_normal": 1.0, "mean_slow": 0.25}


def test_their_means_are_zero_and_they_are_the_same_under_every_policy() -> None:
    given = experiment(control_variates=True, trials=40, stragglers=[SLOW], policies=["none", "hedged"])
    every = cells(given)
    found = [controls(cell, simulate_cell(cell).trace) for cell in every[:40]]
    assert set(found[0]) == {"arrivals", "services", "slow_time_0"}
    for name in found[0]:
        values = np.array([one[name] for one in found])
        assert abs(values.mean()) < 4 * values.std() / np.sqrt(40)
        assert 0 < values.std() < 0.5
    assert controls(every[40], simulate_cell(every[40]).trace) == found[0]
    constant = experiment(control_variates=True, cluster={"instances": 4, "service": 0.01})
    (cell, *_) = cells(constant)
    assert set(controls(cell, simulate_cell(cell).trace)) == {"arrivals"}


def test_cells_without_the_option_keep_their_ids_and_others_do_not() -> None:
    assert cells(experiment())[0].id == cells(experiment(control_variates=False))[0].id
    assert cells(experiment())[0].id != cells(experiment(control_variates=True))[0].id


def made(generator: np.random.Generator, count: int) -> list[Outcome]:
    """Trials whose p99.9 is 40 ms + 100 times the control + noise."""
    plain = dataclasses.replace(outcome("a", 0, model=False), queries=10_000_000)  # its latencies are replaced below
    known, noise = generator.normal(0, 0.02, count), generator.normal(0, 1, count)
    return [
        dataclasses.replace(with_tail(plain, 0.01, (40 + 100 * c + e) / 1000), trial=at, controls={"services": c})
        for at, (c, e) in enumerate(zip(known.tolist(), noise.tolist(), strict=True))
    ]


def bare(trials: list[Outcome]) -> list[Outcome]:
    return [dataclasses.replace(one, controls={}) for one in trials]


def test_what_a_control_explains_is_taken_away() -> None:
    generator, covered, widths = np.random.default_rng(1), 0, []
    truth = Latencies(bare(made(generator, 2000))).sample("p999").interval.value
    for _ in range(40):
        trials = made(generator, LEAST_CONTROLLED)
        with_it, without = (Latencies(each).sample("p999").interval for each in (trials, bare(trials)))
        widths.append((with_it.hi - with_it.lo) / (without.hi - without.lo))
        covered += with_it.lo <= truth <= with_it.hi
    assert np.mean(widths) == pytest.approx(1 / np.sqrt(5), rel=0.15)
    assert covered >= 34


def test_few_trials_are_left_alone_and_the_row_says_so() -> None:
    trials = [outcome("a", trial, controls={"services": 0.01 * trial}) for trial in range(5)]
    assert Latencies(trials).sample("p99") == Latencies(bare(trials)).sample("p99")
    assert any("no effect with fewer than 30 trials" in note for note in rows(trials)[0].notes)
