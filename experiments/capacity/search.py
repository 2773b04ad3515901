"""The capacity question: with how many instances does a policy meet its targets?

Each policy is a search of its own: it doubles or halves the deployed instances until one number meets the targets and
one does not, then bisects. Every number is tried with more and more trials until `targets.SequentialTest` decides. All
searches run side by side, so that the workers always have the trials of many policies to simulate.

Trials share their random numbers over all numbers of instances. A lucky set of trials is lucky at each of them, so that
the chance of an answer that is too small is about that of one test, not the sum over the search.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from experiments.analysis import cost
from experiments.analysis.outcome import Outcome
from experiments.capacity.targets import Finding, SequentialTest, Target, TargetVerdict, judge
from experiments.config.schema import Experiment
from experiments.run.cells import Cell, cells
from sim.policies import Policy

Run = Callable[[list[Cell]], dict[str, Outcome]]
"""Runs cells and returns their outcomes by id."""


@dataclass(frozen=True)
class Request:
    """Trials that a search wants to see."""

    deployed: int
    trials: range


@dataclass(frozen=True)
class Tried:
    """What was found of one number of deployed instances."""

    deployed: int
    verdict: TargetVerdict
    trials: int
    findings: Sequence[Finding] = ()
    impossible: str | None = None
    """Why the policy cannot be run on so many instances; then it counts as missing the targets."""
    unsettled: int = 0
    """Trials that found no end of their warm-up."""


@dataclass
class Answer:
    """Result of a search."""

    tests: dict[int, Tried] = field(default_factory=dict)
    """By deployed instances, in the order in which they were tried."""
    fewest: int | None = None
    """The fewest deployed instances that meet the targets with confidence."""
    doubtful: int | None = None
    """The fewest for which the trials cannot tell, if that is fewer than `fewest`, or nothing meets for certain."""

    @property
    def trials(self) -> int:
        """Trials simulated, all numbers of instances together."""
        return sum(test.trials for test in self.tests.values())

    @property
    def below(self) -> Tried | None:
        """The test of one instance fewer, which did not meet the targets; None where one is enough."""
        return self.tests.get(self.fewest - 1) if self.fewest else None


Search = Generator[Request, Sequence[Outcome] | str, Answer]
"""Yields requests, is sent the outcomes of these trials, or why there can be none, and returns the answer."""


def search(start: int, most: int, targets: Sequence[Target], looks: SequentialTest) -> Search:
    """Look for the fewest deployed instances, from 1 to `most`, beginning with `start`.

    It relies on more instances being no worse, which noise and rounding may break by a little. The number below the
    answer is always among those that were tried and did not meet the targets.
    """
    answer = Answer()

    def meets(number: int) -> Generator[Request, Sequence[Outcome] | str, bool]:
        if number not in answer.tests:
            answer.tests[number] = yield from _test(number, targets, looks)
        return answer.tests[number].verdict is TargetVerdict.MEETS

    low, high, number = 0, most + 1, min(start, most)
    while low + 1 < high:
        if (yield from meets(number)):
            high = number
        else:
            low = number
        if high > most:
            number = min(2 * low, most)
        elif low == 0:
            number = high // 2
        else:
            number = (low + high) // 2
    answer.fewest = high if high <= most else None
    if low and answer.tests[low].verdict is TargetVerdict.OPEN:
        missed = [n for n, test in answer.tests.items() if n < low and test.verdict is TargetVerdict.MISSES]
        bottom = max(missed, default=0)
        while bottom + 1 < low:
            number = (bottom + low) // 2
            yield from meets(number)
            if answer.tests[number].verdict is TargetVerdict.MISSES:
                bottom = number
            else:
                low = number
        answer.doubtful = low
    return answer


def _test(
    number: int, targets: Sequence[Target], looks: SequentialTest
) -> Generator[Request, Sequence[Outcome] | str, Tried]:
    seen: list[Outcome] = []
    test = Tried(number, TargetVerdict.OPEN, 0)
    for look, count in enumerate(looks.counts):
        got = yield Request(number, range(len(seen), count))
        if isinstance(got, str):
            return Tried(number, TargetVerdict.MISSES, 0, impossible=got)
        seen.extend(got)
        rooms = [[target.room(outcome) for outcome in seen] for target in targets]
        verdict, findings = judge(rooms, targets, looks.level(look))
        unsettled = sum(not outcome.settled for outcome in seen)
        test = Tried(number, verdict, len(seen), findings, unsettled=unsettled)
        if verdict is not TargetVerdict.OPEN:
            break
    return test


@dataclass(frozen=True)
class Plan:
    """A policy with the answer for it."""

    policy: Policy
    answer: Answer
    instances: int | None
    """All instances together, at the answer."""
    price: float | None
    """Their price."""
    extra: int | None
    """The budget for redundancy that went with them."""

    def spent(self, rule: str) -> float:
        """Return what is compared: the price under that rule, else the instances; infinite without an answer."""
        found = self.price if rule == "price" else self.instances
        return float("inf") if found is None else float(found)


def plan(experiment: Experiment, targets: Sequence[Target], looks: SequentialTest, most: int, run: Run) -> list[Plan]:
    """Answer the question for every policy of an experiment without a sweep; the cheapest comes first.

    `cluster.extra` grows and shrinks with the deployed instances as they stand in the file, rounded up.
    """
    alone = {
        policy.label: experiment.model_copy(
            update={"policies": (policy,), "figures": None, "traces": False, "claims": (), "reference": ()}
        )
        for policy in experiment.policies
    }
    searches = {label: search(experiment.cluster.instances, most, targets, looks) for label in alone}
    wanted = {label: next(one) for label, one in searches.items()}
    answers: dict[str, Answer] = {}
    while wanted:
        todo: dict[str, list[Cell] | str] = {label: _cells(alone[label], request) for label, request in wanted.items()}
        outcomes = run([cell for found in todo.values() if not isinstance(found, str) for cell in found])
        for label, found in todo.items():
            try:
                got = found if isinstance(found, str) else [outcomes[cell.id] for cell in found]
                wanted[label] = searches[label].send(got)
            except StopIteration as stop:
                answers[label] = stop.value
                del wanted[label]
    plans = [_plan(alone[policy.label], policy, answers[policy.label]) for policy in experiment.policies]
    return sorted(plans, key=lambda one: one.spent(experiment.equal_cost))


def extra_at(experiment: Experiment, deployed: int) -> int:
    """Return the budget that goes with so many deployed instances: in the file's proportion, rounded up."""
    return -(-experiment.cluster.extra * deployed // experiment.cluster.instances)


def _at(alone: Experiment, deployed: int) -> Experiment:
    return alone.at({"cluster.instances": deployed, "cluster.extra": extra_at(alone, deployed)})


def _cells(alone: Experiment, request: Request) -> list[Cell] | str:
    """Return the cells of a request, or why the policy cannot be run on so many instances."""
    try:
        there = _at(alone, request.deployed).model_copy(update={"trials": request.trials.stop, "traces": False})
    except ValidationError as error:
        return "; ".join(problem["msg"] for problem in error.errors())
    return cells(there)[request.trials.start :]


def _plan(alone: Experiment, policy: Policy, answer: Answer) -> Plan:
    if answer.fewest is None:
        return Plan(policy, answer, None, None, None)
    extra = extra_at(alone, answer.fewest)
    size = {"instances": answer.fewest, "extra": extra}
    cluster, machines = alone.cluster.model_copy(update=size), alone.machines.model_copy(update=size)
    pools = policy.pools(machines)
    return Plan(policy, answer, sum(pool.instances for pool in pools), cost.price(cluster, pools), extra)
