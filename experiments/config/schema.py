"""Options of an experiment's YAML file, validated one by one and against each other."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from backends import corruption, profiles
from experiments.analysis.claims import Claim
from experiments.analysis.cost import Rule
from experiments.analysis.outcome import Scalar
from experiments.analysis.reference import Reference
from experiments.analysis.reversals import Reversals
from experiments.analysis.warmup import WarmupRule, warmup_queries
from experiments.config import services, sweep
from experiments.config.keys import FOLDER_NAME, Key, put, spell
from experiments.config.precision import Precision
from experiments.config.select import Select
from experiments.config.services import SERVICE, Service, Target, Time
from experiments.config.workload import Workload
from experiments.figures import drawing
from experiments.figures.base import Figure
from parity import codes
from parity.networks import Network
from parity.recipes import Best, Recipe
from sim.cluster import Cluster, Prices
from sim.corruption import Corruption
from sim.engines import Engine
from sim.errors import ParmError
from sim.kinds import Options
from sim.policies import CodedNonsystematic, Policy
from sim.services import check_services
from sim.shared import Shared
from sim.sharing import FirstCome, Sharing
from sim.simulation import check, engine_for
from sim.stragglers import Crashes, Straggler
from sim.stragglers import Recorded as NamedSlowness
from sim.stragglers import Replay as RecordedSlowness
from sim.streams import Streams
from sim.trace import Floats, Role
from workloads.arrivals import Recorded as NamedArrivals
from workloads.arrivals import Replay as RecordedArrivals
from workloads.datasets.base import Dataset

__all__ = ["Experiment", "Model", "Workload", "codes", "corruption", "drawing"]


_Swept = Annotated[
    Annotated[tuple[Any, ...], Tag("list")] | Annotated[dict[str, Any], Tag("names")],
    Discriminator(lambda given: "names" if isinstance(given, Mapping) else "list"),
]

NO_TIME = "goodput needs a time within which answers count: 'goodput: 100ms', or a cluster.deadline"


class Backup(Options):
    """A cheaper model: every query's second model under `approximate_backup`, the fallback of `coded` with `backup`."""

    network: Network
    """Architecture, such as mobilenet_v2."""
    recipe: Recipe | None = None
    """How it is trained; default: as the deployed model."""


class Model(Options):
    """The models that compute the answers."""

    network: Network
    """Architecture of the deployed model and of the parity models."""
    dataset: Dataset
    """Data set for training, and for the samples that queries carry."""
    recipe: Recipe = Best()
    """How the deployed model is trained."""
    parity_recipe: Recipe | None = None
    """How the parity models are trained; default: as the deployed model."""
    backup: Backup | None = None
    """The backup model, required by `approximate_backup` and by `coded` with `backup`."""
    training_seed: int = Field(default=0, ge=0)
    """Seed of the initial weights and of the order of training samples."""


