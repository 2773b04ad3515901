"""Who dominates whom, the table of it, and its figure."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.analysis import frontier, summary
from experiments.analysis.frontier import as_text, frontiers, sentences
from experiments.analysis.outcome import Outcome
from experiments.config import loader
from experiments.figures.base import FigureData
from experiments.figures.frontier import Frontier
from experiments.run.cells import cells
from tests.outcomes import outcome, with_tail

NOISE = (0.0, 1.0, -1.0, 0.5, -0.5)


def trials(
    policy: str, late: float, right: float = 0.97, instances: float = 18, spread: float = 0.1, **point: Any
) -> list[Outcome]:
    """Trials with a p99.9 of `late` ms give or take, `right` answers in ten thousand, and noise of the policy's own."""
    found = []
    for trial, noise in enumerate(NOISE):
        base = outcome(policy, trial, instances=int(instances), point=point, queries=1000)
        base = dataclasses.replace(base, queries=1_000_000)  # its latencies are replaced below
        correct = round(10_000 * right)
        accuracy = dict.fromkeys(base.accuracy or {}, 0) | {"available": 10_000, "available_correct": correct}
        turned = noise if sum(policy.encode()) % 2 else -noise  # policies' noises are not alike
        late_here = max(late + spread * turned, 0.1) / 1000
        found.append(dataclasses.replace(with_tail(base, late_here / 10, late_here), accuracy=accuracy))
    return found


def best(*policies: list[Outcome]) -> list[str]:
    outcomes = [one for policy in policies for one in policy]
    (group,) = frontiers(summary.rows(outcomes), outcomes)
    return [choice.label for choice in group if not choice.dominated_by]


def test_better_in_one_thing_and_no_worse_in_the_others_dominates() -> None:
    assert best(trials("a", 40), trials("b", 50)) == ["a"]
    assert best(trials("a", 40, right=0.98), trials("b", 40, right=0.97)) == ["a"]
    assert best(trials("a", 40, instances=17), trials("b", 40)) == ["a"]


def test_what_is_traded_is_not_dominated() -> None:
    assert best(trials("a", 40, right=0.96), trials("b", 50, right=0.97)) == ["a", "b"]
    assert best(trials("a", 40, instances=19), trials("b", 50)) == ["a", "b"]


def test_what_is_better_by_chance_dominates_nothing() -> None:
    assert best(trials("a", 40, spread=10), trials("b", 44, spread=10)) == ["a", "b"]
    assert best(trials("a", 40, spread=1), trials("b", 44, spread=1)) == ["a"]


def test_a_noisy_estimate_that_is_far_worse_is_worse() -> None:
    """Cheaper, and not worse beyond its wide interval; yet nobody would say that it is as good."""
    assert best(trials("a", 80, instances=15, spread=100), trials("b", 40)) == ["a", "b"]


def test_a_negligible_difference_within_the_noise_is_none() -> None:
    """Warm-ups that were cut differently must not save a policy with the very same model."""
    better = [
        dataclasses.replace(one, accuracy=one.accuracy | {"available_correct": 9700 + wobble})
        for one, wobble in zip(trials("b", 50), (9, -8, 1, 2, -1), strict=True)
    ]
    assert best(trials("a", 40), better) == ["a"]
    surely = [dataclasses.replace(one, accuracy=one.accuracy | {"available_correct": 9708}) for one in trials("b", 50)]
    assert best(trials("a", 40), surely) == ["a", "b"]


def test_choices_meet_under_the_same_conditions_only_and_across_budgets() -> None:
    rate, extra = "workload.arrivals.rate", "cluster.extra"
    outcomes = [
        one
        for load, slower in ((100, 0), (200, 5))
        for budget, late in ((3, 50), (6, 40))
        for one in trials("a", late + slower, instances=12 + budget, **{rate: load, extra: budget})
        + trials("b", 60 + slower, instances=12 + budget, **{rate: load, extra: budget})
    ]
    groups = frontiers(summary.rows(outcomes), outcomes)
    assert [group[0].conditions for group in groups] == [{rate: 100}, {rate: 200}]
    assert sentences(groups)[1] == "not dominated at rate = 200: a, extra=3; a, extra=6"


