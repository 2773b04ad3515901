"""The `services` of an experiment's YAML: several models on one cluster, each seen as an experiment of its own.

A service's view is an ordinary experiment: its workload, its service times, its policy and its targets in the place of
the experiment's. So everything that measures, stores and draws a cell does the same for a service's; only the
simulation takes all of them at once (`experiments/run/together.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt

from experiments.analysis import percentiles
from experiments.analysis.outcome import LATENCIES
from experiments.config.keys import FOLDER_NAME, Key
from experiments.config.widths import MS, parsed
from sim.distributions import Distribution
from sim.errors import ParmError
from sim.kinds import Options
from sim.policies import Policy
from sim.services import check_services
from sim.sharing import parts
from sim.simulation import check
from workloads.arrivals import Arrivals
from workloads.sampling import Sampling

if TYPE_CHECKING:
    from experiments.config.schema import Experiment, Workload
    from sim.cluster import Cluster

SERVICE = "service"
"""The coordinate of a service among those of a sweep point."""


def seconds(time: str | float) -> float:
    """Return a time that is written as `100ms` or as a number of seconds. Raises ValueError where it is none."""
    number, unit = parsed(time)
    if unit == "%":
        raise ValueError(f"'{time}' is no time: write 100ms, or a number of seconds")
    return number * (1.0 if unit is None else MS[unit] / 1000)


def _time(time: str | float) -> str | float:
    seconds(time)
    return time


Time = Annotated[str | float, AfterValidator(_time)]
"""`100ms`, or a number of seconds."""


def _latencies(given: dict[str, Any]) -> dict[str, Any]:
    found = {str(percentiles.known(name)): time for name, time in given.items()}
    for name in found:
        if name not in LATENCIES and not percentiles.is_percentile(name):
            raise ValueError(f"'{name}' is no latency: write mean, or a percentile such as p99")
    return found


Target = Annotated[dict[str, Time], Field(min_length=1), AfterValidator(_latencies)]
"""Latencies with what they may be at most, such as `{p99: 100ms}`."""


class Service(Options):
    """One of several services on the cluster. What it does not say is as in the rest of the file."""

    arrivals: Arrivals | None = None
    """Its arrival process; `workload.arrivals` where not given."""
    queries: PositiveInt | None = None
    """Its queries per trial. Default: its part of `workload.queries`, by the mean arrival rates, so that all services
    end at about the same time."""
    sampling: Sampling | None = None
    """How its queries' samples are chosen; `workload.sampling` where not given."""
    service: Distribution | None = None
    """Seconds that its model takes for a batch of one; `cluster.service` where not given."""
    parity_service: Distribution | None = None
    """The same for its parity models; `cluster.parity_service`, or else as `service`, where not given."""
    backup_service: Distribution | None = None
    """The same for its backup model, likewise."""
    deadline: PositiveFloat | None = None
    """Seconds after which a query without a reply gets a default answer; `cluster.deadline` where not given."""
    goodput: Time | None = None
    """Time within which its answers count for goodput; the experiment's `goodput` where not given."""
    target: Target | None = None
    """Latencies that it has to keep, such as `{p99: 100ms}`; the experiment's `target` where not given."""
    priority: PositiveInt = 1
    """With `sharing: priority`, 1 is served first. Services of equal priority wait in one queue."""
    weight: PositiveFloat = 1.0
    """With `sharing: weighted` its part of the instances' time while others wait too, with `separate` its part of the
    instances, relative to the weights of the others."""


def filled_in(data: Any) -> Any:
    """Return an experiment's plain data in which `workload.arrivals` and `cluster.service` are those of the first
    service, if every service has its own: then they may be left out."""
    services = data.get("services") if isinstance(data, Mapping) else None
    ones = [*services.values()] if isinstance(services, Mapping) else []
    if not ones or not all(isinstance(one, Mapping) for one in ones):
        return data
    filled = dict(data)
    for section, option in (("workload", "arrivals"), ("cluster", "service")):
        given = data.get(section)
        if isinstance(given, Mapping) and option not in given and all(one.get(option) is not None for one in ones):
            filled[section] = {**given, option: ones[0][option]}
    return filled


def workloads(experiment: Experiment) -> dict[str, Workload]:
    """Return each service's workload. Raises ValueError where a number of queries cannot be known."""
    workload = experiment.workload
    own = {
        name: workload.model_copy(
            update={"arrivals": one.arrivals or workload.arrivals, "sampling": one.sampling or workload.sampling}
        )
        for name, one in experiment.services.items()
    }
    open_ = [name for name, one in experiment.services.items() if one.queries is None]
    rates = [own[name].arrivals.mean_rate() for name in open_]
    unknown = next((name for name, rate in zip(open_, rates, strict=True) if not rate), None)
    if unknown is not None:
        raise ValueError(f"service '{unknown}' needs 'queries', since the mean rate of its arrivals is not known")
    shares = dict(zip(open_, parts(workload.queries, [rate or 0.0 for rate in rates]) if open_ else [], strict=True))
    return {
        name: own[name].model_copy(update={"queries": one.queries or shares[name]})
        for name, one in experiment.services.items()
    }


