"""Claims about results, such as a paper's, which are tested on a run; `parm claims` prints the verdicts.

A claim gives a range. It is *reproduced* if the simulated value, averaged over the sweep, is in that range, and at no
sweep point the 95% interval (or, without interval, the value) is completely outside it. The first condition rejects
claims that hold only because intervals are wide, the second finds points that an average would hide. With `over: all`
only the average is tested. Intervals are over trials, paired by common random numbers.
"""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, TypeAdapter, model_validator

from experiments.analysis.estimates import Estimate, Metric, estimate, unit
from experiments.analysis.outcome import NOT_WRITTEN_BY_US, Outcome, Scalar
from experiments.analysis.statistics import Interval
from experiments.analysis.summary import point_key
from sim.errors import ParmError
from sim.kinds import Kind

if TYPE_CHECKING:
    from rich.table import Table

FILE = "claims.json"
FORMAT = 1
RULE = (
    "reproduced: the mean over the sweep lies in the claimed range, and no point's 95% interval lies wholly outside it"
)


class Claim(Kind):
    """A statement about a run, as a range for a simulated value."""

    family: ClassVar[str] = "claim"

    says: str
    """The statement, in words."""
    metric: Metric = "p999"
    """The metric: a column of the summary or a percentile such as p99.5."""
    policy: str
    """Name of the policy."""
    between: tuple[float, float] | None = None
    """Range of the value: [least, greatest]."""
    below: float | None = None
    """Greatest value; instead of `between`."""
    above: float | None = None
    """Least value; instead of `between`."""
    at: dict[str, Scalar] = Field(default_factory=dict)
    """Sweep points that the claim is about, as values of swept keys; default: all."""
    over: Literal["each", "all"] = "each"
    """Whether the claim is tested at each sweep point, or only for the average over all."""

    @model_validator(mode="after")
    def _one_range(self) -> Claim:
        if (self.between is None) == (self.below is None and self.above is None):
            raise ValueError("a claim needs 'between', or 'below', 'above' or both of these")
        low, high = self.range
        if low > high:
            raise ValueError(f"the range goes from {low:g} down to {high:g}")
        return self

    @property
    def range(self) -> tuple[float, float]:
        """The claimed range; an open end is infinite."""
        low, high = self.between or (self.above, self.below)
        return -math.inf if low is None else low, math.inf if high is None else high

    @property
    def policies(self) -> list[str]:
        """The policies whose results are needed: the claim's own, then the one it is compared with."""
        return [self.policy]

    @property
    def unit(self) -> str:
        """`ms`, `%` (printed fractions), `/s` or `x` (factors)."""
        return unit(self.metric) or "%"

    @abstractmethod
    def value(self, *metrics: float) -> float:
        """Return the value that the claim is about, from the metric of each of `policies`."""


class Level(Claim):
    """The metric itself, in ms or as a fraction."""

    kind: Literal["level"] = "level"

    def value(self, *metrics: float) -> float:
        """Return the metric."""
        return metrics[0]


class Comparing(Claim):
    """A claim about two policies."""

    against: str
    """Name of the policy to compare with."""

    @property
    def policies(self) -> list[str]:
        """The policy and the one it is compared with."""
        return [self.policy, self.against]

    def value(self, *metrics: float) -> float:
        """Compare the metric of both."""
        mine, other = metrics
        return self.compare(mine, other)

    @abstractmethod
    def compare(self, mine: float, other: float) -> float:
        """Return the comparison; NaN if undefined."""


class Difference(Comparing):
    """The metric minus that of the other policy, in ms or as a fraction."""

    kind: Literal["difference"] = "difference"

    def compare(self, mine: float, other: float) -> float:
        """Return mine - other."""
        return mine - other


class Reduction(Comparing):
    """Relative reduction of the metric against the other policy, as a fraction."""

    kind: Literal["reduction"] = "reduction"

    @property
    def unit(self) -> str:
        """A share."""
        return "%"

    def compare(self, mine: float, other: float) -> float:
        """Return 1 - mine / other."""
        return 1 - mine / other if other else math.nan


class Factor(Comparing):
    """The metric of the other policy divided by this policy's."""

    kind: Literal["factor"] = "factor"

    @property
    def unit(self) -> str:
        """A factor."""
        return "x"

    def compare(self, mine: float, other: float) -> float:
        """Return other / mine."""
        return other / mine if mine else math.nan


