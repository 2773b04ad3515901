"""The answer of `parm plan`: a table, sentences, and JSON with every number of instances that was tried."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from experiments.capacity.search import Plan, Tried, standings
from experiments.capacity.targets import SequentialTest, Target, TargetVerdict
from experiments.config.schema import Experiment

if TYPE_CHECKING:
    from rich.table import Table


def table(plans: Sequence[Plan], targets: Sequence[Target], looks: SequentialTest, rule: str) -> Table:
    """Return a rich table with a row for each policy, which are compared by the experiment's `rule` of cost."""
    from rich import box
    from rich.table import Table

    wanted = " and ".join(str(target) for target in targets)
    title = f"the fewest instances with {wanted}, all at once with {looks.confidence:.0%} confidence"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for heading in ("policy", "standing", "deployed", "in all", "price", "trials"):
        words = heading in ("policy", "standing")
        table.add_column(heading, justify="left" if words else "right", no_wrap=heading != "policy")
    table.add_column("measured there, and what is certain")
    table.add_column("with one fewer")
    for one, standing in zip(plans, standings(plans, rule), strict=True):
        answer = one.answer
        if answer.fewest is None:
            table.add_row(one.policy.label, standing, "-", "-", "-", str(answer.trials), _why(one), "")
            continue
        deployed = str(answer.fewest) if answer.doubtful is None else f"{answer.doubtful}?..{answer.fewest}"
        found = found_there(answer.tests[answer.fewest], True)
        table.add_row(
            one.policy.label,
            standing,
            deployed,
            str(one.instances),
            f"{one.price:.4g}",
            str(answer.trials),
            found,
            missed(answer.below) if answer.below else "there are none fewer",
        )
    return table


def found_there(test: Tried, met: bool) -> str:
    """Return what was measured of each target, with the bound that is certain."""
    parts = []
    for one in test.findings:
        bound = one.worst if met else one.best
        word = "at least" if one.target.at_least is met else "at most"
        name = str(one.target).split()[0]
        parts.append(f"{name} {one.target.written(one.value)} ({word} {one.target.written(bound)})")
    return ", ".join(parts)


def missed(test: Tried) -> str:
    """Return what is wrong with a number of instances that does not meet the targets."""
    if test.impossible is not None:
        return f"impossible: {test.impossible}"
    if test.verdict is TargetVerdict.OPEN:
        return f"cannot tell in {test.trials} trials: {found_there(test, True)}"
    short = [
        one
        for one in test.findings
        if (one.best < one.target.bound) == one.target.at_least and one.best != one.target.bound
    ]
    return f"misses: {found_there(replace(test, findings=short), False)}"


def _why(one: Plan) -> str:
    """Return why a policy has no answer, and what came closest at which price."""
    answer, closest = one.answer, one.closest
    size = one.sizes.get(closest.deployed)
    near = f"closest with {closest.deployed} deployed"
    near += f" ({size.instances} in all, price {size.price:.4g})" if size else ""
    doubt = "none for certain" if answer.doubtful is not None else f"none up to {max(answer.tests)} deployed"
    return f"{doubt}; {near}: {missed(closest)}"


def tried(one: Plan) -> str:
    """Return every number of instances that was tried, with what was found."""
    found = []
    for number in sorted(one.answer.tests):
        test = one.answer.tests[number]
        values = ", ".join(finding.target.written(finding.value) for finding in test.findings)
        found.append(f"{number} {test.verdict.value}{f' ({values})' if values else ''}")
    return f"tried for {one.policy.label}: {'; '.join(found)}"


def sentences(plans: Sequence[Plan], experiment: Experiment, looks: SequentialTest, most: int) -> list[str]:
    """Return the answer in words, the doubts about it and what it rests on."""
    rule = experiment.equal_cost
    best = plans[0]
    if best.answer.fewest is None:
        said = [f"No policy is certain to meet the targets with up to {most} deployed instances."]
        return [*said, *(tried(one) for one in plans)]
    measure = "price" if rule == "price" else "instances"
    as_cheap = [one.policy.label for one in plans[1:] if one.spent(rule) == best.spent(rule)]
    said = [
        f"fewest: {best.policy.label}, {best.answer.fewest} deployed instances, {best.instances} in all, "
        f"at a price of {best.price:.4g}; compared by {measure}"
        + (f"; {' and '.join(as_cheap)} need{'s' if len(as_cheap) == 1 else ''} as much" if as_cheap else "")
    ]
    said.extend(
        f"note: of {one.policy.label} it cannot be told between {one.answer.doubtful} and {one.answer.fewest} "
        f"deployed instances in up to {looks.most} trials; more --trials or more workload.queries may tell"
        for one in plans
        if one.answer.doubtful is not None and one.answer.fewest is not None
    )
    budget = best.spent(rule)
    for one in plans[1:]:
        there = one.at_budget(budget, rule)
        if one.spent(rule) > budget and there is not None:
            with_ = f"{there.deployed} deployed, {one.sizes[there.deployed].instances} in all"
            values = ", ".join(f"{str(of.target).split()[0]} {of.target.written(of.value)}" for of in there.findings)
            said.append(f"for as much, the best of {one.policy.label} that was tried is {values}, with {with_}")
    said.extend(tried(one) for one in plans if one.answer.fewest is None)
    unsettled = [
        one.policy.label for one in plans if one.answer.fewest and one.answer.tests[one.answer.fewest].unsettled
    ]
    if unsettled:
        who = ", ".join(unsettled)
        said.append(f"note: latency still rises or falls over the run in some trials of {who}: run more queries")
    return said


def asked(experiment: Experiment, targets: Sequence[Target], looks: SequentialTest) -> dict[str, Any]:
    """Return what a search was asked for, the head of its JSON."""
    return {
        "format": 1,
        "experiment": experiment.name,
        "seed": experiment.seed,
        "targets": [{"metric": one.metric, "bound": one.bound, "unit": one.unit} for one in targets],
        "confidence": looks.confidence,
        "most_trials": looks.most,
    }


def as_json(
    plans: Sequence[Plan], experiment: Experiment, targets: Sequence[Target], looks: SequentialTest, most: int
) -> str:
    """Return the whole search as JSON: every number of instances that was tried, for every policy."""
    document = {
        **asked(experiment, targets, looks),
        "most_deployed": most,
        "compared_by": "price" if experiment.equal_cost == "price" else "instances",
        "best": plans[0].policy.label if plans[0].answer.fewest is not None else None,
        "policies": [
            {
                "policy": one.policy.label,
                "deployed": one.answer.fewest,
                "cannot_tell_from": one.answer.doubtful,
                "standing": standing,
                "extra": one.extra,
                "instances": one.instances,
                "price": one.price,
                "trials": one.answer.trials,
                "tried": [tried_as_json(one.answer.tests[number]) for number in sorted(one.answer.tests)],
            }
            for one, standing in zip(plans, standings(plans, experiment.equal_cost), strict=True)
        ],
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def tried_as_json(test: Tried) -> dict[str, Any]:
    """Return what was found of one number as plain data."""
    return {
        "deployed": test.deployed,
        "verdict": test.verdict.value,
        "impossible": test.impossible,
        "trials": test.trials,
        "unsettled": test.unsettled,
        "found": {
            one.target.metric: {
                "mean": one.value,
                "certainly_no_worse_than": one.worst,
                "certainly_no_better_than": one.best,
            }
            for one in test.findings
        },
    }
