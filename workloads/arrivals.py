"""When queries arrive: the family `Arrivals`.

Every process scales unit-rate draws of its generator, so that other rates use the same random numbers (common random
numbers). Rates are in queries per second, times and durations in seconds.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, field_validator, model_validator

from sim.distributions import Distribution
from sim.errors import ParmError
from sim.files import Unit, moment, read_moments, read_table
from sim.kinds import Kind
from sim.recorded import ARRIVALS, known
from sim.recorded import arrivals as recorded_times
from sim.schedule import ClosedSchedule, OpenSchedule, Schedule
from workloads.files import ExistingFile

Floats = NDArray[np.float64]
SHORTEST = 1e-6
"""Shortest mean duration of a state, in seconds; shorter ones would make a simulation too slow."""
MOST_CHANGES = 1e8
"""Most changes of state in a schedule, limited by memory."""


class Arrivals(Kind):
    """When queries reach the frontend."""

    family: ClassVar[str] = "arrival process"

    @abstractmethod
    def schedule(self, queries: int, generator: np.random.Generator) -> Schedule:
        """Return the arrivals of `queries` queries; the first n do not depend on the number that follow."""

    def available(self) -> int | None:
        """Return the number of available queries, or None if it is unlimited."""
        return None

    @abstractmethod
    def mean_rate(self) -> float | None:
        """Return the long-run mean rate in queries per second, or None if it depends on the cluster."""


class Poisson(Arrivals):
    """Independent arrivals at a constant rate: exponential gaps."""

    kind: Literal["poisson"] = "poisson"
    rate: float = Field(gt=0)
    """Queries per second."""

    def schedule(self, queries: int, generator: np.random.Generator) -> OpenSchedule:
        """Return Poisson arrivals."""
        return OpenSchedule(_unit_poisson(queries, generator) / self.rate)

    def mean_rate(self) -> float:
        """Return `rate`."""
        return self.rate


class Deterministic(Arrivals):
    """One query every 1/rate seconds, the first after 1/rate."""

    kind: Literal["deterministic"] = "deterministic"
    rate: float = Field(gt=0)
    """Queries per second."""

    def schedule(self, queries: int, generator: np.random.Generator) -> OpenSchedule:
        """Return evenly spaced arrivals; `generator` is not used."""
        return OpenSchedule(np.arange(1, queries + 1) / self.rate)

    def mean_rate(self) -> float:
        """Return `rate`."""
        return self.rate


class Gamma(Arrivals):
    """Independent gamma gaps: burstier than Poisson for cv > 1, more regular for cv < 1."""

    kind: Literal["gamma"] = "gamma"
    rate: float = Field(gt=0)
    """Queries per second."""
    cv: float = Field(gt=0)
    """Coefficient of variation of the gaps (standard deviation over mean); 1 is Poisson."""

    def schedule(self, queries: int, generator: np.random.Generator) -> OpenSchedule:
        """Return renewal arrivals: gaps of shape 1/cv^2 and mean 1/rate."""
        shape = self.cv**-2
        return OpenSchedule(np.cumsum(generator.standard_gamma(shape, queries)) / (shape * self.rate))

    def mean_rate(self) -> float:
        """Return `rate`."""
        return self.rate


class Bursts(Arrivals):
    """Markov-modulated Poisson: the rate jumps between states that last exponential times."""

    kind: Literal["bursts"] = "bursts"
    rates: tuple[float, ...] = Field(min_length=2)
    """Queries per second in each state, such as [100, 500] for normal and burst; may be 0."""
    durations: tuple[float, ...] = Field(min_length=2)
    """Mean duration of each state, in seconds; the next state is any of the others with equal probability."""
    rate: float | None = Field(default=None, gt=0)
    """Mean queries per second; if given, `rates` are scaled to it and only their ratios count."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.rates) != len(self.durations):
            raise ValueError(f"{len(self.rates)} rates need as many durations, not {len(self.durations)}")
        if min(self.durations) < SHORTEST:
            raise ValueError(f"every duration must be at least {SHORTEST:g} s")
        if min(self.rates) < 0 or max(self.rates) == 0:
            raise ValueError("no rate may be negative, and at least one must be above 0")
        return self

    def schedule(self, queries: int, generator: np.random.Generator) -> OpenSchedule:
        """Return arrivals by time change of a unit-rate process, beginning in the stationary state.

        The states have their own generators, so that bursts come at the same times under another `rate`.
        """
        units = _unit_poisson(queries, generator)
        lengths, jumps = generator.spawn(2)
        durations = np.asarray(self.durations)
        rates = np.asarray(self.rates) * (self.mean_rate() / self._unscaled_rate())
        state = int(np.searchsorted(np.cumsum(durations)[:-1] / durations.sum(), jumps.random(), side="right"))
        if (changes := units[-1] / np.mean(rates * durations)) > MOST_CHANGES:
            raise ParmError(f"bursts: {queries} queries take {changes:.1g} changes of state; make 'durations' longer")
        size = min(64 + int(units[-1] / np.mean(rates * durations)), 1 << 20)
        time, load = [np.zeros(1)], [np.zeros(1)]  # changes of state, and expected arrivals up to each
        while load[-1][-1] <= units[-1]:
            steps = 1 + (jumps.random(size) * (len(rates) - 1)).astype(np.int64)
            states = (state + np.concatenate([[0], np.cumsum(steps)])) % len(rates)
            state, states = int(states[-1]), states[:-1]
            sojourns = lengths.standard_exponential(size) * durations[states]
            time.append(time[-1][-1] + np.cumsum(sojourns))
            load.append(load[-1][-1] + np.cumsum(sojourns * rates[states]))
        return OpenSchedule(np.interp(units, np.concatenate(load), np.concatenate(time)))

    def mean_rate(self) -> float:
        """Return the rates' mean, weighted by the time spent in each state."""
        return self._unscaled_rate() if self.rate is None else self.rate

    def _unscaled_rate(self) -> float:
        return float(np.average(self.rates, weights=self.durations))


