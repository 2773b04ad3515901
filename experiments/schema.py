"""What an experiment is: the options of its YAML file, checked one by one and against each other."""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from experiments.figures import drawing
from experiments.figures.base import Figure
from experiments.keys import Key, Scalar, get, locate, put, spell
from parity import codes
from parity.networks import Network
from parity.recipes import Best, Recipe
from sim.cluster import Cluster
from sim.kinds import Options
from sim.policies import Policy
from sim.simulation import check
from sim.stragglers import Crashes, Straggler
from workloads.arrivals import Arrivals
from workloads.datasets.base import Dataset
from workloads.sampling import Sampling, Uniform

__all__ = ["Experiment", "Model", "Workload", "codes", "drawing"]

MOST_POINTS = 10_000
"""More points in a sweep than this are a mistake."""
SWEEPABLE = ("model", "workload", "cluster", "stragglers", "policies")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Model(Options):
    """The models whose answers the clients get."""

    network: Network
    """Architecture of the deployed model and of the parity models."""
    dataset: Dataset
    """Where the models' training samples and the queries' samples come from."""
    recipe: Recipe = Best()
    """How the deployed model is trained."""
    parity_recipe: Recipe | None = None
    """How the parity models are trained; the deployed model's recipe where it is left out."""
    training_seed: int = Field(default=0, ge=0)
    """Seed of initial weights and of the order of the samples in training."""


class Workload(Options):
    """Which queries the clients send, and when."""

    arrivals: Arrivals
    """The arrival process."""
    sampling: Sampling = Uniform()
    """Which sample of the test set each query carries."""
    queries: int = Field(gt=0, le=1_000_000_000)
    """Queries per trial."""


