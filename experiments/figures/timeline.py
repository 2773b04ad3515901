"""A few coding groups in time: who ran what when, and which answer the client got."""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

import numpy as np
from pydantic import Field, model_validator

from experiments.analysis.quantiles import MS
from experiments.figures import style
from experiments.figures.base import Figure, FigureData
from experiments.figures.panels import wrapped
from experiments.figures.scene import Scene, about, choose, only_decoded, own_tasks, units_of_tasks
from sim.trace import Floats, Role, Route, TaskStatus, Trace

Time = TypeVar("Time", float, Floats)

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from experiments.analysis.outcome import Outcome

BLUE, ORANGE, GREEN, RED = "#0072b2", "#e69f00", "#009e73", "#d55e00"
COLORS = {Role.DEPLOYED: BLUE, Role.PARITY: ORANGE, Role.BACKUP: GREEN}
INKS = {Role.DEPLOYED: BLUE, Role.PARITY: "#a87300", Role.BACKUP: "#007a59"}
OTHERS = "#e9ebed"
REPLIES = {
    Route.OWN: "by its own answer",
    Route.RECONSTRUCTION: "by a reconstruction",
    Route.REPLICA: "by a replica",
    Route.BACKUP: "by a backup",
    Route.DEFAULT: "by a default answer",
}
HEIGHT = 0.62
WIDEST = 12.0
"""The window ends at the latest this many times as late as the reply that it is about."""


class Timeline(Figure):
    """Bars of a few coding groups' tasks on their instances, around one reply: a telling one, or the slowest ones."""

    has_latency_axis: ClassVar[bool] = False

    kind: Literal["timeline"] = "timeline"
    policy: str | None = None
    """The policy to look at; the first with reconstructions, else with replicas, where it is left out."""
    groups: int = Field(default=3, ge=1, le=8)
    """Coding groups shown; batches where the policy has no coding groups."""
    query: int | None = Field(default=None, ge=0)
    """The number of a query to look at, however it was answered."""
    slowest: int | None = Field(default=None, ge=1, le=8)
    """So many of the slowest queries, a panel each, of the trial that has the slowest one."""
    trial: int | None = Field(default=None, ge=0)
    """The trial to look at; the first that has what is asked for where it is left out."""
    at: dict[str, Any] = Field(default_factory=dict)
    """The sweep point to look at, such as `{workload.arrivals.rate: 300}`; the first where it is left out."""

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if self.query is not None and self.slowest is not None:
            raise ValueError("'query' and 'slowest' both say which queries to show: leave one out")
        return self

    def reason(self, material: FigureData) -> str | None:
        """Return why the figure cannot be drawn, or None."""
        if material.trace is None:
            return "the traces were not kept"
        unknown = [key for key in self.at if material.rows and key not in material.swept]
        if unknown:
            return f"'{unknown[0]}' is not swept"
        outcome = self._outcome(material)
        if outcome is None:
            asked = self.query is not None or self.slowest is not None or self.at
            whose = self.policy or "any policy"
            if asked:
                return f"there is no such cell of {whose}"
            return f"no client of {whose} was answered by a reconstruction or a replica"
        return self._missing(material.trace(outcome), outcome) or super().reason(material)

    def _missing(self, trace: Trace | None, outcome: Outcome) -> str | None:
        """Return what a cell's trace lacks."""
        if trace is None:
            return "its trace was not kept"
        if self.query is not None and self.query >= len(trace.queries):
            return f"there is no query {self.query}: the last one is {len(trace.queries) - 1}"
        return None if self._scenes(trace, outcome) else "no trace with a reconstruction or a replica was kept"

    def _outcome(self, material: FigureData) -> Outcome | None:
        """Return the cell to look at."""
        cells = [
            one
            for one in material.outcomes
            if self.policy in (None, one.policy)
            and self.trial in (None, one.trial)
            and all(one.point.get(key) == value for key, value in self.at.items())
        ]
        if self.slowest is not None:
            return max(cells, key=lambda one: one.quantiles["seconds"][-1], default=None)
        if self.query is not None:
            return cells[0] if cells else None
        telling = (one for route in ("reconstruction", "replica", "backup") for one in cells if one.routes[route] > 0)
        return next(telling, None)

    def _scenes(self, trace: Trace, outcome: Outcome) -> list[Scene]:
        if self.query is not None:
            return [about(trace, self.query, self.groups)]
        if self.slowest is not None:
            counted = trace.queries.latency[outcome.warmup :]
            worst = outcome.warmup + np.argsort(-counted, kind="stable")[: self.slowest]
            return [about(trace, int(query), self.groups) for query in worst]
        scene = choose(trace, self.groups)
        return [] if scene is None else [scene]

    def _draw(self, material: FigureData) -> matplotlib.figure.Figure:
        outcome = self._outcome(material)
        trace = material.trace(outcome) if material.trace and outcome else None
        assert outcome is not None and trace is not None
        drawings = [_Drawing(trace, scene) for scene in self._scenes(trace, outcome)]
        policy = style.label(outcome.policy)
        where = ", ".join(style.pair(key, at) for key, at in outcome.point.items())
        parts = [policy, f"trial {outcome.trial}", where]
        if len(drawings) == 1 and self.slowest is None:
            title = drawings[0].title()
            told = drawings[0].told() if self.query is not None else ""
            small = [", ".join(filter(None, parts)), told, drawings[0].units_shown()]
        else:
            title = f"The slowest {'query' if len(drawings) == 1 else f'{len(drawings)} queries'} of a trial"
            told = f"query {drawings[0].scene.query}: {drawings[0].told()}" if len(drawings) == 1 else ""
            small = [", ".join(filter(None, parts)), told]
        return _sheet(drawings, title, "; ".join(filter(None, [*small, "one row per instance"])), self.page)


