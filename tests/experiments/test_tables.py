import io

import numpy as np
import pytest
from rich.console import Console

from experiments import summary, tables
from experiments.outcome import COSTS, GRID, Measured, Outcome


def measured(generator, queries, scale, degraded, model):
    latency = generator.exponential(scale, queries)
    p50, p99, p999 = np.quantile(latency, (0.5, 0.99, 0.999))
    values = {"mean": latency.mean(), "p50": p50, "p99": p99, "p999": p999, "gap": p999 - p50}
    lost = int(degraded * queries)
    routes = {"own": queries - lost, "reconstruction": lost, "replica": 0, "backup": 0, "default": 0}
    accuracy = None
    if model:
        right = {"available": 0.97, "degraded": 0.9}
        accuracy = {"available": queries - lost, "degraded": lost}
        for name, share in right.items():
            correct = int(generator.binomial(accuracy[name], share))
            accuracy |= {f"{name}_correct": correct, f"{name}_top5": correct, f"{name}_agrees": correct}
    return {
        "queries": queries,
        "latency": {name: float(value) for name, value in values.items()},
        "routes": routes,
        "accuracy": accuracy,
    }, latency


def outcome(policy, trial, scale=0.01, degraded=0.0, model=True, instances=12, point=None, queries=20_000, **more):
    generator = np.random.default_rng([trial, *policy.encode()])
    whole, latency = measured(generator, queries, scale, degraded, model)
    parts = [Measured(**measured(generator, queries // 10, scale, degraded, model)[0]) for _ in range(10)]
    fields = {
        "policy": policy,
        "kind": policy.split("_")[0],
        "point": point or {},
        "trial": trial,
        "warmup": 100,
        "settled": True,
        "cost": dict(zip(COSTS, (instances, 0.5, 0.012, 2500.0), strict=True)),
        "quantiles": {"probabilities": GRID.tolist(), "seconds": np.quantile(latency, GRID).tolist()},
        "blocks": tuple(parts),
    }
    return Outcome(**(whole | fields | more))


def printed(outcomes, **options):
    buffer = io.StringIO()
    tables.show(summary.rows(outcomes), Console(file=buffer, **options))
    return buffer.getvalue()


def run(model=True, extra=18):
    plain = [outcome("equal_resources", trial, 0.02, model=model, instances=18) for trial in range(3)]
    return plain + [outcome("coded_k2", trial, 0.01, 0.1, model, instances=extra) for trial in range(3)]


def test_every_policy_has_its_numbers_above_their_margins():
    text = printed(run())
    lines = text.splitlines()
    at = next(index for index, line in enumerate(lines) if "coded_k2" in line)
    row = summary.rows(run())[1]
    assert f"{row.metrics['p999'].value:.1f}" in lines[at]
    assert f"±{row.metrics['p999'].margin:.1f}" in lines[at + 1]
    assert f"{100 * row.metrics['accuracy_degraded'].value:.1f}" in lines[at]
    assert "95% intervals over 3 trials" in text


def test_plain_text_of_at_most_120_columns_where_there_is_no_terminal():
    text = printed(run())
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 120
    assert "…" not in text


def test_many_policies_with_long_names_and_large_numbers_lose_no_digits():
    many = [
        outcome(f"a rather long name of policy number {i}", trial, 10.0 ** (i % 3), 0.1)
        for i in range(6)
        for trial in range(3)
    ]
    text = printed(many)
    assert "…" not in text
    for row in summary.rows(many):
        assert f"{row.metrics['p50'].value:.0f}"[:3] in text


def test_without_a_model_there_are_no_accuracy_columns():
    assert "A_d" in printed(run())
    assert "A_d" not in printed(run(model=False))


def test_unequal_cost_is_said_and_equal_cost_is_not():
    assert "not at equal cost" not in printed(run())
    text = printed(run(extra=16))
    assert "not at equal cost: equal_resources 18 instances; coded_k2 16 instances" in text


def test_one_table_per_sweep_point_even_when_rows_are_mixed():
    mixed = [
        outcome(policy, trial, point={"cluster.extra": extra})
        for policy in ("a", "b")
        for extra in (4, 6)
        for trial in range(2)
    ]
    text = printed(mixed)
    assert text.count("cluster.extra = 4") == text.count("cluster.extra = 6") == 1
    assert text.count("policy") == 2


def test_notes_name_the_policies_that_they_are_about():
    trials = [*run(), *(outcome("late", trial, settled=False, instances=18) for trial in range(3))]
    assert "overloaded (late)" in printed(trials)


@pytest.mark.parametrize(("degraded", "dash"), [(0.0, True), (0.1, False)])
def test_a_dash_stands_where_nothing_was_degraded(degraded, dash):
    text = printed([outcome("coded", trial, degraded=degraded) for trial in range(3)])
    row = next(line for line in text.splitlines() if line.startswith(" coded"))
    assert (" - " in row) == dash