@dataclass(frozen=True)
class ClaimVerdict:
    """A claim, the simulated values, and whether they agree."""

    says: str
    unit: str
    claimed: tuple[float, float]
    mean: Interval
    """Over the sweep points that the claim is about."""
    points: list[tuple[dict[str, Any], Interval]]
    reproduced: bool
    because: str
    """Reason why it is not reproduced; empty if it is."""

    def as_json(self) -> dict[str, Any]:
        """Return the verdict as plain data, with null for infinite and unknown numbers."""
        return {
            "says": self.says,
            "reproduced": self.reproduced,
            "because": self.because,
            "unit": self.unit,
            "claimed": [_finite(end) for end in self.claimed],
            "mean": _ends(self.mean),
            "points": [{"point": point, **_ends(interval)} for point, interval in self.points],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ClaimVerdict:
        """Read what `as_json` wrote; raises an error of `NOT_WRITTEN_BY_US` if it is something else."""
        low, high = data["claimed"]
        points = [(one["point"], _interval(one)) for one in data["points"]]
        claimed = (-math.inf if low is None else low, math.inf if high is None else high)
        fields = data | {"claimed": claimed, "mean": _interval(data["mean"]), "points": points}
        return TypeAdapter(ClaimVerdict).validate_python(fields)


def judge(claims: Sequence[Claim], outcomes: Sequence[Outcome]) -> list[ClaimVerdict]:
    """Test each claim on a run's outcomes."""
    return [_verdict(claim, outcomes) for claim in claims]


def _verdict(claim: Claim, outcomes: Sequence[Outcome]) -> ClaimVerdict:
    cells: dict[str, dict[str, list[Outcome]]] = {}
    for outcome in outcomes:
        if all(outcome.point.get(key) == value for key, value in claim.at.items()):
            cells.setdefault(point_key(outcome.point), {}).setdefault(outcome.policy, []).append(outcome)
    found: list[tuple[dict[str, Any], Estimate]] = []
    for by_policy in cells.values():
        trials = [by_policy.get(policy, []) for policy in claim.policies]
        one = estimate(claim.value, claim.metric, *trials)
        if not math.isnan(one.value):
            found.append((trials[0][0].point, one))
    mean = Estimate.mean([one for _, one in found]).interval
    points = [(point, one.interval) for point, one in found]
    because = _objection(claim, mean, points)
    return ClaimVerdict(claim.says, claim.unit, claim.range, mean, points, not because, because)


def _objection(claim: Claim, mean: Interval, points: Sequence[tuple[dict[str, Any], Interval]]) -> str:
    """Return the reason why the claim is not reproduced, or an empty text."""
    low, high = claim.range
    if not points:
        return "the run has no value for it"
    if not low <= mean.value <= high:
        return "the mean is outside"
    if claim.over == "each":
        outside = [point for point, interval in points if not _reaches(interval, low, high)]
        if outside:
            named = "; ".join(", ".join(str(value) for value in point.values()) for point in outside)
            return f"{len(outside)} of {len(points)} points are outside ({named})"
    return ""


def _reaches(interval: Interval, low: float, high: float) -> bool:
    if math.isnan(interval.lo):
        return low <= interval.value <= high
    return interval.lo <= high and low <= interval.hi


def as_json(verdicts: Sequence[ClaimVerdict]) -> str:
    """Return the text of `claims.json`."""
    document = {"format": FORMAT, "rule": RULE, "claims": [verdict.as_json() for verdict in verdicts]}
    return json.dumps(document, indent=1, allow_nan=False, default=str) + "\n"


def read(folder: Path) -> dict[str, list[ClaimVerdict]]:
    """Return the verdicts in a run directory, or in those in a folder, by the run's name.

    Raises ParmError if there is no run or no claim, or if a file is damaged.
    """
    files = [folder / FILE] if (folder / FILE).is_file() else sorted(folder.glob(f"*/{FILE}"))
    if not files:
        runs = [folder, *sorted(folder.glob("*"))]
        if any((run / "summary.json").is_file() for run in runs):
            raise ParmError(
                f"{folder}: no run there has claims; they are given under 'claims' in an experiment's YAML."
            )
        raise ParmError(f"{folder} is neither the directory of a finished run nor a folder of such.")
    found = {}
    for file in files:
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            found[file.parent.name] = [ClaimVerdict.from_json(one) for one in document["claims"]]
        except (OSError, *NOT_WRITTEN_BY_US) as error:
            raise ParmError(f"{file} cannot be read as the claims of a run: {' '.join(str(error).split())}.") from error
    return found


def table(verdicts: dict[str, list[ClaimVerdict]]) -> Table:
    """Return a rich table of each run's claims: claimed range, simulated value and verdict."""
    from rich import box
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=RULE, caption_justify="left")
    for heading in ("run", "claim"):
        shown.add_column(heading)
    for heading in ("claimed", "simulated", "over the sweep"):
        shown.add_column(heading, justify="right")
    shown.add_column("verdict")
    for run, theirs in verdicts.items():
        for number, one in enumerate(theirs):
            shown.add_row(
                run if not number else "",
                one.says,
                _range(one.claimed, one.unit),
                _written(one.mean, one.unit),
                _spread(one),
                "reproduced" if one.reproduced else f"not reproduced: {one.because}",
                style=None if one.reproduced else "bold",
            )
    return shown


def _range(ends: tuple[float, float], unit: str) -> str:
    low, high = (f"{end * (100 if unit == '%' else 1):.3g}" for end in ends)
    if math.isinf(ends[0]):
        return f"below {high} {unit}"
    return f"above {low} {unit}" if math.isinf(ends[1]) else f"{low} to {high} {unit}"


def _written(interval: Interval, unit: str) -> str:
    shown = interval.scaled(100.0 if unit == "%" else 1.0)
    if math.isnan(shown.value):
        return "-"
    digits = 1 if unit == "%" else 2
    margin = "" if math.isnan(shown.margin) else f" ±{shown.margin:.{digits}f}"
    return f"{shown.value:.{digits}f}{margin} {unit}"


def _spread(verdict: ClaimVerdict) -> str:
    """Return the range of the points' values."""
    values = [interval.value * (100 if verdict.unit == "%" else 1) for _, interval in verdict.points]
    digits = 1 if verdict.unit == "%" else 2
    return f"{min(values):.{digits}f} to {max(values):.{digits}f} {verdict.unit}" if len(values) > 1 else ""


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _ends(interval: Interval) -> dict[str, float | None]:
    return {"value": _finite(interval.value), "lo": _finite(interval.lo), "hi": _finite(interval.hi)}


def _interval(data: dict[str, Any]) -> Interval:
    value, lo, hi = (math.nan if data[name] is None else float(data[name]) for name in ("value", "lo", "hi"))
    return Interval(value, lo, hi)
