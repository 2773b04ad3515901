import io

import pytest
from rich.console import Console

from experiments.analysis import summary, tables
from tests.outcomes import outcome


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
    assert "run more queries (late)" in printed(trials)


@pytest.mark.parametrize(("degraded", "dash"), [(0.0, True), (0.1, False)])
def test_a_dash_stands_where_nothing_was_degraded(degraded, dash):
    text = printed([outcome("coded", trial, degraded=degraded) for trial in range(3)])
    row = next(line for line in text.splitlines() if line.startswith(" coded"))
    assert (" - " in row) == dash


def test_a_sweep_of_many_points_is_one_table_that_fits_a_screen():
    points = [{"workload.arrivals.rate": rate, "cluster.queue": queue} for rate in range(100, 105) for queue in "abcde"]
    many = [
        outcome(policy, trial, 0.01, 0.1, True, instances, point, settled=False)
        for policy, instances in (("equal_resources", 18), ("coded k=2", 16))
        for point in points
        for trial in range(2)
    ]
    lines = printed(many).splitlines()
    assert len(lines) <= 40
    assert sum("±" in line for line in lines) == 25
    assert max(map(len, lines)) <= 120
    assert any("all other columns are in summary.csv" in line for line in lines)
    text = " ".join(" ".join(lines).split())
    assert "not at equal cost: equal_resources 18 instances; coded k=2 16 instances" in text
    assert "the like in 24 more of 25" in text
    assert text.count("note: too short") == 1


def test_a_huge_sweep_says_what_is_left_out_of_its_table():
    huge = [
        outcome(f"policy{number}", trial, point={"workload.arrivals.rate": rate})
        for number in range(12)
        for rate in range(100)
        for trial in range(2)
    ]
    text = printed(huge)
    assert len(text.splitlines()) <= 45
    assert max(map(len, text.splitlines())) <= 120
    left = " ".join(text.split())
    assert "70 of 100 sweep points and policy" in left
    shown = [name for name in text.splitlines()[2].split() if name.startswith("policy")]
    assert f"points and policy{len(shown)}," in left
