"""The `services` of an experiment's YAML: several models on one cluster, each seen as an experiment of its own.

A service's view is an ordinary experiment: its workload, its service times, its policy and its targets in the place of
the experiment's. So everything that measures, stores and draws a cell does the same for a service's; only the
simulation takes all of them at once (`experiments/run/together.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt

from experiments.analysis import percentiles
from experiments.analysis.outcome import LATENCIES
from experiments.config.keys import FOLDER_NAME, Key
from experiments.config.widths import MS, parsed
from experiments.config.workload import Workload
from sim.cluster import Cluster
from sim.distributions import Distribution
from sim.kinds import Options
from sim.sharing import Sharing, parts
from workloads.arrivals import Arrivals
from workloads.sampling import Sampling

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


def workloads(services: Mapping[str, Service], workload: Workload) -> dict[str, Workload]:
    """Return each service's workload. Raises ValueError where a number of queries cannot be known."""
    arrivals = {name: one.arrivals or workload.arrivals for name, one in services.items()}
    divided = [name for name, one in services.items() if one.queries is None]
    rates = []
    for name in divided:
        rate = arrivals[name].mean_rate()
        if not rate:
            raise ValueError(f"service '{name}' needs 'queries', since the mean rate of its arrivals is not known")
        rates.append(rate)
    shares = dict(zip(divided, parts(workload.queries, rates) if divided else [], strict=True))
    return {
        name: workload.model_copy(
            update={
                "arrivals": arrivals[name],
                "sampling": one.sampling or workload.sampling,
                "queries": one.queries or shares[name],
            }
        )
        for name, one in services.items()
    }


def clusters(services: Mapping[str, Service], cluster: Cluster, sharing: Sharing) -> dict[str, Cluster]:
    """Return the cluster that each service sees."""
    weights = [one.weight for one in services.values()]
    found = {}
    for number, (name, one) in enumerate(services.items()):
        times = {"service": one.service, "parity_service": one.parity_service, "backup_service": one.backup_service}
        own: dict[str, Any] = {key: time for key, time in times.items() if time is not None}
        if one.deadline is not None:
            own["deadline"] = one.deadline
        if not sharing.together:
            own |= {key: parts(getattr(cluster, key), weights)[number] for key in ("instances", "extra")}
        found[name] = cluster.model_copy(update=own)
    return found


def problems(services: Mapping[str, Service], workload: Workload, warmup: object) -> Iterator[tuple[Key, str]]:
    """Yield what is wrong with the services' names and queries."""
    for name in services:
        if not FOLDER_NAME.fullmatch(name):
            yield (
                ("services", name),
                "is not a valid name: use up to 100 letters, digits, '.', '_' and '-', beginning with a letter or a "
                "digit",
            )
    try:
        own = workloads(services, workload)
    except ValueError as error:
        yield ("services",), str(error)
        return
    for name, one in own.items():
        available = one.arrivals.available()
        if available is not None and available < one.queries:
            yield (
                ("services", name),
                f"'queries' must be at most the {available} recorded arrivals, but is {one.queries}",
            )
        if not one.queries:
            yield ("services", name), "gets no queries: raise 'workload.queries', or give it 'queries' of its own"
        if isinstance(warmup, int) and warmup >= one.queries > 0:
            yield ("warmup",), f"must be less than the {one.queries} queries of service '{name}'"


@contextmanager
def naming(service: str) -> Iterator[None]:
    """Name the service in a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"service '{service}': {error}") from None


UNSUPPORTED = "several services"
"""What the compiled engine says that it does not know."""