class Experiment(Options):
    """A cluster, its workload and stragglers, the policies to compare and the options to sweep."""

    name: str
    """Name of the experiment and, without --out, of its run directory."""
    seed: int = Field(default=1, ge=0)
    """Random seed; with the trial's number it determines every random draw."""
    trials: int = Field(default=5, ge=1, le=10_000)
    """Number of independent repetitions, from which the confidence intervals are computed; with `precision` the
    fewest."""
    precision: Precision | None = None
    """Width of the confidence intervals to reach, such as `{p999: 5%, max_trials: 200}`: trials are added, to all
    policies and sweep points alike, until every interval is that narrow."""
    select: Select | None = None
    """How certain the best policy shall be, such as `{within: 1ms}`: trials are added until the policy of lowest p99.9
    is known to so much, at 95% confidence; policies that are surely not the best are not simulated any longer.
    `trials` is then the fewest, and at least 10. Not together with `precision`."""
    model: Model | None = None
    """The models that compute answers; without them only latency is simulated."""
    workload: Workload
    """The queries."""
    cluster: Cluster
    """The machines."""
    stragglers: tuple[Straggler, ...] = ()
    """Causes of slow or unavailable instances; several combine."""
    corruption: tuple[Corruption, ...] = ()
    """Causes of wrong answers: instances that answer what their model would not. Of several at one instance the first
    counts."""
    policies: tuple[Policy, ...] = Field(min_length=1)
    """The redundancy policies to compare; the first is the baseline of the differences."""
    services: dict[str, Service] = Field(default_factory=dict)
    """Several services on the cluster, by their names: each has its own queries, service times and targets, and with
    the policy `per_service` its own redundancy. Every table has a row for each (docs/services.md)."""
    sharing: Sharing = FirstCome()
    """How the services share the instances."""
    equal_cost: Rule = "instances"
    """Measure of cost by which policies are compared: number of instances, price of the instances by `cluster.prices`
    (which also limits what a policy's budget buys), or busy seconds per query (compared in tables only)."""
    sweep: dict[str, _Swept] = Field(default_factory=dict)
    """Lists of values by key, such as `workload.arrivals.rate`; all combinations are run. Keys separated by commas
    change together: `cluster.instances, cluster.extra: [[12, 6], [24, 12]]` are two points. A range stands for a list:
    `{from: 100, to: 400, steps: 7}`, with `scale: log` evenly spaced by ratio. A mapping gives names to values of any
    form: `stragglers: {alike: [], a slow one: [{kind: heterogeneous, factors: [4, 1]}]}`."""
    figures: tuple[Figure, ...] | None = None
    """Figures to draw; default: all that apply."""
    reference: tuple[Reference, ...] = ()
    """Published measurements: hollow marks in `latency_vs_sweep`, compared in `reference.csv`."""
    claims: tuple[Claim, ...] = ()
    """Claims about the results, such as a paper's; `parm claims` tests them on the run."""
    reversals: Reversals | None = None
    """Say which pairs of policies are in another order than at a reference point of the sweep."""
    goodput: Time | None = None
    """Time within which an answer counts for goodput, `100ms` or a number of seconds: the same for all policies.
    Default: the cluster's `deadline`; without either goodput is not measured."""
    target: Target | None = None
    """Latencies to keep, such as `{p99: 100ms}`: tables say which policies keep them, at 95% confidence."""
    control_variates: bool = False
    """Whether latencies are corrected by what is known of each trial's draws: its mean arrivals and services, and the
    share of slow time. Intervals are narrower for the same work with 30 trials or more (docs/intervals.md); with fewer
    it has no effect."""
    warmup: WarmupRule | None = None
    """Queries at the start of each trial that are not measured, the same for all policies: `none`, a number of
    queries, `{seconds: 5}`, or `auto`, which is 1% to 10% of the queries, more at higher load. Default: `auto`, or
    `none` if arrivals or slowness are recorded."""
    counted: Literal["every_query", "last_of_batch"] = "every_query"
    """Whose latency is measured; `last_of_batch` excludes the time that queries wait for their batch to fill."""
    execution: Literal["deferred", "in_the_loop"] = "deferred"
    """When the models run: after the simulation of each cell (deferred), or in it, where each task runs when it starts
    and its service time is the measured one instead of a draw from `cluster.service`."""
    contention: int = Field(default=0, ge=0, le=1024)
    """Number of processes that run the deployed model repeatedly on the same device while service times are measured
    in the loop: real interference instead of a simulated slowdown."""
    engine: Engine = "auto"
    """Which engine simulates: `simpy` supports everything; `compiled` is ten to twenty times as fast, needs numba, and
    rejects what it does not support; `auto` uses `compiled` if possible. Results are the same to the last bit."""
    traces: bool | Literal["queries"] = True
    """What to write as Parquet: `none`, `queries` (a row for each query) or `all` (a row for each task as well, which
    timelines and `parm trace` need). `true` is `all`, `false` is `none`."""
    plugins: tuple[str, ...] = ()
    """Your own Python modules with further kinds, as with `--plugin`; searched for beside the file."""
    _folders: tuple[Path, ...] = PrivateAttr(default=())
    _whole: Experiment | None = PrivateAttr(default=None)
    _service: str = PrivateAttr(default="")

    @field_validator("traces", mode="before")
    @classmethod
    def _traces_in_words(cls, given: Any) -> Any:
        words: dict[Any, bool | str] = {"none": False, "queries": "queries", "all": True}
        if isinstance(given, bool):
            return given
        if not isinstance(given, str) or given not in words:
            raise ValueError(f"must be none, queries or all, but is '{given}'")
        return words[given]

    @field_validator("name")
    @classmethod
    def _name_is_a_folder(cls, name: str) -> str:
        if not FOLDER_NAME.fullmatch(name):
            raise ValueError(
                f"'{name}' is not a valid name of a run directory: use up to 100 letters, digits, '.', '_' and '-', "
                "beginning with a letter or a digit"
            )
        return name

    @field_validator("sweep", mode="before")
    @classmethod
    def _ranges_are_lists(cls, given: Any) -> Any:
        return sweep.written_out(given)

    @model_validator(mode="before")
    @classmethod
    def _of_the_first_service(cls, data: Any) -> Any:
        return services.filled_in(data)

    @model_validator(mode="after")
    def _fits_together(self, info: ValidationInfo) -> Self:
        self._folders = tuple((info.context or {}).get("paths", ()))
        problems = [*self._problems()]
        if not problems:
            problems = [*self._sweep_problems()]
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
    def context(self) -> dict[str, list[Path]] | None:
        """Pydantic's context: the folders in which relative paths are searched."""
        return {"paths": [*self._folders]} if self._folders else None

    @property
    def warmup_rule(self) -> WarmupRule:
        """The given rule of the warm-up, or the default."""
        if self.warmup is not None:
            return self.warmup
        recorded = isinstance(self.workload.arrivals, (RecordedArrivals, NamedArrivals)) or any(
            isinstance(one, (RecordedSlowness, NamedSlowness)) for one in self.stragglers
        )
        return "none" if recorded else "auto"

    def warmup_queries(self, arrival: Floats) -> int:
        """Return the number of warm-up queries of a trial, given its arrival times in seconds."""
        return warmup_queries(self.warmup_rule, arrival, self.deployed_load)

    @property
    def in_time(self) -> float | None:
        """The latency in seconds up to which an answer counts for goodput; None where there is none."""
        return self.cluster.deadline if self.goodput is None else services.seconds(self.goodput)

    @property
    def at_most(self) -> dict[str, float]:
        """The latencies to keep, in seconds; empty where nothing is asked for."""
        return {name: services.seconds(time) for name, time in (self.target or {}).items()}

    @property
    def deployed_load(self) -> float | None:
        """Offered load of the deployed instances without redundancy and stragglers; None if the arrival rate or the
        mean service time is unknown."""
        shared = self._whole is not None and self._whole.sharing.together
        total = 0.0
        for one in self.whole.views if shared else [self]:
            rate, mean = one.workload.arrivals.mean_rate(), one.cluster.service.mean()
            if rate is None or mean is None:
                return None
            total += rate * mean
        return total / self.cluster.instances

    @property
    def machines(self) -> Cluster:
        """The cluster from which policies buy; all prices are 1 unless `equal_cost` is `price`."""
        return self.cluster if self.equal_cost == "price" else self.cluster.model_copy(update={"prices": Prices()})

    def resolved(self) -> dict[str, Any]:
        """Return the experiment with all defaults, as plain data for YAML or JSON.

        Paths of files that come with parm are relative, so that the data are the same on every machine.
        """
        data: dict[str, Any] = _portable(self._plain())
        return data

    def _plain(self) -> dict[str, Any]:
        data: dict[str, Any] = self.model_dump(mode="json", serialize_as_any=True, by_alias=True)
        absent = [] if self.services else ["services", "sharing"]
        for key in [*absent, *([] if self.target else ["target"])]:
            del data[key]  # experiments without them, and their cells, are what they were
        return data

    def points(self) -> list[dict[str, Scalar]]:
        """Return the points of the sweep in order, each as {key: value}; one empty point without a sweep.

        With services each has a point of its own, whose last key is `service`.
        """
        swept = sweep.points(self.sweep)
        return [{**point, SERVICE: name} for point in swept for name in self.services] if self.services else swept

    def at(self, point: Mapping[str, Scalar]) -> Experiment:
        """Return the experiment at one point of its sweep, without sweep, reference and claims; for a point of a
        service the service's view.

        Raises ValidationError if the values at this point are invalid.
        """
        data = self._plain()
        data |= {"sweep": {}, "figures": None, "reference": [], "claims": [], "reversals": None}
        for key, value in sweep.settings(self.sweep, point).items():
            if key != SERVICE:
                put(data, key, value)
        there = Experiment.model_validate(data, context=self.context)
        return there.views[[*self.services].index(str(point[SERVICE]))] if SERVICE in point else there

    @property
    def service(self) -> str:
        """The service whose view this is; empty for an experiment without services."""
        return self._service

    @property
    def whole(self) -> Experiment:
        """The experiment of all services if this is the view of one; else this one."""
        return self._whole or self

    @property
    def views(self) -> list[Experiment]:
        """What each service sees, an experiment without services; this one where there are none."""
        return self.viewed(*self.policies)

    def viewed(self, *policies: Policy) -> list[Experiment]:
        """Return the views with these policies alone, none of them drawn."""
        alone = self.model_copy(update={"policies": policies, "figures": None})
        if not self.services:
            return [alone]
        own = services.workloads(self.services, self.workload)
        seen = services.clusters(self.services, self.cluster, self.sharing)
        found = []
        for name, one in self.services.items():
            view = alone.model_copy(
                update={
                    "workload": own[name],
                    "cluster": seen[name],
                    "policies": tuple(policy.of(name) for policy in policies),
                    "goodput": self.goodput if one.goodput is None else one.goodput,
                    "target": one.target or self.target,
                    "services": {},
                }
            )
            view._whole, view._service = alone, name
            found.append(view)
        return found

    def streams(self, trial: int, shared: Shared | None = None) -> Streams:
        """Return the random streams of a trial; those of its service for a view."""
        return Streams(self.seed, trial, shared).of(self._service)

    def _problems(self) -> Iterator[tuple[Key, str]]:
        labels: dict[str, int] = {}
        for index, policy in enumerate(self.policies):
            first = labels.setdefault(policy.label, index)
            if first != index:
                yield (
                    ("policies", index),
                    f"has the name '{policy.label}', as has policies.{first}; give each a 'name' of its own",
                )
            if not self.services:
                yield from self._policy_problems(index, policy)
        if self.services:
            yield from self._service_problems()
            if self.corruption:
                yield ("corruption",), "is for one service: leave out 'services'"
        else:
            yield from self._unanswered()
            if self.sharing != FirstCome():
                yield ("sharing",), "needs 'services' that share the cluster"
        if isinstance(self.warmup, int) and self.warmup < 0:
            yield ("warmup",), f"must be 0 or more, but is {self.warmup}"
        if isinstance(self.warmup, int) and self.warmup >= self.workload.queries:
            yield (
                ("warmup",),
                f"must be less than workload.queries ({self.workload.queries}), but is {self.warmup}",
            )
        yield from self._precision_problems()
        yield from self._figure_problems(labels)
        yield from self._comparison_problems(labels)
        yield from self._execution_problems()

    def _execution_problems(self) -> Iterator[tuple[Key, str]]:
        """Yield what hardware in the loop needs or cannot do."""
        in_the_loop = self.execution == "in_the_loop"
        if in_the_loop and self.model is None:
            yield ("execution",), "in_the_loop needs a 'model' to run"
        if in_the_loop and self.corruption:
            yield ("corruption",), "is computed after the simulation: use 'execution: deferred'"
        if self.contention and not in_the_loop:
            yield ("contention",), "needs 'execution: in_the_loop': a deferred run measures no service times"

    def _policy_problems(self, index: int, policy: Policy) -> Iterator[tuple[Key, str]]:
        """Yield why a policy cannot run on the cluster, on the engine that is asked for, or with the models."""
        try:
            clients = getattr(self.workload.arrivals, "clients", None)
            check(self.machines, policy, self.stragglers, self.workload.queries, clients, self.corruption)
        except ValueError as error:
            yield ("policies", index), str(error)
            return
        measured = self.execution == "in_the_loop"
        queries = self.workload.queries
        if self.engine == "compiled":
            try:
                engine_for("compiled", self.machines, policy, self.stragglers, queries=queries, measured=measured)
            except ParmError as error:
                yield ("engine",), str(error)
        for says in self._models_missing(policy):
            yield ("policies", index), says

    def _service_problems(self) -> Iterator[tuple[Key, str]]:
        """Yield what does not fit together among services."""
        bad = [*services.problems(self.services, self.workload, self.warmup)]
        if self.execution == "in_the_loop":
            bad.append((("execution",), "in_the_loop runs one service only"))
        if self.engine == "compiled":
            says = f"the compiled engine cannot simulate {services.UNSUPPORTED}: use 'engine: auto' or 'engine: simpy'"
            bad.append((("engine",), says))
        if not all(one.instances for one in services.clusters(self.services, self.cluster, self.sharing).values()):
            bad.append((("services",), f"{self.cluster.instances} instances are too few: each service needs one"))
        yield from bad
        fits = not bad
        for index, policy in enumerate(self.policies if fits else ()):
            for says in self._together(policy):
                fits = False
                yield ("policies", index), says
        if fits:
            yield from dict.fromkeys(problem for view in self.views for problem in view._unanswered())

    def _together(self, policy: Policy) -> Iterator[str]:
        """Yield why services cannot run together with a policy."""
        try:
            views = self.viewed(policy)
            for view in views:
                (own,) = view.policies
                with services.naming(view.service):
                    clients = getattr(view.workload.arrivals, "clients", None)
                    check(view.machines, own, (), view.workload.queries, clients)
                yield from (f"service '{view.service}': {says}" for says in view._models_missing(own))
            served = {view.service: (view.machines, view.policies[0]) for view in views}
            check_services(served, self.sharing, self.stragglers)
        except ValueError as error:
            yield str(error)

    def _models_missing(self, policy: Policy) -> Iterator[str]:
        """Yield what a policy lacks in an experiment with a model."""
        if self.model is not None and self.model.backup is None and policy.uses(Role.BACKUP, self.machines):
            yield f"{policy.name_in_yaml()} needs a 'model.backup'"
        if self.model is not None and isinstance(policy, CodedNonsystematic) and policy.code is None:
            yield "needs a 'code', such as approxifer, if there is a 'model'"

    def _unanswered(self) -> Iterator[tuple[Key, str]]:
        """Yield the stragglers that leave queries without an answer."""
        for index, straggler in enumerate(self.stragglers):
            defaults = self.cluster.deadline is not None or all(one.deadline is not None for one in self.policies)
            if isinstance(straggler, Crashes) and not straggler.retry and not defaults:
                yield (
                    ("stragglers", index),
                    "loses work permanently, which leaves queries unanswered: give the cluster a 'deadline', "
                    "or set 'retry: true' here",
                )

    def _precision_problems(self) -> Iterator[tuple[Key, str]]:
        """Yield widths of what is not measured, and selections that cannot be."""
        for name in self.precision.widths if self.precision is not None else ():
            if name.startswith("accuracy") and self.model is None:
                yield ("precision", name), "needs a 'model'"
            if name == "goodput" and self.in_time is None:
                yield ("precision", name), NO_TIME
        if self.select is None:
            return
        if self.precision is not None:
            yield (
                ("select",),
                "and 'precision' both say when to stop: give one of them, then run again into the same "
                "directory with the other; finished trials are used again",
            )
        if len(self.policies) < 2:
            yield ("select",), "needs two policies or more"
        if self.select.metric.startswith("goodput") and self.in_time is None:
            yield ("select", "metric"), NO_TIME
        if self.select.metric.startswith("accuracy") and self.model is None:
            yield ("select", "metric"), f"{self.select.metric} needs a 'model'"

    def _figure_problems(self, labels: Iterable[str]) -> Iterator[tuple[Key, str]]:
        """Yield what figures need or name that is not there."""
        for index, figure in enumerate(self.figures or ()):
            kind = figure.name_in_yaml()
            if kind in ("accuracy", "latency_accuracy") and self.model is None:
                yield ("figures", index), f"{kind} needs a 'model'"
            if kind == "timeline" and self.traces is not True:
                yield ("figures", index), "timeline needs 'traces: all'"
            named = [("policies", policy) for policy in figure.policies or ()]
            named += [(key, getattr(figure, key, None) or "") for key in ("policy", "against")]
            for key, policy in named:
                if policy and policy not in labels:
                    yield ("figures", index, key), _no_policy(policy, labels)

    def _comparison_problems(self, labels: Mapping[str, int]) -> Iterator[tuple[Key, str]]:
        """Yield unknown policies, keys and metrics of references and claims."""
        swept = [*sweep.swept(self.sweep), *([SERVICE] if self.services else [])]
        for index, reference in enumerate(self.reference):
            if reference.policy not in labels:
                yield ("reference", index, "policy"), _no_policy(reference.policy, labels)
            if reference.key not in swept:
                yield ("reference", index, "key"), f"'{reference.key}' is not swept"
        for index, claim in enumerate(self.claims):
            for policy in claim.policies:
                if policy not in labels:
                    yield ("claims", index), _no_policy(policy, labels)
            if claim.metric.startswith("accuracy") and self.model is None:
                yield ("claims", index, "metric"), f"{claim.metric} needs a 'model'"
            if claim.metric.startswith("goodput") and self.in_time is None:
                yield ("claims", index, "metric"), NO_TIME
            for key in claim.at:
                if key not in swept:
                    yield ("claims", index, "at"), f"'{key}' is not swept"
        for key in self.reversals.against if self.reversals else ():
            if key not in swept:
                yield ("reversals", "against"), f"'{key}' is not swept"

    def _sweep_problems(self) -> Iterator[tuple[Key, str]]:
        good = True
        for problem in sweep.problems(self.sweep, self.resolved()):
            good = False
            yield problem
        if not good:
            return
        for key, values in self.sweep.items():
            places: Iterable[str | int] = values if isinstance(values, Mapping) else range(len(values))
            for place, steps in zip(places, sweep.steps(key, values), strict=True):
                for says in self._impossible(steps):
                    good = False
                    yield ("sweep", key, place), says
        if good and len(self.sweep) > 1:
            for point in self.points():
                for says in self._impossible(point):
                    yield ("sweep",), f"{', '.join(f'{key}={value}' for key, value in point.items())}: {says}"
                    return

    def _impossible(self, point: dict[str, Scalar]) -> Iterator[str]:
        from experiments.config.messages import sentences

        try:
            self.at(point)
        except ValidationError as error:
            data = self.resolved()
            for key, value in sweep.settings(self.sweep, point).items():
                put(data, key, value)
            for loc, says in sentences(error, data, Experiment):
                yield f"{spell(loc)} {says}"


def _portable(data: Any) -> Any:
    """Return plain data with paths below the folder of parm's own profiles made relative to it."""
    if isinstance(data, dict):
        return {key: _portable(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_portable(value) for value in data]
    own = f"{profiles.FOLDER}{os.sep}"
    return data.removeprefix(own) if isinstance(data, str) else data


def _no_policy(name: str, labels: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, labels, n=1)
    return f"there is no policy '{name}'" + (f"; did you mean '{near[0]}'?" if near else "")
