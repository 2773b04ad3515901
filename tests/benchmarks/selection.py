"""How often `select` is right, and what it saves: `python -m tests.benchmarks.selection --trials 300`.

A pool of independent trials of each policy and sweep point of `experiments/frontier.yaml`, without its model, is
simulated once and kept in a folder, so that an interrupted call goes on. The truth is the pool's own percentile: a
macro-replication draws trials from it with replacement, the same ones for all policies, as common random numbers do.

`as_is` selects among the policies as they are. `at_the_zone` moves every policy that is closer to the best one than the
zone, and in any case the second best, to where it is worse by exactly the zone; `slippage` moves all of them there. The
whole distribution is moved, so that its shape and what trials have in common stay.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.analysis.outcome import GRID, Outcome
from experiments.analysis.quantiles import MS, Latencies
from experiments.analysis.selection import Rule, Selection, Standing, looks, standings
from experiments.config import loader
from experiments.run.cells import Cell, cells
from experiments.run.runner import simulate_cell
from sim.trace import Floats
from tests.outcomes import outcome

FILE = Path("experiments/frontier.yaml")
FIRST, MOST = 10, 6000
Pool = dict[str, Floats]
"""Quantile functions in seconds, shape (trials, len(GRID)), by policy."""


def pool(trials: int, folder: Path) -> dict[str, Pool]:
    """Return the pools by sweep point; simulate the trials that are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    every = cells(loader.load(FILE, ["model=null", "engine=compiled", f"trials={trials}"]))
    found: dict[str, Pool] = {}
    for first in range(0, len(every), trials):
        mine = every[first : first + trials]
        where = ", ".join(f"{key.rpartition('.')[2]} = {value}" for key, value in mine[0].point.items())
        found.setdefault(where, {})[mine[0].policy.label] = _functions(mine, folder / f"{mine[0].name[:-3]}.npy")
    return found


def _functions(mine: list[Cell], kept: Path) -> Floats:
    found = list(np.load(kept)) if kept.is_file() else []
    for cell in mine[len(found) :]:
        queries = simulate_cell(cell).trace.queries
        found.append(np.quantile(queries.latency[cell.experiment.warmup_queries(queries.arrival) :], GRID))
        if len(found) == len(mine):
            np.save(kept, np.array(found))
    return np.array(found[: len(mine)])


def outcomes(functions: Floats, queries: int) -> list[Outcome]:
    """Return trials with these quantile functions."""
    plain = dataclasses.replace(outcome("world", 0, model=False, queries=100), queries=queries)
    return [
        dataclasses.replace(plain, trial=number, quantiles={"probabilities": GRID, "seconds": seconds})
        for number, seconds in enumerate(functions)
    ]


def moved(there: Pool, zone: float, how: str) -> tuple[Pool, dict[str, float]]:
    """Return the pools of a sweep point with the policies moved, and by how much each is worse than the best, in ms."""
    truth = {policy: MS * Latencies(outcomes(each, 11_880)).quantile(0.999) for policy, each in there.items()}
    best, second, *_ = sorted(truth, key=lambda policy: truth[policy])
    wanted = dict(truth)
    for policy, at in truth.items():
        close = at < truth[best] + zone
        if policy != best and (how == "slippage" or (how == "at_the_zone" and (close or policy == second))):
            wanted[policy] = truth[best] + zone
    made = {policy: each + (wanted[policy] - truth[policy]) / MS for policy, each in there.items()}
    return made, {policy: at - wanted[best] for policy, at in wanted.items()}


class Equal(Selection):
    """The same bounds, but every policy is given as many trials."""

    def _go_on(self) -> bool:
        if not super()._go_on():
            return False
        self.trials |= dict.fromkeys(self.policies, max(self.trials.values()))
        return True


class KimNelson(Selection):
    """KN++ with the same estimates: a policy is out once another is ahead by more than a line that closes in."""

    def _go_on(self) -> bool:
        count = max(self.trials.values())
        inside = [policy for policy in self.policies if self.trials[policy] == count]
        level = (1 - self.rule.confidence) / (len(self.policies) - 1)
        scale = (count - 1) * ((2 * level) ** (-2 / (count - 1)) - 1)
        left = []
        for policy in inside:
            mine, ahead = self._seen[count][policy], False
            for other in inside:
                theirs = self._seen[count][other]
                apart = np.subtract(mine.deviations, theirs.deviations)
                spread = float(apart @ apart) / (count - 1)
                room = max(0.0, scale * spread / (2 * self.zone * count) - self.zone / 2)
                ahead |= mine.interval.value - theirs.interval.value > room
            left += [] if ahead else [policy]
        self.left = left or inside
        self.settled = len(self.left) <= 1
        more = next((one for one in self.rule.counts if one > count), None)
        if self.settled or more is None:
            return False
        self.trials |= dict.fromkeys(self.left, more)
        return True

    def _add(self, policy: str, count: int, mine: Any) -> None:
        self._seen[count][policy] = mine