def svg(trace: Trace, query: int, policy_label: str, groups: int = 3) -> str:
    """Return the timeline of one query as an `<svg>` element to put into a page; its text is text.

    `query` is its number in the trace, `policy_label` what the page calls the policy. The element has no ids but those
    that it refers to, so that a page can hold many; the same query gives the same text.
    """
    import matplotlib

    with style.applied(), matplotlib.rc_context({"svg.fonttype": "none", "font.family": ["DejaVu Sans", "sans-serif"]}):
        drawing = _Drawing(trace, about(trace, query, groups))
        figure = _sheet([drawing], f"Query {query}: {drawing.told()}", f"{policy_label}; {drawing.units_shown()}")
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    found = text.getvalue()
    return _GROUP_ID.sub("<g", found[found.index("<svg") :]).strip()


_GROUP_ID = re.compile(r'<g id="[^"]*"')


def _sheet(
    drawings: Sequence[_Drawing], title: str, subtitle: str, page: style.Page | None = None
) -> matplotlib.figure.Figure:
    """Return a figure with the drawings below each other."""
    heights = [0.9 + 0.38 * drawing.rows for drawing in drawings]
    legend = {str(one.get_label()): one for drawing in drawings for one in drawing.legend()}
    figure, axes = style.sheet(
        len(drawings),
        1,
        (8.2, sum(heights) / len(heights)),
        title,
        subtitle,
        list(legend.values()),
        page,
        height_ratios=heights,
    )
    for drawing, ax in zip(drawings, axes, strict=True):
        drawing.draw(ax)
        if len(drawings) > 1:
            told = f"query {drawing.scene.query}: {drawing.told()}; {drawing.units_shown()}"
            ax.set_title(wrapped(told, ax))
    axes[-1].set_xlabel("time since the first dispatch shown (ms)")
    return figure