def clusters(experiment: Experiment) -> dict[str, Cluster]:
    """Return the cluster that each service sees."""
    cluster, services = experiment.cluster, experiment.services
    weights = [one.weight for one in services.values()]
    found = {}
    for number, (name, one) in enumerate(services.items()):
        times = {"service": one.service, "parity_service": one.parity_service, "backup_service": one.backup_service}
        own: dict[str, Any] = {key: time for key, time in times.items() if time is not None}
        if one.deadline is not None:
            own["deadline"] = one.deadline
        if not experiment.sharing.together:
            own |= {key: parts(getattr(cluster, key), weights)[number] for key in ("instances", "extra")}
        found[name] = cluster.model_copy(update=own)
    return found


def load(experiment: Experiment) -> float | None:
    """Return the offered load of all services on the instances that they share; None if it is not known."""
    total = 0.0
    for view in experiment.views:
        rate, mean = view.workload.arrivals.mean_rate(), view.cluster.service.mean()
        if rate is None or mean is None:
            return None
        total += rate * mean
    return total / experiment.cluster.instances


def problems(experiment: Experiment) -> Iterator[tuple[Key, str]]:
    """Yield what does not fit together among an experiment's services."""
    for name in experiment.services:
        if not FOLDER_NAME.fullmatch(name):
            yield (
                ("services", name),
                "is not a valid name: use up to 100 letters, digits, '.', '_' and '-', beginning with a letter or a "
                "digit",
            )
    if experiment.execution == "in_the_loop":
        yield ("execution",), "in_the_loop runs one service only"
    if experiment.engine == "compiled":
        yield ("engine",), f"the compiled engine cannot simulate {UNSUPPORTED}: use 'engine: auto' or 'engine: simpy'"
    try:
        yield from _workload_problems(experiment)
    except ValueError as error:
        yield ("services",), str(error)
        return
    if not all(cluster.instances for cluster in clusters(experiment).values()):
        yield ("services",), f"{experiment.cluster.instances} instances are too few: each service needs one"
        return
    fits = True
    for index, policy in enumerate(experiment.policies):
        for says in _policy_problems(experiment, policy):
            fits = False
            yield ("policies", index), says
    if fits:
        yield from dict.fromkeys(problem for view in experiment.views for problem in view.unanswered())


def _workload_problems(experiment: Experiment) -> Iterator[tuple[Key, str]]:
    for name, workload in workloads(experiment).items():
        available = workload.arrivals.available()
        if available is not None and available < workload.queries:
            yield (
                ("services", name),
                f"'queries' must be at most the {available} recorded arrivals, but is {workload.queries}",
            )
        if not workload.queries:
            yield ("services", name), "gets no queries: raise 'workload.queries', or give it 'queries' of its own"
        if isinstance(experiment.warmup, int) and experiment.warmup >= workload.queries > 0:
            yield ("warmup",), f"must be less than the {workload.queries} queries of service '{name}'"


def _policy_problems(experiment: Experiment, policy: Policy) -> Iterator[str]:
    try:
        found = {name: policy.of(name) for name in experiment.services}
    except ValueError as error:
        yield str(error)
        return
    views = dict(zip(experiment.services, experiment.viewed(policy), strict=True))
    for name, view in views.items():
        clients = getattr(view.workload.arrivals, "clients", None)
        try:
            check(view.machines, found[name], (), view.workload.queries, clients)
        except ValueError as error:
            yield f"service '{name}': {error}"
            return
        for says in view.models_missing(found[name]):
            yield f"service '{name}': {says}"
    try:
        together = {name: (view.machines, found[name]) for name, view in views.items()}
        check_services(together, experiment.sharing, experiment.stragglers)
    except ValueError as error:
        yield str(error)


def shortened(experiment: Experiment, queries: int) -> Experiment:
    """Return an experiment, or a service's view, with at most `queries` queries in all."""
    whole = experiment.whole
    workload = whole.workload.model_copy(update={"queries": min(queries, whole.workload.queries)})
    update: dict[str, Any] = {"workload": workload, "execution": "deferred"}
    if not experiment.service:
        return whole.model_copy(update=update)
    total = sum(view.workload.queries for view in whole.views)
    update["services"] = {
        view.service: whole.services[view.service].model_copy(
            update={"queries": max(1, view.workload.queries * min(queries, total) // total)}
        )
        for view in whole.views
    }
    number = [*whole.services].index(experiment.service)
    return whole.model_copy(update=update).views[number]


def only_one(experiment: Experiment, verb: str) -> None:
    """Raise ParmError where a verb of the command line does not know what to do with several services."""
    if experiment.services:
        raise ParmError(f"'parm {verb}' knows one service only: leave out 'services', or run the file with 'parm run'.")


UNSUPPORTED = "several services"
"""What the compiled engine says that it does not know."""