class Daily(Arrivals):
    """A daily cycle: a Poisson process of rate (1 + amplitude sin(2 pi (t / period + phase))) rate."""

    kind: Literal["daily"] = "daily"
    rate: float = Field(gt=0)
    """Mean queries per second over a whole period."""
    amplitude: float = Field(ge=0, le=1)
    """Relative amplitude: with 0.5 the rate goes from 0.5 to 1.5 times the mean."""
    period: float = Field(default=86400, gt=0)
    """Seconds per cycle."""
    phase: float = Field(default=0, ge=0, le=1)
    """Phase of the cycle at time 0: 0 at the mean and rising, 0.25 at the peak, 0.75 at the minimum."""

    def schedule(self, queries: int, generator: np.random.Generator) -> OpenSchedule:
        """Return arrivals by time change: a unit-rate Poisson process mapped by the inverse of the integrated rate.

        With E = 2 pi (t / period + phase) + pi / 2 the integrated rate is, up to a factor and a constant,
        M = E - amplitude sin E: Kepler's equation.
        """
        scale, start = self.period / (2 * np.pi), 2 * np.pi * self.phase + np.pi / 2
        anomaly = _unit_poisson(queries, generator) / (self.rate * scale) + start - self.amplitude * np.sin(start)
        times = scale * (_kepler(anomaly, self.amplitude) - start)
        return OpenSchedule(np.maximum.accumulate(np.maximum(times, 0)))  # corrects rounding only

    def mean_rate(self) -> float:
        """Return `rate`."""
        return self.rate


class ClosedLoop(Arrivals):
    """Closed loop: a fixed number of clients, each of which waits for a reply, thinks, and sends its next query."""

    kind: Literal["closed_loop"] = "closed_loop"
    clients: int = Field(ge=1)
    """Number of clients, each with at most one outstanding query."""
    think: Distribution
    """Think time: from a reply (or time 0) to the client's next query, in seconds."""

    def schedule(self, queries: int, generator: np.random.Generator) -> ClosedSchedule:
        """Return the think time before each query, in the order in which they are sent."""
        return ClosedSchedule(self.clients, self.think.sample(generator, queries))

    def mean_rate(self) -> None:
        """Return None: the rate depends on the cluster."""