def test_a_policy_that_a_budget_does_not_touch_is_there_once() -> None:
    outcomes = [
        one
        for budget in (3, 6)
        for one in trials("none", 90, instances=12, **{"cluster.extra": budget})
        + trials("a", 50 - budget, instances=12 + budget, **{"cluster.extra": budget})
    ]
    (group,) = frontiers(summary.rows(outcomes), outcomes)
    assert [choice.label for choice in group] == ["none", "a, extra=3", "a, extra=6"]


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.sampled_from([0.1, 2.0])),
        min_size=1,
        max_size=7,
    )
)
def test_some_choice_is_always_left_and_dominates_what_it_should(worlds: list[tuple[int, int, int, float]]) -> None:
    outcomes = [
        one
        for number, (late, right, dear, spread) in enumerate(worlds)
        for one in trials(f"p{number}", 40 + 0.3 * late, 0.97 + 0.0006 * right, 16 + dear, spread)
    ]
    (group,) = frontiers(summary.rows(outcomes), outcomes)
    assert any(not choice.dominated_by for choice in group)
    for choice in group:
        assert choice not in choice.dominated_by
        assert all(choice not in one.dominated_by for one in choice.dominated_by)


def test_nobody_in_a_circle_is_dominated_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allowances may close a circle; what it beats together is still dominated."""
    beats = {("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")}
    monkeypatch.setattr(frontier, "dominates", lambda one, other, _: (one.row.policy, other.row.policy) in beats)
    assert best(*(trials(name, 40) for name in "abcd")) == ["a", "b", "c"]


def test_the_table_names_who_dominates() -> None:
    outcomes = [*trials("a", 40), *trials("b", 50), *trials("c", 60, right=0.99)]
    text = as_text(frontiers(summary.rows(outcomes), outcomes))
    first, second, third = csv.DictReader(io.StringIO(text))
    assert (first["on_frontier"], second["on_frontier"], third["on_frontier"]) == ("yes", "no", "yes")
    assert second["dominated_by"] == "a"
    assert (first["cost"], first["cost_in"]) == ("18.0", "instances")
    assert float(third["accuracy_overall"]) == pytest.approx(0.99)


def drawn(*policies: list[Outcome], **options: Any) -> str:
    import matplotlib.text

    outcomes = [one for policy in policies for one in policy]
    figure = Frontier(**options).draw(FigureData(summary.rows(outcomes), outcomes))
    assert figure is not None
    return " | ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def test_the_figure_names_what_is_not_dominated_at_its_mark() -> None:
    text = drawn(trials("fast_one", 40, right=0.96), trials("slow_one", 50), trials("late_one", 60))
    labels = text.split(" | ")
    assert "fast one" in labels
    assert "slow one" in labels
    assert "late one" not in labels
    assert "overall accuracy" in text


def test_the_figure_without_a_model_sets_latency_against_cost() -> None:
    plain = [
        [dataclasses.replace(one, accuracy=None) for one in trials(name, late)] for name, late in (("a", 4), ("b", 9))
    ]
    text = drawn(*plain)
    assert "cost (instances)" in text
    assert "accuracy" not in text


def test_what_is_far_too_late_is_drawn_at_the_end_of_the_axis() -> None:
    assert "arrows: beyond 80 ms" in drawn(trials("a", 40), trials("b", 90, right=0.99), reach=2.0)
    assert "arrows" not in drawn(trials("a", 40), trials("b", 60, right=0.99), reach=2.0)


def test_a_figure_without_the_cells_says_so() -> None:
    rows = summary.rows(trials("a", 40))
    assert Frontier().reason(FigureData(rows)) == "the run's cells are not there"


def test_the_file_has_every_policy_k_and_r_and_two_loads() -> None:
    import experiments
    from sim.policies import Policy

    experiment = loader.load(Path(experiments.__file__).parent / "frontier.yaml")
    kinds = {policy.name_in_yaml() for policy in experiment.policies}
    ours = {name for name, member in Policy.members().items() if member.__module__.startswith("sim.")}
    assert kinds >= ours - {"per_service"}  # which only says whose policy each is
    groups = {policy.group for policy in experiment.policies if policy.name_in_yaml() == "coded"}
    assert groups >= {(k, r) for k in (2, 3, 4) for r in (1, 2)}
    assert experiment.equal_cost == "price"
    spent = {cell.policy.label for cell in cells(experiment)}
    assert len(spent) == len(experiment.policies)