class Experiment(Options):
    """One question: a cluster, its workload and stragglers, the policies to compare and what to sweep."""

    name: str
    """Name of the experiment, and of its run directory where no other is given."""
    seed: int = Field(default=1, ge=0)
    """The one seed; with the trial's number it determines every random draw."""
    trials: int = Field(default=5, ge=1, le=10_000)
    """Independent repetitions; the intervals come from them."""
    model: Model | None = None
    """The models that answer; without them only latency is simulated."""
    workload: Workload
    """The queries."""
    cluster: Cluster
    """The machines."""
    stragglers: tuple[Straggler, ...] = ()
    """What makes instances slow or unavailable; several compose."""
    policies: tuple[Policy, ...] = Field(min_length=1)
    """The redundancy policies to compare; differences are taken against the first."""
    sweep: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Values for keys such as `workload.arrivals.rate`; several lists are combined."""
    figures: tuple[Figure, ...] | None = None
    """Figures to draw; all that apply where it is left out."""
    warmup: int | None = Field(default=None, ge=0)
    """Queries at the start of a trial that are never counted; 1% of them where it is left out."""
    execution: Literal["deferred"] = "deferred"
    """When the models compute: after each cell's simulation."""
    traces: bool = True
    """Whether to keep one row per query and per task as Parquet."""

    @field_validator("name")
    @classmethod
    def _name_is_a_folder(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"'{name}' cannot name a run directory: use up to 100 letters, digits, '.', '_' and '-', "
                "beginning with a letter or a digit"
            )
        return name

    @model_validator(mode="after")
    def _fits_together(self, info: ValidationInfo) -> Self:
        problems = [*self._problems()]
        if not problems:
            problems = [*self._sweep_problems(info.context)]
        if problems:
            raise ValidationError.from_exception_data(
                "experiment",
                [
                    InitErrorDetails(type=PydanticCustomError("unfit", "{says}", {"says": says}), loc=loc, input=None)
                    for loc, says in problems
                ],
            )
        return self

    @property
    def warmup_floor(self) -> int:
        """Queries at the start of each trial that are never counted."""
        return self.workload.queries // 100 if self.warmup is None else self.warmup

    def resolved(self) -> dict[str, Any]:
        """Return the experiment with every default written out, as plain data for YAML or JSON."""
        return self.model_dump(mode="json", serialize_as_any=True, by_alias=True)

    def points(self) -> list[dict[str, Scalar]]:
        """Return the points of the sweep in order, each as {key: value}; one empty point without a sweep."""
        return [dict(zip(self.sweep, values, strict=True)) for values in itertools.product(*self.sweep.values())]

    def at(self, point: Mapping[str, Scalar], context: Any = None) -> Experiment:
        """Return the experiment at one point of its sweep, itself without a sweep.

        `context` is pydantic's: {"paths": folders where files named in the experiment are looked for}. Raises
        ValidationError where the point is impossible.
        """
        data = self.resolved()
        data["sweep"] = {}
        for key, value in point.items():
            put(data, key, value)
        return Experiment.model_validate(data, context=context)

    def _problems(self) -> Iterator[tuple[Key, str]]:
        labels: dict[str, int] = {}
        for index, policy in enumerate(self.policies):
            first = labels.setdefault(policy.label, index)
            if first != index:
                yield (
                    ("policies", index),
                    f"is called '{policy.label}' like policies.{first}; tell them apart with a 'name' each",
                )
            try:
                check(self.cluster, policy, self.stragglers)
            except ValueError as error:
                yield ("policies", index), str(error)
        for index, straggler in enumerate(self.stragglers):
            if isinstance(straggler, Crashes) and not straggler.retry and self.cluster.deadline is None:
                yield (
                    ("stragglers", index),
                    "loses work for good, which leaves queries without an answer: give the cluster a 'deadline', "
                    "or let it 'retry'",
                )
        if self.warmup is not None and self.warmup >= self.workload.queries:
            yield (
                ("warmup",),
                f"must be less than workload.queries ({self.workload.queries}), but is {self.warmup}",
            )
        for index, figure in enumerate(self.figures or ()):
            kind = figure.name_in_yaml()
            if kind in ("accuracy", "latency_accuracy") and self.model is None:
                yield ("figures", index), f"{kind} needs a 'model'"
            if kind == "timeline" and not self.traces:
                yield ("figures", index), "timeline needs 'traces: true'"

    def _sweep_problems(self, context: Any) -> Iterator[tuple[Key, str]]:
        good = True
        data = self.resolved()
        for key, values in self.sweep.items():
            for at, says in _sweep_key_problems(data, key, values):
                good = False
                yield at, says
        if not good:
            return
        if math.prod(len(values) for values in self.sweep.values()) > MOST_POINTS:
            yield ("sweep",), f"combines to more than {MOST_POINTS} points"
            return
        for key, values in self.sweep.items():
            for index, value in enumerate(values):
                for says in self._impossible({key: value}, context):
                    good = False
                    yield ("sweep", key, index), says
        if good and len(self.sweep) > 1:
            for point in self.points():
                for says in self._impossible(point, context):
                    yield ("sweep",), f"{', '.join(f'{key}={value}' for key, value in point.items())}: {says}"
                    return

    def _impossible(self, point: dict[str, Scalar], context: Any) -> Iterator[str]:
        from experiments.messages import sentences

        try:
            self.at(point, context)
        except ValidationError as error:
            data = self.resolved()
            for key, value in point.items():
                put(data, key, value)
            for loc, says in sentences(error, data, Experiment):
                yield f"{spell(loc)} {says}"


def _sweep_key_problems(data: dict[str, Any], key: str, values: tuple[Any, ...]) -> Iterator[tuple[Key, str]]:
    """Yield what is wrong with one key of the sweep and its list, apart from values that do not fit the experiment."""
    at: Key = ("sweep", key)
    where = locate(data, key)
    if where is None:
        near = difflib.get_close_matches(key, _all_keys(data), n=1)
        yield at, f"there is no '{key}' to sweep" + (f"; did you mean '{near[0]}'?" if near else "")
    elif where[0] not in SWEEPABLE or where[-1] in ("kind", "name"):
        yield at, f"'{key}' cannot be swept; a sweep changes options under {', '.join(SWEEPABLE)}"
    elif isinstance(get(data, where), (dict, list)) and not all(isinstance(value, str) for value in values):
        yield at, f"'{key}' is not a single value; sweep one of the options in it"
    if not values:
        yield at, "needs at least one value"
    for index, value in enumerate(values):
        if not isinstance(value, (bool, int, float, str)):
            yield (*at, index), "a swept value is a number, text, or true or false"
        elif any(value == other and type(value) is type(other) for other in values[:index]):
            yield (*at, index), f"{value} is there twice"


def _all_keys(data: Any, prefix: str = "") -> Iterator[str]:
    """Yield every path to a plain value below `data`, as written in a sweep."""
    items: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(data, dict):
        items = iter(data.items())
    elif isinstance(data, list):
        items = iter(enumerate(data))
    else:
        yield prefix
    for key, value in items:
        yield from _all_keys(value, f"{prefix}.{key}" if prefix else str(key))
