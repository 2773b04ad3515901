"""Arrivals, instances and latency over a run: what a burst does, and what a scaler does about it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from experiments.analysis.quantiles import MS
from experiments.analysis.statistics import student_t
from experiments.figures import style
from experiments.figures.base import Figure, FigureData, spread
from experiments.figures.panels import Panel, panels, wrapped
from sim.trace import Floats, Trace

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.axes import Axes

    from experiments.figures.style import Look

SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
STEPS = 600
"""Moments at which instances are counted."""
MINUTES = 600.0
"""A run of this many seconds or more has an axis in minutes."""


class OverTime(Figure):
    """Arrivals, instances and a percentile of latency over the time of a run; its cells are simulated again."""

    kind: Literal["over_time"] = "over_time"
    metric: Literal["p50", "p90", "p99"] = "p99"
    """Percentile of the queries that arrive in a window: its mean over the trials, and a band for the 95% interval."""
    windows: int = Field(default=60, ge=4, le=1000)
    """Windows into which the time until the last arrival is divided."""
    trials: int = Field(default=6, ge=1)
    """Most trials that are simulated again."""
    at: dict[str, Any] = Field(default_factory=dict)
    """The sweep points to show, such as `{cluster.scaler: [none, queue]}`: a value, or several, for each key."""
    panels: int = Field(default=4, ge=1, le=6)
    """Most sweep points shown, side by side, evenly spread over the sweep."""
    log: bool | None = None
    """Whether latency has a log axis; where it is left out, as the spread of the values asks for."""

    def reason(self, material: FigureData) -> str | None:
        """Return why the figure cannot be drawn, or None."""
        if material.rows and material.simulated is None:
            return "the run's cells cannot be simulated again"
        unknown = [key for key in self.at if material.rows and key not in material.swept]
        if unknown:
            return f"'{unknown[0]}' is not swept"
        if material.rows and not self._shown(material):
            return "no sweep point has these values"
        return super().reason(material)

    def _shown(self, material: FigureData) -> list[Panel]:
        wanted = {key: one if isinstance(one, list) else [one] for key, one in self.at.items()}
        return [panel for panel in panels(material.rows) if all(panel.point[key] in one for key, one in wanted.items())]

    def _draw(self, material: FigureData) -> matplotlib.figure.Figure:
        every = self._shown(material)
        shown = [every[index] for index in spread(len(every), self.panels)]
        looks = self.looks(material)
        courses = [
            {policy: self._course(material, policy, panel.point) for policy in material.policies} for panel in shown
        ]
        end = max(course.end for panel in courses for course in panel.values())
        unit, name = (60.0, "minutes") if end >= MINUTES else (1.0, "seconds")
        percentile = style.METRICS.get(self.metric, self.metric)
        first = next(iter(courses[0].values()))
        figure, axes = style.sheet(
            3,
            len(shown),
            (6.8, 1.75) if len(shown) == 1 else (3.6, 1.75),
            f"Arrivals, instances and {percentile} latency over time",
            "; ".join(filter(None, [_measured(first), style.some(len(shown), len(every))])),
            [style.handle(policy, look) for policy, look in looks.items()],
            self.page,
            sharex=True,
            sharey="row",
            height_ratios=(0.6, 1, 1.4),
        )
        grid = np.array(axes, dtype=object).reshape(3, len(shown))
        for column, (panel, course_of) in enumerate(zip(shown, courses, strict=True)):
            top, middle, bottom = grid[:, column]
            top.set_title(wrapped(self._title(panel.point), top))
            _panel(top, middle, bottom, course_of, looks, unit)
            bottom.set_xlabel(f"time ({name})")
            style.slo(bottom, self.slo_ms)
        values = [course.late[~np.isnan(course.late)] for panel in courses for course in panel.values()]
        log = style.wants_log(np.concatenate(values).tolist()) if self.log is None else self.log
        style.milliseconds(grid[2, 0], "y", log)
        if not log:
            grid[2, 0].set_ylim(bottom=0)
        for ax, text in zip(grid[:, 0], ("arrivals\n(queries/s)", "instances", f"{percentile} (ms)"), strict=True):
            ax.set_ylabel(text)
        grid[0, 0].set_ylim(bottom=0)
        grid[1, 0].set_ylim(bottom=0)
        grid[0, 0].set_xlim(0, end / unit)
        return figure

    def _title(self, point: Mapping[str, Any]) -> str:
        """Return the values that tell the panels apart."""
        alike = [key for key, one in self.at.items() if not isinstance(one, list)]
        return ", ".join(style.pair(key, at) for key, at in point.items() if key not in alike)

    def _course(self, material: FigureData, policy: str, point: Mapping[str, Any]) -> _Course:
        assert material.simulated is not None
        cells = [one for one in material.outcomes if one.policy == policy and one.point == point][: self.trials]
        traces = [trace for one in cells if (trace := material.simulated(one)) is not None]
        end = max(float(trace.queries.arrival[-1]) for trace in traces)
        edges = np.linspace(0.0, end, self.windows + 1)
        found = np.array([_windows(trace, edges, SHARES[self.metric]) for trace in traces])
        late = [student_t(column) for column in (found[:, 1] * MS).T.tolist()]
        moments = np.linspace(0.0, end, STEPS)
        return _Course(
            trials=len(traces),
            edges=edges,
            rate=found[:, 0].mean(axis=0),
            late=np.array([one.value for one in late]),
            lo=np.array([one.lo for one in late]),
            hi=np.array([one.hi for one in late]),
            moments=moments,
            instances=np.mean([_paid(trace, moments) for trace in traces], axis=0),
        )


def _measured(course: _Course) -> str:
    """Return how much was measured, for the line below the headline."""
    windows = len(course.edges) - 1
    each = f"{windows} windows of {course.end / windows:.3g} s"
    return f"{course.trials} trials, 95% intervals; {each}" if course.trials > 1 else f"1 trial; {each}"


@dataclass(frozen=True)
class _Course:
    """One policy at one sweep point over time."""

    trials: int
    edges: Floats
    """Of the windows, in seconds; one more than there are windows."""
    rate: Floats
    """Arrivals per second in each window."""
    late: Floats
    """The percentile in each window in ms, NaN where nothing arrives."""
    lo: Floats
    hi: Floats
    moments: Floats
    instances: Floats
    """Paid instances at each of the moments."""

    @property
    def end(self) -> float:
        return float(self.edges[-1])


def _windows(trace: Trace, edges: Floats, share: float) -> tuple[Floats, Floats]:
    """Return the arrivals per second and the quantile of latency, in seconds, of the queries in each window."""
    cuts = np.searchsorted(trace.queries.arrival, edges[1:-1])
    parts = np.split(trace.queries.latency, cuts)
    rate = np.array([len(part) for part in parts]) / np.diff(edges)
    return rate, np.array([np.quantile(part, share) if len(part) else math.nan for part in parts])


def _paid(trace: Trace, moments: Floats) -> Floats:
    """Return how many instances are paid at each of the moments."""
    counts = trace.counts
    if counts is None:
        return np.full(len(moments), float(trace.instances))
    total = np.zeros(len(moments))
    for role, row in sorted(set(zip(counts.role.tolist(), counts.row.tolist(), strict=True))):
        mine = (counts.role == role) & (counts.row == row)
        total += counts.paid[mine][np.searchsorted(counts.time[mine], moments, side="right") - 1]
    return total


def _panel(
    top: Axes,
    middle: Axes,
    bottom: Axes,
    courses: Mapping[str, _Course],
    looks: Mapping[str, Look],
    unit: float,
) -> None:
    """Draw one sweep point: `top` has the arrivals, `middle` the instances, `bottom` the latency."""
    first = next(iter(courses.values()))
    top.stairs(first.rate, first.edges / unit, fill=True, color=style.FAINT)
    together: dict[bytes, int] = {}
    for policy, course in courses.items():
        color = looks[policy].color
        middle.plot(
            course.moments / unit, course.instances, color=color, linewidth=1.3, dashes=_dashes(together, course)
        )
        centre = (course.edges[1:] + course.edges[:-1]) / 2 / unit
        bottom.plot(centre, course.late, color=color, linewidth=1.3)
        if course.trials > 1:
            bottom.fill_between(centre, course.lo.clip(0), course.hi, color=color, alpha=0.15, linewidth=0)


def _dashes(together: dict[bytes, int], course: _Course) -> Sequence[float]:
    """Return the dashes of a line of instances: lines that lie on each other show alternately."""
    before = together.get(course.instances.tobytes(), 0)
    together[course.instances.tobytes()] = before + 1
    return (1, 0) if not before else (3, 3 + 3 * before)