class _Drawing:
    """One timeline while it is being drawn; times are milliseconds after the first dispatch shown."""

    def __init__(self, trace: Trace, scene: Scene) -> None:
        self.trace, self.scene = trace, scene
        tasks, queries = trace.tasks, trace.queries
        self.zero = float(queries.dispatch[scene.queries].min())
        self.reply = self.at(float(queries.reply[scene.query]))
        until = float(self.at(queries.reply[scene.queries]).max())
        if scene.own is not None:
            until = max(until, self.at(float(tasks.finish[scene.own])))
        until = min(until, WIDEST * self.reply)
        starts = self.at(tasks.start[[*scene.used, *([] if scene.own is None else [scene.own])]])
        began = float(np.min(starts[~np.isnan(starts)], initial=self.reply))
        # Under load a group may wait far longer than it is served: then only the end of its wait is shown.
        self.since = 0.0 if began < 0.5 * until else began - 0.2 * (until - began)
        self.span = 1.05 * (until - self.since)
        self.until = self.since + self.span
        ran = scene.tasks[tasks.instance[scene.tasks] >= 0]
        self.only_decoded = only_decoded(trace)
        models = {int(tasks.instance[row]): set[int]() for row in ran}
        for instance, served in models.items():
            served.update(np.unique(tasks.role[tasks.instance == instance]).tolist())
        # Where instances are shared, or there is but one model, a role does not tell them apart.
        roles = {one: -1 if len(served) > 1 or self.only_decoded else served.pop() for one, served in models.items()}
        self.instances = sorted(roles, key=lambda instance: (roles[instance], instance))
        self.roles = roles
        self.never_ran = len(ran) < len(scene.tasks)
        self.rows = len(self.instances) + self.never_ran
        self.units = units_of_tasks(trace)
        self.letter = 0.0
        """How wide a letter of a task's name is, as a share of the axis."""

    def at(self, time: Time) -> Time:
        """Return a time of the trace in ms after the first dispatch shown."""
        return (time - self.zero) * MS

    def row(self, task: int) -> int:
        """Return the height at which a task is drawn; those that never ran share the last one."""
        instance = int(self.trace.tasks.instance[task])
        return self.instances.index(instance) if instance >= 0 else len(self.instances)

    def draw(self, ax: Axes) -> None:
        """Draw it."""
        self.letter = 0.1 * style.zoom() / style.inches(ax)
        ax.set_xlim(self.since - 0.02 * self.span, self.until)
        ax.set_ylim(self.rows - 0.4, -0.75)
        self._others(ax)
        for task in self.scene.tasks:
            self._task(ax, int(task))
        self._replies(ax)
        self._story(ax)
        kinds = [self.roles[instance] for instance in self.instances]
        names = [
            f"{'instance' if kind < 0 else Role(kind).name.lower()} {instance}"
            for kind, instance in zip(kinds, self.instances, strict=True)
        ]
        ax.set_yticks(range(self.rows), names + ["cancelled in queue"] * self.never_ran)
        for kind, tick in zip(kinds, ax.get_yticklabels(), strict=False):
            tick.set_color(style.INK if kind < 0 else INKS[Role(kind)])
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", visible=False)
        ax.spines["left"].set_visible(False)

    def title(self) -> str:
        """Return what is to be seen, as a headline."""
        what = {
            Route.OWN: "a query answered by its own answer",
            Route.RECONSTRUCTION: "a reconstruction overtakes a straggler",
            Route.REPLICA: "a replica overtakes a straggler",
            Route.BACKUP: "a backup overtakes a straggler",
            Route.DEFAULT: "a query answered by default",
        }
        return f"{'Coding groups' if self.trace.k else 'Batches'} in time: {what[self.scene.route]}"

    def told(self) -> str:
        """Return how late the query's answer was, and what it was."""
        latency = float(self.trace.queries.latency[self.scene.query]) * MS
        return f"{latency:.0f} ms after its arrival, {REPLIES[self.scene.route]}"

    def units_shown(self) -> str:
        """Return the numbers of the units shown, each with its letter."""
        units = "coding groups" if self.trace.k else "batches"
        return f"{units} " + ", ".join(f"{unit} ({self._letter(unit)})" for unit in self.scene.units)

    def legend(self) -> list[Artist]:
        """Return what the marks mean, as artists with labels."""
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch

        present = {int(self.trace.tasks.role[row]) for row in self.scene.tasks}
        handles: list[Artist] = [
            Patch(color=COLORS[role], label="coded query" if self.only_decoded else f"{role.name.lower()} model")
            for role in COLORS
            if role in present
        ]
        handles += [
            Patch(facecolor="white", edgecolor=RED, hatch="////", label="too late, not used"),
            Patch(color=OTHERS, label="other queries"),
            Line2D([], [], color=style.SOFT, linewidth=1, linestyle=(0, (1, 1.5)), label="waiting in queue"),
        ]
        if not self.only_decoded:
            own = Line2D([], [], color=style.INK, marker="|", markersize=9, markeredgewidth=1.6, linestyle="")
            own.set_label("own reply")
            handles.append(own)
        for route in sorted({int(route) for route in self.trace.queries.route[self.scene.queries]} - {Route.OWN}):
            star = Line2D([], [], color=RED, marker="*", markersize=10, linestyle="")
            star.set_label(f"reply by {Route(route).name.lower()}")
            handles.append(star)
        return handles

    def _others(self, ax: Axes) -> None:
        """Draw what the instances shown did for everybody else."""
        from matplotlib.patches import PathPatch
        from matplotlib.path import Path

        tasks = self.trace.tasks
        start, finish = self.at(tasks.start), self.at(tasks.finish)
        near = np.isin(tasks.instance, self.instances) & (start < self.until) & (finish > self.since - 0.02 * self.span)
        near[self.scene.tasks] = False
        left, right = start[near], finish[near]
        middle = np.array([self.instances.index(int(instance)) for instance in tasks.instance[near]])
        if len(middle):  # one path for all of them, which keeps files small
            low, high = middle - HEIGHT / 2, middle + HEIGHT / 2
            corners = np.stack([left, low, right, low, right, high, left, high], axis=1).reshape(-1, 4, 2)
            ax.add_patch(PathPatch(Path.make_compound_path_from_polys(corners), facecolor=OTHERS, lw=0, zorder=1))

    def _task(self, ax: Axes, task: int) -> None:
        tasks = self.trace.tasks
        height, color = self.row(task), COLORS[Role(int(tasks.role[task]))]
        mine = int(self.units[task]) == self.scene.unit
        queued, finish = self.at(float(tasks.queued[task])), self.at(float(tasks.finish[task]))
        ran = not np.isnan(tasks.start[task])
        start = self.at(float(tasks.start[task])) if ran else finish
        ax.plot(
            [queued, start],
            [height] * 2,
            color=color,
            lw=1,
            linestyle=(0, (1, 1.5)),
            alpha=1 if mine else 0.5,
            zorder=2,
        )
        if not ran:
            ax.plot(finish, height, marker="x", color=color, markersize=5, zorder=4)
            return
        late = self._late(task)
        ax.barh(
            height,
            finish - start,
            left=start,
            height=HEIGHT,
            facecolor="white" if late else color if mine else style.pale(color),
            edgecolor=RED if late else "white",
            hatch="////" if late else None,
            linewidth=0.8,
            zorder=3,
        )
        begin, end = max(start, self.since), min(finish, self.until)
        text = self._tag(task)
        if end - begin > self.letter * len(text) * self.span:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2} if late else None
            ink = RED if late else "white" if mine else style.INK
            middle = end - (0.55 * self.letter * len(text) + 0.008) * self.span if late else (begin + end) / 2
            ax.text(
                middle,
                height,
                text,
                ha="center",
                va="center",
                size=style.points(7),
                color=ink,
                bbox=box,
                zorder=5,
                clip_on=True,
            )
        elif end > begin:
            ax.text(
                begin,
                height - 0.33,
                text,
                va="bottom",
                size=style.points(6.5),
                color=style.SOFT,
                zorder=5,
                clip_on=True,
            )

    def _late(self, task: int) -> bool:
        """Say whether a deployed model's answer came, if at all, after its queries had another one."""
        tasks, queries = self.trace.tasks, self.trace.queries
        if self.only_decoded:
            reply = queries.reply[self.trace.group == tasks.owner[task]].max()
            return bool(tasks.fate[task] != TaskStatus.DONE or reply < tasks.finish[task])
        if tasks.role[task] != Role.DEPLOYED:
            return False
        if tasks.fate[task] != TaskStatus.DONE:
            return True
        first = int(self.trace.batches.first[tasks.owner[task]])
        last = first + int(self.trace.batches.size[tasks.owner[task]])
        return bool(queries.reply[first:last].max() < tasks.finish[task])

    def _letter(self, unit: int) -> str:
        return chr(ord("A") + self.scene.units.index(unit))

    def _tag(self, task: int) -> str:
        """Return a task's short name: its unit's letter, and what it is in the unit."""
        tasks = self.trace.tasks
        letter = self._letter(int(self.units[task]))
        role, attempt = Role(int(tasks.role[task])), int(tasks.attempt[task])
        if role == Role.PARITY:
            return f"{letter} {'coded' if self.only_decoded else 'parity'}" + (
                f" {int(tasks.row[task]) + 1}" if self.trace.r > 1 else ""
            )
        if role == Role.BACKUP:
            return f"{letter} backup"
        if self.trace.k:
            copy = f" copy {attempt + 1}" if attempt else ""
            return f"{letter}{int(self.trace.batches.slot[tasks.owner[task]]) + 1}{copy}"
        return f"{letter} copy {attempt + 1}"

    def _replies(self, ax: Axes) -> None:
        """Mark every reply on the row of the query's own task."""
        queries = self.trace.queries
        own = own_tasks(self.trace)
        for query in self.scene.queries:
            task = int(own[queries.batch[query]])
            if task < 0:
                continue
            time, height = self.at(float(queries.reply[query])), self.row(task)
            if queries.route[query] == Route.OWN:
                ax.plot([time] * 2, [height - 0.42, height + 0.42], color=style.INK, linewidth=1.6, zorder=5)
            else:
                ax.plot(time, height, marker="*", color=RED, markersize=12, markeredgecolor="white", zorder=7)

    def _story(self, ax: Axes) -> None:
        """Draw the arrows from the answers that were used to the reply, and say how much earlier it was."""
        tasks, scene = self.trace.tasks, self.scene
        if scene.own is None:
            return
        target = (self.reply, self.row(scene.own))
        for task in scene.used if scene.route != Route.OWN else ():
            ax.annotate(
                "",
                target,
                (self.at(float(tasks.finish[task])), self.row(task)),
                arrowprops={
                    "arrowstyle": "-|>,head_width=0.18,head_length=0.35",
                    "color": style.INK,
                    "linewidth": 1.1,
                    "shrinkA": 0,
                    "shrinkB": 5,
                    "connectionstyle": "arc3,rad=0.12",
                },
                zorder=6,
            )
        end = self.at(float(tasks.finish[scene.own]))
        answer = "last coded answer" if self.only_decoded else "own answer"
        if scene.route == Route.OWN:
            text = f"reply {self.reply:.0f} ms"
        elif tasks.fate[scene.own] == TaskStatus.DONE:
            text = f"reply {self.reply:.0f} ms; {answer} {end:.0f} ms"
        else:
            text = f"reply {self.reply:.0f} ms; {answer} never came"
        right = self.reply < self.since + 0.6 * self.span
        ax.annotate(
            text,
            target,
            (9 if right else -9, 0),
            textcoords="offset points",
            ha="left" if right else "right",
            va="center",
            size=style.points(8),
            color=RED,
            weight="bold",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.95},
            zorder=7,
        )