class Replay(Arrivals):
    """Recorded timestamps from a CSV file or JSON lines; the first of them is time 0."""

    kind: Literal["replay"] = "replay"
    file: ExistingFile
    """CSV file with a header, or JSON lines."""
    column: str = "timestamp"
    """Column of nondecreasing timestamps: numbers, or ISO 8601 dates and times."""
    unit: Unit = "s"
    """Unit of numbers in the column; not used for dates."""
    origin: int | float | str | None = None
    """Timestamp of simulated time 0, in the column's format; default: the first one. Give `replay` of slowness the same
    if its record has the same clock."""
    speed: float = Field(default=1, gt=0)
    """Replay speed: 2 halves the gaps and doubles the rate."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._times()
        return self

    def schedule(self, queries: int, generator: np.random.Generator) -> OpenSchedule:
        """Return the first `queries` timestamps. Raises ParmError if there are fewer. `generator` is not used."""
        try:
            times = self._times()
        except ValueError as error:  # the file has changed since the YAML was read
            raise ParmError(str(error)) from error
        if len(times) < queries:
            raise ParmError(f"{self.file} has {len(times)} timestamps, fewer than the {queries} queries asked for")
        return OpenSchedule(times[:queries])

    def mean_rate(self) -> float | None:
        """Return the mean rate of the whole file, or None if all timestamps are equal."""
        times = self._times()
        span = times[-1] - times[0]
        return float((len(times) - 1) / span) if span > 0 else None

    def available(self) -> int:
        """Return the number of timestamps in the file."""
        return len(self._times())

    def _times(self) -> Floats:
        """Return all arrival times. Raises ValueError if the file is invalid."""
        first, recorded = read_moments(self.file, self.column, self.unit)
        falls = np.flatnonzero(np.diff(recorded) < 0)
        if falls.size:
            where = read_table(self.file, [self.column]).where(int(falls[0]) + 1)
            raise ValueError(f"{where} has a '{self.column}' below that of the row before it; sort the file")
        if self.origin is not None:
            recorded = recorded + float(first - moment(str(self.origin), self.unit))
            if recorded[0] < 0:
                raise ValueError(f"origin {self.origin} is later than the first timestamp of {self.file}")
        times: Floats = recorded / self.speed
        return times


class Recorded(Arrivals):
    """Recorded arrivals that come with parm, at any rate; `parm list NAME` has the record's card."""

    kind: Literal["recorded"] = "recorded"
    name: Literal["azure-llm-2023-code", "azure-llm-2023-conv"]
    """The record. It is repeated at its end, one mean gap after its last arrival."""
    rate: PositiveFloat | None = None
    """Mean queries per second over the whole record, whose times are stretched or shrunk to it: gaps keep their ratios,
    so bursts stay as bursty and come in the same order. As recorded by default."""
    scale: PositiveFloat | None = None
    """The same as a multiple of the recorded rate: 2 is twice as many queries per second."""
    start: NonNegativeFloat | None = None
    """Seconds of the record that lie before time 0, before scaling. By default a moment of it is drawn for each trial,
    all equally likely."""

    @field_validator("name", mode="before")
    @classmethod
    def _known(cls, name: object) -> str:
        return known(name, ARRIVALS)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.rate is not None and self.scale is not None:
            raise ValueError("give 'rate' or 'scale', not both: there is one rate")
        if self.start is not None and self.start >= self._length:
            raise ValueError(f"start: must be below {self._length:.6g} s, the length of {self.name}")
        return self

    @property
    def _length(self) -> float:
        """Seconds until the record is repeated."""
        times = recorded_times(self.name)
        return float(times[-1]) * len(times) / (len(times) - 1)

    def schedule(self, queries: int, generator: np.random.Generator) -> OpenSchedule:
        """Return the arrivals of the record, taken as a circle, from `start` on."""
        times, length = recorded_times(self.name), self._length
        start = float(generator.random()) * length if self.start is None else self.start
        turns, rows = np.divmod(int(np.searchsorted(times, start)) + np.arange(queries), len(times))
        return OpenSchedule((times[rows] + turns * length - start) / self._speed)

    def mean_rate(self) -> float:
        """Return the mean queries per second over the whole record."""
        return self._recorded_rate * self._speed

    @property
    def _recorded_rate(self) -> float:
        return len(recorded_times(self.name)) / self._length

    @property
    def _speed(self) -> float:
        return (self.scale or 1.0) if self.rate is None else self.rate / self._recorded_rate


def _unit_poisson(queries: int, generator: np.random.Generator) -> Floats:
    return np.cumsum(generator.standard_exponential(queries))


def _kepler(mean: Floats, eccentricity: float) -> Floats:
    """Solve E - e sin E = M for E, 0 <= e <= 1, to rounding.

    On [0, pi] the left side is convex, so Newton's method decreases to the solution from a start above it. Upper bounds
    are E <= M + e, since sin E <= 1, and E^3 <= pi^2 M, since (E - sin E) / E^3 is smallest at E = pi.
    """
    turns = np.round(mean / (2 * np.pi))
    folded = mean - 2 * np.pi * turns
    target = np.abs(folded)
    solution = np.minimum(target + eccentricity, np.cbrt(np.pi**2 * target))
    for _ in range(60):
        slope = 1 - eccentricity * np.cos(solution)
        step = (solution - eccentricity * np.sin(solution) - target) / np.maximum(slope, 1e-30)
        solution -= step
        if np.abs(step).max() < 1e-13:
            break
    return 2 * np.pi * turns + np.copysign(solution, folded)
