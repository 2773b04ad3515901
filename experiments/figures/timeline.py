"""A few coding groups in time: who ran what when, and which answer the client got."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
from pydantic import Field

from experiments.analysis.quantiles import MS
from experiments.figures import style
from experiments.figures.base import Figure, FigureData
from experiments.figures.scene import Scene, choose, only_decoded, own_tasks, units_of_tasks
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
HEIGHT = 0.62
WIDEST = 12.0
"""The window ends at the latest this many times as late as the reply that it is about."""


class Timeline(Figure):
    """Bars of a few coding groups' tasks on their instances, around a reconstruction that was used."""

    kind: Literal["timeline"] = "timeline"
    policy: str | None = None
    """The policy to look at; the first with reconstructions, else with replicas, where it is left out."""
    groups: int = Field(default=3, ge=1, le=8)
    """Coding groups shown; batches where the policy has no coding groups."""

    def reason(self, material: FigureData) -> str | None:
        """Return why the figure cannot be drawn, or None."""
        if material.trace is None:
            return "the traces were not kept"
        outcome = self._outcome(material)
        if outcome is None:
            return f"no client of {self.policy or 'any policy'} was answered by a reconstruction or a replica"
        trace = material.trace(outcome)
        if trace is None or choose(trace, self.groups) is None:
            return "no trace with a reconstruction or a replica was kept"
        return super().reason(material)

    def _outcome(self, material: FigureData) -> Outcome | None:
        for route in ("reconstruction", "replica", "backup"):
            for outcome in material.outcomes:
                if self.policy in (None, outcome.policy) and outcome.routes[route] > 0:
                    return outcome
        return None

    def _draw(self, material: FigureData) -> matplotlib.figure.Figure:
        outcome = self._outcome(material)
        trace = material.trace(outcome) if material.trace and outcome else None
        scene = choose(trace, self.groups) if trace else None
        assert outcome is not None and trace is not None and scene is not None
        return _Drawing(trace, scene, outcome).draw()


class _Drawing:
    """One timeline while it is being drawn; times are milliseconds after the first dispatch shown."""

    def __init__(self, trace: Trace, scene: Scene, outcome: Outcome) -> None:
        self.trace, self.scene, self.outcome = trace, scene, outcome
        tasks, queries = trace.tasks, trace.queries
        self.zero = float(queries.dispatch[scene.queries].min())
        self.reply = self.at(float(queries.reply[scene.query]))
        until = float(self.at(queries.reply[scene.queries]).max())
        if scene.own is not None:
            until = max(until, self.at(float(tasks.finish[scene.own])))
        until = min(until, WIDEST * self.reply)
        began = float(np.nanmin(self.at(tasks.start[[*scene.used, *([] if scene.own is None else [scene.own])]])))
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
        self.units = units_of_tasks(trace)

    def at(self, time: Time) -> Time:
        """Return a time of the trace in ms after the first dispatch shown."""
        return (time - self.zero) * MS

    def row(self, task: int) -> int:
        """Return the height at which a task is drawn; those that never ran share the last one."""
        instance = int(self.trace.tasks.instance[task])
        return self.instances.index(instance) if instance >= 0 else len(self.instances)

    def draw(self) -> matplotlib.figure.Figure:
        """Return the figure."""
        rows = len(self.instances) + self.never_ran
        figure, (ax,) = style.sheet(1, 1, (8.2, 0.9 + 0.38 * rows), self._title(), self._subtitle(), self._legend())
        ax.set_xlim(self.since - 0.02 * self.span, self.until)
        ax.set_ylim(rows - 0.4, -0.75)
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
        ax.set_yticks(range(rows), names + ["cancelled in queue"] * self.never_ran)
        for kind, tick in zip(kinds, ax.get_yticklabels(), strict=False):
            tick.set_color(style.INK if kind < 0 else INKS[Role(kind)])
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", visible=False)
        ax.spines["left"].set_visible(False)
        ax.set_xlabel("time since the first dispatch shown (ms)")
        return figure

    def _title(self) -> str:
        what = {
            Route.RECONSTRUCTION: "Coding groups in time: a reconstruction overtakes a straggler",
            Route.REPLICA: "Batches in time: a replica overtakes a straggler",
        }
        return what.get(self.scene.route, "Batches in time: a backup overtakes a straggler")

    def _subtitle(self) -> str:
        where = ", ".join(style.pair(key, at) for key, at in self.outcome.point.items())
        units = "coding groups" if self.trace.k else "batches"
        shown = ", ".join(f"{unit} ({self._letter(unit)})" for unit in self.scene.units)
        text = f"{style.label(self.outcome.policy)}, trial {self.outcome.trial}; {units} {shown}; one row per instance"
        return text + (f"; {where}" if where else "")

    def _legend(self) -> list[Artist]:
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
        handles += [
            Line2D([], [], color=RED, marker="*", markersize=10, linestyle="", label=self._other_way()),
        ]
        return handles

    def _other_way(self) -> str:
        return f"reply by {self.scene.route.name.lower()}"

    def _others(self, ax: Axes) -> None:
        """Draw what the instances shown did for everybody else."""
        tasks = self.trace.tasks
        start, finish = self.at(tasks.start), self.at(tasks.finish)
        near = np.isin(tasks.instance, self.instances) & (start < self.until) & (finish > self.since - 0.02 * self.span)
        near[self.scene.tasks] = False
        for task in np.flatnonzero(near):
            ax.barh(
                self.row(int(task)), finish[task] - start[task], left=start[task], height=HEIGHT, color=OTHERS, zorder=1
            )

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
        if end - begin > 0.013 * len(text) * self.span:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2} if late else None
            ink = RED if late else "white" if mine else style.INK
            middle = end - (0.007 * len(text) + 0.008) * self.span if late else (begin + end) / 2
            ax.text(middle, height, text, ha="center", va="center", size=7, color=ink, bbox=box, zorder=5, clip_on=True)
        elif end > begin:
            ax.text(begin, height - 0.33, text, va="bottom", size=6.5, color=style.SOFT, zorder=5, clip_on=True)

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
        for task in scene.used:
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
        if tasks.fate[scene.own] == TaskStatus.DONE:
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
            size=8,
            color=RED,
            weight="bold",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.95},
            zorder=7,
        )
