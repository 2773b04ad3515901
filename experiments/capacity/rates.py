"""The inverse question: the highest arrival rate at which a policy meets its targets with the machines of the file.

Rates are whole percents of the file's, from 1% to 400%. They are searched as numbers of instances are, from the other
end: number n stands for the rate of 401 - n percent, so that the fewest that meet the targets is the highest rate, and
the search does not rely on lower rates being no worse. All rates share their random numbers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from experiments.capacity.report import asked, found_there, missed, tried_as_json
from experiments.capacity.search import Answer, Run, answers
from experiments.capacity.targets import SequentialTest, Target
from experiments.config.schema import Experiment
from sim.errors import ParmError

if TYPE_CHECKING:
    from rich.table import Table

MOST = 400
"""The highest rate that is tried, in percent of the file's."""
RATE = "workload.arrivals.rate"


@dataclass(frozen=True)
class HighestRate:
    """A policy with the highest rate at which it meets the targets."""

    policy: str
    answer: Answer
    file_rate: float

    def rate(self, number: int) -> float:
        """Return the queries per second that a number of the search stands for."""
        return self.file_rate * (MOST + 1 - number) / 100

    @property
    def highest(self) -> float | None:
        """The highest rate that meets the targets with confidence."""
        return None if self.answer.fewest is None else self.rate(self.answer.fewest)

    @property
    def doubtful(self) -> float | None:
        """The highest rate of which the trials cannot tell, if it is above that, or nothing meets for certain."""
        return None if self.answer.doubtful is None else self.rate(self.answer.doubtful)


def highest_rates(
    experiment: Experiment, targets: Sequence[Target], looks: SequentialTest, run: Run
) -> list[HighestRate]:
    """Answer the question for every policy of an experiment without a sweep; the highest rate comes first.

    Raises ParmError where the arrivals have no rate.
    """
    rate = getattr(experiment.workload.arrivals, "rate", None)
    if not isinstance(rate, int | float):
        kind = experiment.workload.arrivals.name_in_yaml()
        raise ParmError(f"--rate needs arrivals with a 'rate', but those of {experiment.name} are {kind}.")

    def at(alone: Experiment, number: int) -> Experiment:
        return alone.at({RATE: rate * (MOST + 1 - number) / 100})

    found = answers(experiment, targets, looks, MOST + 1 - 100, MOST, at, run)
    rates = [HighestRate(policy, answer, float(rate)) for policy, answer in found.items()]
    return sorted(rates, key=lambda one: -(one.highest or 0.0))


def table(rates: Sequence[HighestRate], targets: Sequence[Target], looks: SequentialTest) -> Table:
    """Return a rich table with a row for each policy."""
    from rich import box
    from rich.table import Table

    wanted = " and ".join(str(target) for target in targets)
    title = f"the highest arrival rate with {wanted}, all at once with {looks.confidence:.0%} confidence"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for heading in ("policy", "queries/s", "standing", "trials"):
        table.add_column(heading, justify="left" if heading in ("policy", "standing") else "right")
    table.add_column("measured there, and what is certain")
    table.add_column("at 1% more")
    for one, standing in zip(rates, standings(rates), strict=True):
        answer = one.answer
        if answer.fewest is None:
            closest = min(answer.tests.values(), key=lambda test: test.excess)
            near = f"closest at {one.rate(closest.deployed):.4g}: {missed(closest)}"
            table.add_row(one.policy, "-", standing, str(answer.trials), near, "")
            continue
        number = f"{one.highest:.4g}" + (f"..{one.doubtful:.4g}?" if one.doubtful is not None else "")
        above = missed(answer.below) if answer.below else "not tried"
        table.add_row(
            one.policy, number, standing, str(answer.trials), found_there(answer.tests[answer.fewest], True), above
        )
    return table


def standings(rates: Sequence[HighestRate]) -> list[str]:
    """Return what is certain of each policy: best, as high, undecided, lower, or none; the best comes first."""
    best = rates[0].highest
    found = []
    for one in rates:
        if best is not None and one.highest == best:
            found.append("best" if one is rates[0] else "as high")
        elif one.doubtful is not None and (best is None or one.doubtful > best):
            found.append("undecided")
        else:
            found.append("none" if one.highest is None else "lower")
    return found


def sentences(rates: Sequence[HighestRate], looks: SequentialTest) -> list[str]:
    """Return the answer in words, and the doubts about it."""
    best = rates[0]
    if best.highest is None:
        return ["No policy is certain to meet the targets at any rate that was tried."]
    said = [f"highest rate: {best.policy}, {best.highest:.4g} queries/s"]
    if best.answer.fewest == 1:
        said.append(f"note: {MOST}% of the file's rate is the highest that is tried; begin with a higher one")
    said.extend(
        f"note: of {one.policy} it cannot be told up to {one.doubtful:.4g} queries/s in up to {looks.most} trials; "
        "more --trials or more workload.queries may tell, or a difference that does not matter, --within"
        for one in rates
        if one.doubtful is not None
    )
    return said


def as_json(
    rates: Sequence[HighestRate], experiment: Experiment, targets: Sequence[Target], looks: SequentialTest
) -> str:
    """Return the whole search as JSON: every rate that was tried, for every policy."""
    document = {
        **asked(experiment, targets, looks),
        "policies": [
            {
                "policy": one.policy,
                "rate": one.highest,
                "cannot_tell_to": one.doubtful,
                "standing": standing,
                "trials": one.answer.trials,
                "tried": [
                    {"rate": one.rate(number)} | {k: v for k, v in tried_as_json(test).items() if k != "deployed"}
                    for number, test in sorted(one.answer.tests.items(), reverse=True)
                ],
            }
            for one, standing in zip(rates, standings(rates), strict=True)
        ],
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"
