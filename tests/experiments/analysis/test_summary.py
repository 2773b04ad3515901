import csv
import dataclasses
import json
import math

import pytest

from experiments.analysis import summary
from experiments.analysis.quantiles import Latencies
from experiments.analysis.statistics import student_t, wilson
from sim.errors import ParmError
from tests.outcomes import outcome, with_tail

KEY = "workload.arrivals.rate"


def grid(model=True, trials=4):
    return [
        outcome(policy, trial, scale, degraded, model, point={KEY: rate})
        for rate in (200, 100)
        for policy, scale, degraded in (("plain", 0.02, 0.0), ("coded_2", 0.01, 0.1))
        for trial in range(trials)
    ]


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_one_row_per_policy_and_point_in_the_order_given():
    rows = summary.rows(grid())
    assert [(row.policy, row.point[KEY]) for row in rows] == [
        ("plain", 200), ("coded_2", 200), ("plain", 100), ("coded_2", 100),
    ]  # fmt: skip
    assert all(row.trials == 4 and row.queries == 80_000 for row in rows)


def test_latencies_are_milliseconds_with_intervals_over_the_trials():
    outcomes = grid()
    row = summary.rows(outcomes)[1]
    assert row.metrics["p999"] == Latencies(outcomes[4:8]).sample("p999").interval
    assert row.metrics["p999"].value == pytest.approx(10 * math.log(1000), rel=0.05)
    expected = student_t([1000 * one.latency["mean"] for one in outcomes[4:8]])
    assert row.metrics["mean"].value == pytest.approx(expected.value)
    assert row.metrics["mean"].hi == pytest.approx(expected.hi)


def test_promise_9_holds_between_the_columns():
    row = summary.rows(grid())[1]
    f, a_a, a_d, a_o = (row.metrics[name].value for name in summary.FRACTIONS)
    assert f > 0
    assert a_o == pytest.approx((1 - f) * a_a + f * a_d, abs=1e-12)


def test_accuracy_is_pooled_and_its_interval_is_no_narrower_than_wilson():
    outcomes = grid()[4:8]
    interval = summary.rows(outcomes)[0].metrics["accuracy_degraded"]
    correct = sum(one.accuracy["degraded_correct"] for one in outcomes)
    plain = wilson(correct, sum(one.accuracy["degraded"] for one in outcomes))
    assert interval.value == pytest.approx(plain.value)
    assert interval.hi - interval.lo >= plain.hi - plain.lo


def test_columns_are_exactly_those_of_the_contract(tmp_path):
    summary.write(grid(), tmp_path)
    metrics = ["mean", "p50", "p99", "p999", "gap"]
    metrics += ["unavailable", "accuracy_available", "accuracy_degraded", "accuracy_overall"]
    metrics += ["goodput", "goodput_per_instance", "goodput_per_price"]
    columns = ["policy", KEY] + [name + end for name in metrics for end in ("", "_lo", "_hi")]
    columns += ["instances", "price", "utilisation", "busy_seconds_per_query", "bytes_per_query"]
    columns += ["relative_cost", "equal_cost", "queries", "trials", "standing"]
    with (tmp_path / "summary.csv").open(newline="") as file:
        assert next(csv.reader(file)) == columns
    first, second, *_ = read_csv(tmp_path / "summary.csv")
    assert first["accuracy_degraded"] == first["accuracy_degraded_lo"] == ""
    assert float(second["accuracy_degraded_lo"]) < float(second["accuracy_degraded"])
    assert (first[KEY], first["instances"], first["queries"], first["trials"]) == ("200", "12.0", "80000", "4")


def test_without_a_model_the_accuracy_columns_are_there_and_empty(tmp_path):
    summary.write(grid(model=False), tmp_path)
    for record in read_csv(tmp_path / "summary.csv"):
        empty = {name for name, value in record.items() if value == ""}
        assert empty == {name for name in record if name.startswith(("accuracy", "goodput"))} | {"standing"}


def test_json_is_the_same_and_comes_back(tmp_path):
    rows = summary.write(grid(), tmp_path)
    document = json.loads((tmp_path / "summary.json").read_text())
    assert document["units"]["p999"] == "ms"
    assert document["rows"][1]["routes"]["reconstruction"] == 8000
    assert document["rows"][0]["metrics"]["accuracy_degraded"] is None
    assert summary.read(tmp_path) == rows
    assert float(read_csv(tmp_path / "summary.csv")[1]["p99"]) == document["rows"][1]["metrics"]["p99"]["value"]


