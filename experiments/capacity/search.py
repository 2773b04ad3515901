"""The capacity question: with how many instances does a policy meet its targets?

Each policy is a search of its own, over the deployed instances. Every number is tried with more and more trials until
`targets.SequentialTest` decides. All searches run side by side, so that the workers always have the trials of many
policies to simulate.

Trials share their random numbers over all numbers of instances. A lucky set of trials is lucky at each of them, so that
the chance of an answer that is too small is about that of one test, not the sum over the search. The policies share the
error that may be made, so that which is best is as certain as was asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace

from pydantic import ValidationError

from experiments.analysis import cost
from experiments.analysis.outcome import Outcome
from experiments.capacity.targets import Finding, SequentialTest, Target, TargetVerdict, futile, judge
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

    @property
    def excess(self) -> float:
        """The worst of the targets' values as a multiple of its bound; infinite where nothing could be run."""
        return max((one.excess for one in self.findings), default=math.inf)


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

    It doubles or halves and then bisects, but does not rely on more instances being no worse: where that finds nothing,
    it looks around the number that came closest, and below what it finds it goes on until a number surely misses and is
    no better than that above it. The number below the answer is always among those that were tried.
    """
    one = _Searching(most, targets, looks)
    fewest = yield from one.bisect(min(start, most))
    if fewest is None:
        fewest = yield from one.near_the_closest()
    if fewest is not None:
        fewest = yield from one.below(fewest)
    doubtful = yield from one.in_doubt(most + 1 if fewest is None else fewest)
    return Answer(one.tests, fewest, doubtful)


Step = Generator[Request, Sequence[Outcome] | str, int | None]
"""A part of a search; returns a number of instances, if it found one."""


@dataclass
class _Searching:
    """What a search has tried so far."""

    most: int
    targets: Sequence[Target]
    looks: SequentialTest
    tests: dict[int, Tried] = field(default_factory=dict)

    def meets(self, number: int) -> Generator[Request, Sequence[Outcome] | str, bool]:
        """Say whether a number meets the targets; it is tried once."""
        if number not in self.tests:
            self.tests[number] = yield from _test(number, self.targets, self.looks)
        return self.tests[number].verdict is TargetVerdict.MEETS

    def bisect(self, number: int) -> Step:
        """Return a number that meets the targets while the one below does not, or None."""
        low, high = 0, self.most + 1
        while low + 1 < high:
            if (yield from self.meets(number)):
                high = number
            else:
                low = number
            if high > self.most:
                number = min(2 * low, self.most)
            elif low == 0:
                number = high // 2
            else:
                number = (low + high) // 2
        return high if high <= self.most else None

    def near_the_closest(self) -> Step:
        """Return a number that meets the targets, from around the closest: surely found where the tail is a valley."""
        while True:
            closest = min(self.tests.values(), key=lambda test: test.excess).deployed
            number = _between(closest, self.tests, self.most)
            if number is None:
                return None
            if (yield from self.meets(number)):
                return number

    def below(self, fewest: int) -> Step:
        """Return the fewest that meet the targets, from `fewest` downwards."""
        number = fewest - 1
        while number > 0:
            if (yield from self.meets(number)):
                fewest, number = number, number - 1
            elif _hopeless(self.tests, number):
                break
            else:
                number -= max(1, number // 10)
        return fewest

    def in_doubt(self, high: int) -> Step:
        """Return the fewest below `high` of which one cannot tell, or None."""
        doubtful = min(
            (n for n, test in self.tests.items() if n < high and test.verdict is TargetVerdict.OPEN), default=0
        )
        while doubtful > 1:
            yield from self.meets(doubtful - 1)
            if self.tests[doubtful - 1].verdict is not TargetVerdict.OPEN:
                break
            doubtful -= 1
        return doubtful or None


def _between(closest: int, tried: dict[int, Tried], most: int) -> int | None:
    """Return the middle of the wider gap to the next number that was tried, below or above; None where both are 1."""
    below = max((n for n in tried if n < closest), default=0)
    above = min((n for n in tried if n > closest), default=most + 1)
    if max(closest - below, above - closest) < 2:
        return None
    return (below + closest) // 2 if closest - below >= above - closest else (closest + above) // 2


def _hopeless(tried: dict[int, Tried], number: int) -> bool:
    """Say whether fewer instances than `number` are not worth a look."""
    test = tried[number]
    above = tried[min(n for n in tried if n > number)]
    return test.verdict is TargetVerdict.MISSES and test.excess >= above.excess


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
        rooms = [target.rooms(seen) for target in targets]
        verdict, findings = judge(rooms, targets, looks.level(look))
        unsettled = sum(not outcome.settled for outcome in seen)
        test = Tried(number, verdict, len(seen), findings, unsettled=unsettled)
        if verdict is not TargetVerdict.OPEN or futile(rooms, targets, looks):
            break
    return test


@dataclass(frozen=True)
class Size:
    """What a number of deployed instances comes to."""

    instances: int
    """All instances together."""
    price: float
    extra: int
    """The budget for redundancy that goes with them."""

    def spent(self, rule: str) -> float:
        """Return what is compared: the price under that rule, else the instances."""
        return float(self.price if rule == "price" else self.instances)


@dataclass(frozen=True)
class Plan:
    """A policy with the answer for it."""

    policy: Policy
    answer: Answer
    sizes: dict[int, Size]
    """What each number of deployed instances that was tried comes to."""

    @property
    def here(self) -> Size | None:
        """What the answer comes to."""
        return self.sizes.get(self.answer.fewest) if self.answer.fewest else None

    @property
    def instances(self) -> int | None:
        """All instances together, at the answer."""
        return self.here.instances if self.here else None

    @property
    def price(self) -> float | None:
        """Their price."""
        return self.here.price if self.here else None

    @property
    def extra(self) -> int | None:
        """The budget for redundancy that went with them."""
        return self.here.extra if self.here else None

    @property
    def closest(self) -> Tried:
        """The number that came closest to the targets."""
        return min(self.answer.tests.values(), key=lambda test: test.excess)

    def at_budget(self, budget: float, rule: str) -> Tried | None:
        """Return the best of what was tried that costs no more; None where nothing does."""
        affordable = [
            test
            for number, test in self.answer.tests.items()
            if number in self.sizes and self.sizes[number].spent(rule) <= budget and test.findings
        ]
        return min(affordable, key=lambda test: test.excess, default=None)

    def spent(self, rule: str) -> float:
        """Return what is compared: the price under that rule, else the instances; infinite without an answer."""
        return self.here.spent(rule) if self.here else math.inf


def plan(experiment: Experiment, targets: Sequence[Target], looks: SequentialTest, most: int, run: Run) -> list[Plan]:
    """Answer the question for every policy of an experiment without a sweep; the cheapest comes first.

    `cluster.extra` grows and shrinks with the deployed instances as they stand in the file, rounded up.
    """
    found = answers(experiment, targets, looks, experiment.cluster.instances, most, _at, run)
    plans = [_plan(experiment, policy, found[policy.label]) for policy in experiment.policies]
    return sorted(plans, key=lambda one: one.spent(experiment.equal_cost))


def standings(plans: Sequence[Plan], rule: str) -> list[str]:
    """Return what is certain of each policy: best, as cheap, undecided, dearer, or none; the best comes first."""
    best, found = plans[0].spent(rule), []
    for one in plans:
        doubtful = one.sizes.get(one.answer.doubtful) if one.answer.doubtful is not None else None
        if one.here is not None and one.spent(rule) == best:
            found.append("best" if one is plans[0] else "as cheap")
        elif doubtful is not None and doubtful.spent(rule) < best:
            found.append("undecided")
        else:
            found.append("none" if one.here is None and doubtful is None else "dearer")
    return found


def answers(
    experiment: Experiment,
    targets: Sequence[Target],
    looks: SequentialTest,
    start: int,
    most: int,
    at: Callable[[Experiment, int], Experiment],
    run: Run,
) -> dict[str, Answer]:
    """Search for every policy, by name, the smallest number from 1 to `most` that meets the targets.

    `at` returns the experiment that a number stands for. The policies share the error, so that all answers hold at once
    with the confidence of `looks` (Bonferroni).
    """
    looks = replace(looks, confidence=1 - (1 - looks.confidence) / len(experiment.policies))
    for_itself = {"figures": None, "traces": False, "claims": (), "reference": (), "precision": None, "select": None}
    alone = {
        policy.label: experiment.model_copy(update={"policies": (policy,), **for_itself})
        for policy in experiment.policies
    }
    searches = {label: search(start, most, targets, looks) for label in alone}
    wanted = {label: next(one) for label, one in searches.items()}
    done: dict[str, Answer] = {}
    while wanted:
        todo: dict[str, list[Cell] | str] = {
            label: _cells(alone[label], request, at) for label, request in wanted.items()
        }
        outcomes = run([cell for found in todo.values() if not isinstance(found, str) for cell in found])
        for label, found in todo.items():
            try:
                got = found if isinstance(found, str) else [outcomes[cell.id] for cell in found]
                wanted[label] = searches[label].send(got)
            except StopIteration as stop:
                done[label] = stop.value
                del wanted[label]
    return {label: done[label] for label in alone}


def extra_at(experiment: Experiment, deployed: int) -> int:
    """Return the budget that goes with so many deployed instances: in the file's proportion, rounded up."""
    return -(-experiment.cluster.extra * deployed // experiment.cluster.instances)


def _at(alone: Experiment, deployed: int) -> Experiment:
    return alone.at({"cluster.instances": deployed, "cluster.extra": extra_at(alone, deployed)})


def _cells(alone: Experiment, request: Request, at: Callable[[Experiment, int], Experiment]) -> list[Cell] | str:
    """Return the cells of a request, or why the policy cannot be run there."""
    try:
        there = at(alone, request.deployed).model_copy(update={"trials": request.trials.stop, "traces": False})
    except ValidationError as error:
        return "; ".join(problem["msg"] for problem in error.errors())
    return cells(there)[request.trials.start :]


def _plan(alone: Experiment, policy: Policy, answer: Answer) -> Plan:
    return Plan(
        policy, answer, {number: _size(alone, policy, number) for number, one in answer.tests.items() if one.findings}
    )


def _size(alone: Experiment, policy: Policy, deployed: int) -> Size:
    extra = extra_at(alone, deployed)
    size = {"instances": deployed, "extra": extra}
    cluster, machines = alone.cluster.model_copy(update=size), alone.machines.model_copy(update=size)
    pools = policy.pools(machines)
    return Size(sum(pool.instances for pool in pools), cost.price(cluster, pools), extra)
