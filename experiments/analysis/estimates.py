"""Quantities of one or more policies at a sweep point, trial by trial: what claims and references are judged by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, BeforeValidator

from experiments.analysis import percentiles
from experiments.analysis.outcome import Measured, Outcome, common
from experiments.analysis.quantiles import CONFIDENCE, MS, Latencies, Sample, difference
from experiments.analysis.statistics import Interval, sectioning
from experiments.analysis.summary import FRACTIONS, METRICS, RATES, value


def known_metric(name: str) -> str:
    """Return the name of a metric: one of the summary, or any percentile as `percentiles.canonical` has it.

    Raises ValueError where it is none.
    """
    if percentiles.is_percentile(name):
        return percentiles.canonical(name)
    if name not in METRICS:
        raise ValueError(f"there is no metric '{name}'; there are {', '.join(METRICS)}, and percentiles such as p99.5")
    return name


Metric = Annotated[str, AfterValidator(known_metric)]
"""A metric of the summary, or a percentile, such as p99.5 or p995."""


LatencyMetric = Annotated[Literal["mean", "p50", "p99", "p999", "gap"], BeforeValidator(percentiles.known)]
"""A latency of the summary, which has an interval in every row; p99.9 and p999 are the same."""


FigureMetric = Annotated[
    Literal["mean", "p50", "p99", "p999", "gap", "goodput", "goodput_per_instance", "goodput_per_price"],
    BeforeValidator(percentiles.known),
]
"""A latency of the summary, or goodput."""

HIGHER_IS_BETTER = ("accuracy_available", "accuracy_degraded", "accuracy_overall", *RATES)
"""The metrics of which more is better."""


def unit(metric: str) -> str:
    """Return the unit of a metric: `ms`, `/s`, or nothing for a share."""
    return "" if is_fraction(metric) else "/s" if metric in RATES else "ms"


def is_fraction(metric: str) -> bool:
    """Say whether a metric is a share of the queries and not a latency."""
    return metric in FRACTIONS


def measured(part: Measured, metric: str) -> float:
    """Return a metric, in ms or as a fraction; NaN where it was not measured.

    Percentiles that are not in the summary come from the quantiles that are kept of a whole trial, linearly.
    """
    if metric in METRICS:
        return value(part, metric)
    if not isinstance(part, Outcome):
        return math.nan
    return MS * float(
        np.interp(percentiles.probability(metric), part.quantiles["probabilities"], part.quantiles["seconds"])
    )


@dataclass(frozen=True)
class Estimate:
    """A quantity with its values in each trial, or in each section of a single one."""

    value: float
    parts: tuple[float, ...]
    """Of a latency: what the value would be if all trials were like this one, to first order."""

    @property
    def interval(self) -> Interval:
        """The value with its 95% interval: Student's t over the parts."""
        return sectioning(self.value, self.parts)

    @classmethod
    def mean(cls, estimates: Sequence[Estimate]) -> Estimate:
        """Average over sweep points, trial by trial, since the points share their random numbers."""
        known = [one for one in estimates if not math.isnan(one.value)]
        if not known:
            return cls(math.nan, ())
        together = zip(*(one.parts for one in known), strict=False)
        return cls(float(np.mean([one.value for one in known])), tuple(float(np.mean(parts)) for parts in together))


def estimate(of: Callable[..., float], metric: str, *policies: Sequence[Outcome]) -> Estimate:
    """Return `of(a, b, ...)`, of each policy's value of a metric, over the trials that all of them have.

    Each argument is one policy's trials at one sweep point. Trials share their random numbers, so they are paired.
    """
    paired = common(*policies)
    if not paired[0]:
        return Estimate(math.nan, ())
    samples = [sample(metric, trials) for trials in paired]
    value = of(*(one.interval.value for one in samples))
    moved = zip(*([one.interval.value + by for by in one.deviations] for one in samples), strict=False)
    return Estimate(value, tuple(of(*(max(part, 0.0) for part in parts)) for parts in moved))


def gain(metric: str, sign: float, one: Sequence[Outcome], other: Sequence[Outcome]) -> Interval:
    """Return by how much `one` is better: `sign` times its metric less that of `other`, with the 95% interval."""
    better, worse = (sample(metric, trials) for trials in common(one, other))
    found = difference(better, worse).interval
    return found if sign > 0 else Interval(-found.value, -found.hi, -found.lo)


def sample(metric: str, trials: Sequence[Outcome], confidence: float = CONFIDENCE) -> Sample:
    """Return a metric over one policy's trials at one sweep point, in its unit; NaN where it is unknown."""
    if unit(metric) == "ms":
        return Latencies(trials).sample(metric, confidence)
    parts = trials if len(trials) > 1 else trials[0].blocks
    values = [value(part, metric, trials[0]) for part in parts]
    whole = float(np.mean(values)) if len(trials) > 1 else value(trials[0], metric)
    return Sample(sectioning(whole, values, confidence), tuple(one - whole for one in values))
