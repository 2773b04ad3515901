"""A calibration file: an experiment, its free options, and its latencies as measured on a real cluster."""

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
    """Dotted keys of the experiment, such as `cluster.service.scale`, that are all set to its value."""
    start: PositiveFloat
    """Initial value."""
    low: PositiveFloat
    """Least value."""
    high: PositiveFloat
    """Greatest value."""
    step: float = Field(default=0.2, gt=0, lt=1)
    """Initial step, as a fraction of `start`."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.start <= self.high:
            raise ValueError(f"'start' ({self.start:g}) must be from 'low' ({self.low:g}) to 'high' ({self.high:g})")
        return self


class Aim(Options):
    """Tolerance and weight of a metric."""

    tolerance: PositiveFloat
    """Largest acceptable relative error."""
    weight: PositiveFloat = 1.0
    """Relative weight of the squared error, which is in units of the tolerance."""


class FittedQuantity(Options):
    """Measured values of one metric of one policy on the real cluster."""

    policy: str
    """Name of the policy."""
    metric: FittedMetric
    """The mean of the latencies or a percentile; p99.5 and p995 are the same."""
    milliseconds: tuple[PositiveFloat | None, ...]
    """The measured value at each point of the sweep, in ms, in the sweep's order; null if unknown."""
    noise: PositiveFloat | None = None
    """Relative standard error of these values, the unit of their errors in the fit; by default the metric's tolerance,
    which decides in any case which values count as met."""


class Stage(Options):
    """One stage of the search, which begins at the result of the previous one."""

    queries: PositiveInt
    """Queries per simulation."""
    points: tuple[int, ...] | None = None
    """Indices from 0 of the points of the sweep to use; default: all."""
    trials: PositiveInt = 1
    """Trials per point; the loss is computed from their medians."""
    evaluations: PositiveInt = 80
    """Most evaluations of the loss."""


class Written(Options):
    """The resulting profile."""

    name: str
    """Stem of the file's name."""
    device: str
    """The machine, in words."""
    network: str
    """The model, in words."""
    roles: dict[RoleName, str]
    """For each role the key of the experiment's distribution to write, as `deployed: cluster.service`."""


class Calibration(Options):
    """A fit of an experiment's options to measured latencies."""

    experiment: Experiment
    """The experiment as it was run on the real cluster."""
    free: dict[str, Free] = Field(min_length=1)
    """The options to fit, by a name of your choice for tables."""
    aims: dict[FittedMetric, Aim] = Field(min_length=1)
    """Tolerance and weight of each metric."""
    targets: tuple[FittedQuantity, ...] = Field(min_length=1)
    """The measured values."""
    search: tuple[Stage, ...] = (Stage(queries=40_000), Stage(queries=100_000, evaluations=40))
    """Stages of the search in order; afterwards the whole experiment is simulated at full size."""
    profile: Written
    """The file to write."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.experiment.services:
            raise ValueError("experiment: a calibration knows one service only: leave out 'services'")
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
                raise ValueError(f"'aims' has no tolerance for {target.metric}")
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
    """Return the value of an option (not its plain data) in the experiment by its dotted key, which must exist."""
    found: Any = experiment
    for part in locate(experiment.resolved(), dotted) or ():
        found = found[part] if isinstance(part, int) else getattr(found, part)
    return found