METHODS: dict[str, type[Selection]] = {"select": Selection, "equal": Equal, "kn++": KimNelson}


def select(
    method: str, there: Mapping[str, list[Outcome]], rule: Rule, generator: np.random.Generator
) -> tuple[str, int, bool]:
    """Return the policy that a macro-replication selects, the trials that it took, and whether it was settled."""
    search = METHODS[method](list(there), rule)
    drawn = generator.integers(0, len(next(iter(there.values()))), MOST)
    more = True
    while more:
        most = max(search.trials.values())
        more = search.look({policy: [each[one] for one in drawn[:most]] for policy, each in there.items()})
    if isinstance(search, KimNelson):
        chosen = min(search.left, key=search._estimate)
    else:
        chosen = list(there)[int(np.argmin(search._regret))]
    return chosen, sum(search.trials.values()), search.settled


def study(method: str, there: Pool, rule: Rule, how: str, replications: int) -> dict[str, float]:
    """Return how often the selection is right and within the zone, in percent, and the trials that it takes."""
    made, regret = moved(there, rule.within, how)
    trials = {policy: outcomes(each, 11_880) for policy, each in made.items()}
    generator = np.random.default_rng([replications, *how.encode()])
    best, close, taken, settled = 0, 0, [], 0
    for _ in range(replications):
        chosen, count, sure = select(method, trials, rule, generator)
        best += regret[chosen] <= 0
        close += regret[chosen] <= rule.within * (1 + 1e-9)
        taken.append(count)
        settled += sure
    each = 100 / replications
    return {
        "best": round(each * best, 1),
        "within": round(each * close, 1),
        "settled": round(each * settled, 1),
        "trials": round(float(np.mean(taken)), 1),
    }


def marks(there: Pool, rule: Rule, trials: int, replications: int) -> dict[str, float]:
    """Return in percent how often all that is said after so many trials is right, and how many policies have a mark."""
    made, regret = moved(there, rule.within, "as_is")
    every = {policy: outcomes(each, 11_880) for policy, each in made.items()}
    generator = np.random.default_rng([trials, replications])
    right, decided = 0, []
    for _ in range(replications):
        drawn = generator.integers(0, len(next(iter(every.values()))), trials)
        found = standings(
            {
                policy: [dataclasses.replace(each[one], trial=number) for number, one in enumerate(drawn)]
                for policy, each in every.items()
            },
            rule,
        )
        wrong = [
            {
                Standing.BEST: regret[mark.policy] > 0,
                Standing.CLOSE: regret[mark.policy] > rule.within,
                Standing.WORSE: regret[mark.policy] <= 0,
                Standing.UNDECIDED: False,
            }[mark.standing]
            for mark in found
        ]
        right += not any(wrong)
        decided.append(sum(mark.standing is not Standing.UNDECIDED for mark in found))
    return {"all_right": round(100 * right / replications, 1), "decided": round(float(np.mean(decided)), 1)}


def main() -> None:
    """Print a line for each case; lines that were computed before are kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20, help="trials in each pool")
    parser.add_argument("--replications", type=int, default=20)
    parser.add_argument("--zone", type=float, default=1.0, help="in ms")
    parser.add_argument("--without", nargs="*", default=[], help="policies that are left out")
    parser.add_argument("--methods", nargs="*", default=["select"], choices=list(METHODS))
    parser.add_argument(
        "--how", nargs="*", default=["as_is", "at_the_zone"], choices=["as_is", "at_the_zone", "slippage"]
    )
    parser.add_argument("--marks", nargs="*", type=int, default=[], help="numbers of trials that are taken as they are")
    parser.add_argument("--out", type=Path, default=Path("runs/selection"))
    given = parser.parse_args()
    kept = given.out / "study.json"
    found = json.loads(kept.read_text()) if kept.is_file() else {}

    def keep(case: str, of: Callable[[], Any]) -> None:
        if case not in found:
            found[case] = of()
            kept.write_text(json.dumps(found, indent=1) + "\n")
        print(case, found[case], flush=True)

    rule = Rule(within=given.zone, counts=looks(FIRST, MOST))
    once = dataclasses.replace(rule, counts=())
    what = f"{given.zone:g} ms, pools of {given.trials}, {given.replications} times"
    what += f", without {', '.join(given.without)}" if given.without else ""
    for where, every in pool(given.trials, given.out).items():
        there = {policy: each for policy, each in every.items() if policy not in given.without}
        for how in given.how:
            for method in given.methods:
                case = f"{where}: {method} {how}, {what}"
                keep(case, partial(study, method, there, rule, how, given.replications))
        for trials in given.marks:
            keep(
                f"{where}: marks with {trials} trials, {what}", partial(marks, there, once, trials, given.replications)
            )


if __name__ == "__main__":
    main()