def test_a_row_whose_p99_9_rests_on_few_of_its_trials_has_a_note():
    trials = [dataclasses.replace(with_tail(outcome("plain", trial), 0.01, 0.05)) for trial in range(6)]
    assert not any("few of the trials make p99.9" in note for note in summary.rows(trials)[0].notes)
    trials[3] = with_tail(trials[3], 0.01, 5.0)
    assert any("few of the trials make p99.9" in note for note in summary.rows(trials)[0].notes)


def test_writing_leaves_nothing_else_behind(tmp_path):
    summary.write(grid(), tmp_path)
    summary.write(grid()[:4], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["differences.csv", "summary.csv", "summary.json"]
    assert len(read_csv(tmp_path / "summary.csv")) == 1


def test_differences_are_paired_with_the_first_policy_at_the_same_point():
    base = [outcome("plain", trial) for trial in range(5)]
    shifted = [
        dataclasses.replace(
            one,
            policy="other",
            latency={name: at + 0.003 for name, at in one.latency.items()},
            quantiles=one.quantiles | {"seconds": [at + 0.003 for at in one.quantiles["seconds"]]},
        )
        for one in base
    ]
    found = {one.metric: one for one in summary.differences([*base, *shifted])}
    assert set(found) == set(summary.COMPARED) - {"goodput"}
    one = found["p50"]
    assert (one.policy, one.against) == ("other", "plain")
    assert (one.difference.value, one.difference.lo, one.difference.hi) == pytest.approx((3.0, 3.0, 3.0))
    assert one.relative == pytest.approx(300 / summary.rows(base)[0].metrics["p50"].value)
    assert found["accuracy_overall"].difference.value == 0


def test_only_trials_that_both_have_are_paired():
    ours, base = [outcome("b", trial) for trial in (3, 1)], [outcome("a", trial) for trial in range(3)]
    found = next(iter(summary.differences([*base, *ours])))
    expected = 1000 * (outcome("b", 1).latency["mean"] - outcome("a", 1).latency["mean"])
    assert found.difference.value == pytest.approx(expected)


def test_differences_file_has_its_header_even_when_there_is_one_policy(tmp_path):
    header = f"policy,against,{KEY},metric,difference,lo,hi,relative_percent\n"
    summary.write(grid(), tmp_path)
    assert (tmp_path / "differences.csv").read_text().startswith(header)
    assert len(read_csv(tmp_path / "differences.csv")) == 2 * (len(summary.COMPARED) - 1)
    summary.write(grid()[:4], tmp_path)
    assert (tmp_path / "differences.csv").read_text() == header


def test_a_single_trial_gets_its_intervals_from_its_sections():
    one = outcome("coded_2", 0, degraded=0.1)
    row = summary.rows([one])[0]
    assert row.metrics["p99"].value == pytest.approx(1000 * one.latency["p99"])
    assert row.metrics["p99"].lo < row.metrics["p99"].value < row.metrics["p99"].hi
    assert row.metrics["accuracy_overall"].margin > 0
    assert any("one trial only" in note for note in row.notes)


def test_a_single_short_trial_has_no_interval_of_its_latency(tmp_path):
    summary.write([outcome("plain", 0, queries=60, blocks=())], tmp_path)
    record = read_csv(tmp_path / "summary.csv")[0]
    assert record["p99"] != "" and record["p99_lo"] == record["p99_hi"] == ""
    row = summary.read(tmp_path)[0]
    assert math.isnan(row.metrics["p99"].lo)
    assert any("too short for intervals" in note for note in row.notes)


def test_notes_warn_of_what_should_not_be_trusted():
    trials = [outcome("coded_2", trial, degraded=0.004, queries=2000, settled=trial > 0) for trial in range(3)]
    notes = " | ".join(summary.rows(trials)[0].notes)
    assert "still rises or falls from part to part in 1 of 3 trials" in notes
    assert "p99 and p99.9 rest on few queries per trial (2 beyond p99.9" in notes
    assert "A_d rests on 24 unavailable predictions" in notes
    (note,) = summary.rows(grid())[0].notes
    assert note.startswith("p99.9 rests on few queries per trial (20 beyond p99.9")
    assert summary.rows([outcome("plain", trial, queries=100_000) for trial in range(2)])[0].notes == []


def test_a_directory_without_a_summary_is_refused(tmp_path):
    with pytest.raises(ParmError, match=r"holds no summary\.json"):
        summary.read(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": [{}]}', '{"rows": 3}', '{"rows": [{"metrics": {}}]}'])
def test_a_damaged_summary_is_refused(tmp_path, text):
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(ParmError, match="cannot be read as the summary"):
        summary.read(tmp_path)
