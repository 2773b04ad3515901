from types import SimpleNamespace

import numpy as np
import pytest

from experiments.analysis.outcome import COSTS, GRID, LATENCIES, Outcome, measure, with_answers
from sim.errors import ParmError
from sim.trace import UNAVAILABLE, Batches, Queries, Route, Tasks, Trace

COUNT = 4000


def make_trace(latency, route):
    count = len(latency)
    arrival = 1.0 + np.arange(count) * 0.01
    rows = np.arange(count, dtype=np.int32)
    queries = Queries(arrival, arrival, arrival + latency, route, rows, np.zeros(count, np.int64))
    batches = Batches(
        rows.astype(np.int64), np.ones(count, np.int32), rows - rows - 1, (rows - rows - 1).astype(np.int8)
    )
    zeros = np.zeros(count)
    start = arrival.copy()
    start[0] = np.nan  # one task never began
    tasks = Tasks(
        rows, zeros.astype(np.uint8), zeros.astype(np.int8), zeros.astype(np.int16), np.ones(count, np.int32),
        np.ones(count, np.int32), rows % 4, arrival, start, start, arrival + 0.02, arrival + 0.02,
        zeros.astype(np.uint8),
    )  # fmt: skip
    return Trace(queries, batches, tasks, k=0, r=0, instances=4, end=1.0 + 0.01 * count, bytes=500 * count)


@pytest.fixture
def latency():
    return np.random.default_rng(1).exponential(0.03, COUNT)


@pytest.fixture
def route():
    return np.random.default_rng(2).choice(len(Route), COUNT, p=[0.7, 0.1, 0.1, 0.06, 0.04]).astype(np.uint8)


@pytest.fixture
def answers():
    generator = np.random.default_rng(3)
    correct, agrees = generator.random(COUNT) < 0.8, generator.random(COUNT) < 0.9
    passes, reused = {"deployed": 7}, {"deployed": 3}
    return SimpleNamespace(
        correct=correct, agrees=agrees, top5=correct | agrees, passes=passes, reused=reused, wrong=None
    )


def run(trace, answers=None, floor=100):
    where = {"policy": "mine", "kind": "coded", "point": {"cluster.extra": 4}, "trial": 2}
    measured = measure(trace, **where, warmup=floor, seconds={"simulating": 0.5})
    return with_answers(measured, trace, answers) if answers else measured


def test_percentiles_are_exact_after_the_cut(latency, route):
    outcome = run(make_trace(latency, route))
    rest = latency[outcome.warmup :]
    assert outcome.warmup == 100
    assert outcome.queries == len(rest)
    assert tuple(outcome.latency) == LATENCIES
    assert outcome.latency["p999"] == pytest.approx(np.quantile(rest, 0.999))
    assert outcome.latency["gap"] == pytest.approx(np.quantile(rest, 0.999) - np.median(rest))
    assert outcome.latency["mean"] == pytest.approx(rest.mean())


def test_an_outage_is_counted(latency, route):
    latency[600:900] += 6.0
    outcome = run(make_trace(latency, route))
    assert outcome.settled
    assert outcome.warmup == 100
    assert outcome.latency["p99"] > 6.0


def test_a_run_without_steady_state_says_so(latency, route):
    outcome = run(make_trace(latency + np.linspace(50, 0, COUNT) ** 2, route))
    assert not outcome.settled


def test_the_counts_give_the_overall_accuracy_of_promise_9(latency, route, answers):
    outcome = run(make_trace(latency, route), answers)
    part = slice(outcome.warmup, None)
    counts = outcome.accuracy
    assert counts["available"] + counts["degraded"] == outcome.queries
    assert counts["degraded"] == outcome.unavailable == np.isin(route[part], UNAVAILABLE).sum()
    f = outcome.unavailable / outcome.queries
    a_a = counts["available_correct"] / counts["available"]
    a_d = counts["degraded_correct"] / counts["degraded"]
    assert (1 - f) * a_a + f * a_d == pytest.approx(answers.correct[part].mean(), abs=1e-15)
    assert counts["available_agrees"] + counts["degraded_agrees"] == answers.agrees[part].sum()
    assert counts["degraded_top5"] == (answers.top5[part] & np.isin(route[part], UNAVAILABLE)).sum()


def test_routes_are_counted_by_name(latency, route):
    outcome = run(make_trace(latency, route))
    assert outcome.routes == {kind.name.lower(): int((route[outcome.warmup :] == kind).sum()) for kind in Route}


def test_cost_is_that_of_the_whole_trace(latency, route):
    cost = run(make_trace(latency, route)).cost
    assert tuple(cost) == COSTS
    assert cost["instances"] == 4
    assert cost["busy_seconds_per_query"] == pytest.approx(0.02 * (COUNT - 1) / COUNT)
    assert cost["utilisation"] == pytest.approx(0.02 * (COUNT - 1) / (4 * 0.01 * COUNT))
    assert cost["bytes_per_query"] == 500


def test_the_quantile_grid_reaches_the_tail(latency, route):
    outcome = run(make_trace(latency, route))
    probabilities, seconds = outcome.quantiles["probabilities"], outcome.quantiles["seconds"]
    assert np.all(np.diff(GRID) > 0)
    assert 1 - probabilities[-2] == pytest.approx(1e-5)
    assert seconds[-1] == pytest.approx(latency[outcome.warmup :].max())
    assert seconds == sorted(seconds)


def test_sections_divide_what_was_measured(latency, route, answers):
    outcome = run(make_trace(latency, route), answers)
    assert len(outcome.blocks) == 10
    assert sum(block.queries for block in outcome.blocks) == outcome.queries
    assert sum(block.accuracy["degraded_correct"] for block in outcome.blocks) == outcome.accuracy["degraded_correct"]
    assert sum(block.unavailable for block in outcome.blocks) == outcome.unavailable


def test_a_short_run_has_no_sections(latency, route):
    assert run(make_trace(latency[:150], route[:150])).blocks == ()


@pytest.mark.parametrize("with_model", [True, False])
def test_json_brings_back_the_same_outcome(latency, route, answers, with_model):
    outcome = run(make_trace(latency, route), answers if with_model else None)
    assert Outcome.from_json(outcome.to_json()) == outcome
    assert (outcome.passes == {"deployed": 7}) == with_model
    assert (outcome.accuracy is not None) == with_model


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"blocks": 3}', '{"blocks": [], "policy": "x"}'])
def test_what_is_no_outcome_is_refused(text):
    with pytest.raises(ParmError, match="not the outcome of a cell"):
        Outcome.from_json(text)


def test_a_warm_up_that_leaves_nothing_is_refused(latency, route):
    with pytest.raises(ParmError, match="warm-up of 4000 queries leaves none to measure in a run of 4000"):
        run(make_trace(latency, route), floor=4000)
