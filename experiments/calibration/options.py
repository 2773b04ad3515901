"""A calibration file: an experiment, which of its options are free, and what its latencies were on a real cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from experiments.analysis import percentiles
from experiments.config.keys import get, locate, put
from experiments.config.schema import Experiment
from sim.distributions import Distribution
from sim.distributions.profile import RoleName
from sim.kinds import Options

FittedMetric = Annotated[
    Literal["mean", "p50", "p90", "p95", "p99", "p995", "p999"], BeforeValidator(percentiles.known)
]


class Free(Options):
    """An option that the fit may change, between bounds."""

    keys: tuple[str, ...] = Field(min_length=1)
    """Dotted keys of the experiment, such as `cluster.service.scale`, that all get its value."""
    start: PositiveFloat
    """Where the search begins."""
    low: PositiveFloat
    """Least value."""
    high: PositiveFloat
    """Greatest value."""
    step: float = Field(default=0.2, gt=0, lt=1)
    """How far the first try goes, as a share of `start`."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.start <= self.high:
            raise ValueError(f"'start' ({self.start:g}) must lie from 'low' ({self.low:g}) to 'high' ({self.high:g})")
        return self


class Aim(Options):
    """How closely a metric should be met, and how much that matters."""

    tolerance: PositiveFloat
    """Largest relative error that counts as met."""
    weight: PositiveFloat = 1.0
    """Weight of the squared error, in units of the tolerance, against that of other targets."""


class FittedQuantity(Options):
    """What one metric of one policy was on the real cluster."""

    policy: str
    """The policy, by its name."""
    metric: FittedMetric
    """The mean of the latencies or a percentile; p99.5 and p995 are the same."""
    milliseconds: tuple[PositiveFloat | None, ...]
    """The measured value at each point of the sweep, in its order; null where it is not known."""


class Stage(Options):
    """One descent, from where the last one ended."""

    queries: PositiveInt
    """Queries per simulation."""
    points: tuple[int, ...] | None = None
    """Which points of the sweep to use, counted from 0; all where it is left out."""
    trials: PositiveInt = 1
    """Trials per point; the loss is that of their medians."""
    evaluations: PositiveInt = 80
    """Simulations of all points, at most."""


class Written(Options):
    """The profile that comes of it."""

    name: str
    """Stem of the file's name."""
    device: str
    """Of which machine, in words."""
    network: str
    """Of which model."""
    roles: dict[RoleName, str]
    """The experiment's distribution that is written for each role, as `deployed: cluster.service`."""


class Calibration(Options):
    """What to fit, to what, and how long to search."""

    experiment: Experiment
    """The cluster and its load, as the real one was run."""
    free: dict[str, Free] = Field(min_length=1)
    """The options to fit, by a name for tables."""
    aims: dict[FittedMetric, Aim] = Field(min_length=1)
    """How closely each metric should be met."""
    targets: tuple[FittedQuantity, ...] = Field(min_length=1)
    """What was measured."""
    search: tuple[Stage, ...] = (Stage(queries=40_000), Stage(queries=100_000, evaluations=40))
    """The descents, one after another; after them all of the experiment is simulated at its full size."""
    profile: Written
    """The file to write."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        data = self.experiment.resolved()
        for name, one in self.free.items():
            for key in one.keys:
                where = locate(data, key)
                if where is None or isinstance(get(data, where), (dict, list, str)):
                    raise ValueError(f"free option '{name}': the experiment has no number '{key}'")
        policies = [policy.label for policy in self.experiment.policies]
        points = len(self.experiment.points())
        for target in self.targets:
            if target.policy not in policies:
                raise ValueError(f"there is no policy '{target.policy}'; there are {', '.join(policies)}")
            if len(target.milliseconds) != points:
                raise ValueError(
                    f"{target.policy} {target.metric}: there are {len(target.milliseconds)} 'milliseconds' "
                    f"for {points} points of the sweep"
                )
            if target.metric not in self.aims:
                raise ValueError(f"'aims' does not say how closely {target.metric} should be met")
        for stage in self.search:
            if any(not 0 <= point < points for point in stage.points or ()):
                raise ValueError(f"a stage's 'points' go from 0 to {points - 1}")
        for role, key in self.profile.roles.items():
            where = locate(data, key)
            if where is None or not isinstance(at_key(self.experiment, key), Distribution):
                raise ValueError(f"role '{role}': '{key}' is no distribution of the experiment")
        return self

    def at(self, values: Mapping[str, float], **changes: Any) -> Experiment:
        """Return the experiment with the free options set and its own top-level options changed."""
        data = {**self.experiment.resolved(), "figures": []}
        for name, one in self.free.items():
            for key in one.keys:
                put(data, key, values[name])
        queries = changes.pop("queries", None)
        if queries is not None:
            put(data, "workload.queries", queries)
        return Experiment.model_validate({**data, **changes}, context=self.experiment.context)


def at_key(experiment: Experiment, dotted: str) -> Any:
    """Return what the dotted key, which must exist, names in the experiment: an option's value, not its plain data."""
    found: Any = experiment
    for part in locate(experiment.resolved(), dotted) or ():
        found = found[part] if isinstance(part, int) else getattr(found, part)
    return found
