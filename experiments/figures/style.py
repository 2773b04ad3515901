"""The one style of all figures: sizes, colours, markers, headlines, and files that are the same every time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Transform

    from experiments.analysis.summary import Row

DPI = 200
INK, SOFT, FAINT, GRID = "#22262b", "#6a7078", "#b4b9bf", "#e6e8ea"
PALETTE = ("#5b6168", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c5a2b")
"""Grey for the first policy, with which the others are compared, then Okabe and Ito's colour-blind safe colours."""
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p", "*")
METRICS = {"mean": "mean", "p50": "median", "p99": "p99", "p999": "p99.9", "gap": "p99.9 - median"}
AXES = {
    "workload.arrivals.rate": "arrival rate (queries/s)",
    "workload.queries": "queries per trial",
    "policies.coded.k": "coding group size k",
    "stragglers.shuffles.concurrent": "concurrent shuffles",
    "stragglers.sticky.stickiness": "stickiness",
    "cluster.batching.size": "batch size",
    "cluster.queue": "queue",
    "cluster.instances": "deployed instances",
    "cluster.extra": "extra instances",
}
HEADER_INCHES = 0.56
LEGEND_INCHES = 0.23

RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titlecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "text.color": INK,
    "lines.linewidth": 1.7,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
    "savefig.dpi": DPI,
    "pdf.fonttype": 42,
    "svg.hashsalt": "parm",
}


@dataclass(frozen=True)
class Look:
    """How a policy is drawn in every figure of a run."""

    color: str
    marker: str


@contextmanager
def applied() -> Iterator[None]:
    """Use the style inside the block and nowhere else."""
    import matplotlib

    with matplotlib.rc_context(RC):  # type: ignore[arg-type]
        yield


def looks(policies: Iterable[str]) -> dict[str, Look]:
    """Give every policy its colour and marker, by its place in the list; more than there are colours come round."""
    return {
        policy: Look(PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)])
        for index, policy in enumerate(policies)
    }


def label(policy: str) -> str:
    """Return a policy's name as it is written in figures."""
    return policy.replace("_", " ")


def axis(key: str) -> str:
    """Return what a swept key is called on an axis."""
    return AXES.get(key, key)


def value(swept: object) -> str:
    """Return a swept value as it is written in figures."""
    return f"{swept:g}" if isinstance(swept, float) else str(swept)


def sheet(
    rows: int,
    columns: int,
    size: tuple[float, float],
    title: str,
    subtitle: str,
    legend: Sequence[Artist] = (),
    **subplots: Any,
) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels of `size` inches each below a headline, a line of small print and a legend.

    `legend` takes artists with labels, laid out in as many lines as they need.
    """
    from matplotlib.figure import Figure

    width = columns * size[0]
    lines = _lines(legend, width)
    header = HEADER_INCHES + LEGEND_INCHES * len(lines)
    height = rows * size[1] + header
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(rect=(0.005, 0.01, 0.985, 1 - header / height - 0.01))  # type: ignore[union-attr, call-arg]
    left = 0.12 / width
    figure.text(left, 1 - 0.12 / height, title, va="top", size=11, weight="bold")
    figure.text(left, 1 - 0.36 / height, subtitle, va="top", size=8, color=SOFT)
    for number, line in enumerate(lines):
        top = 1 - (0.57 + LEGEND_INCHES * number) / height
        figure.legend(
            handles=line,
            ncols=len(line),
            loc="upper left",
            bbox_to_anchor=(left, top),
            borderaxespad=0,
            borderpad=0,
            columnspacing=1.6,
            handletextpad=0.6,
        )
    axes = figure.subplots(rows, columns, squeeze=False, **subplots)
    return figure, list(axes.flat)


def _lines(legend: Sequence[Artist], width: float) -> list[list[Artist]]:
    """Break a legend into lines that fit `width` inches, by an estimate of how wide its entries are."""
    lines: list[list[Artist]] = []
    room = 0.0
    for artist in legend:
        needed = 0.56 + 0.064 * len(str(artist.get_label()))
        if needed > room or not lines:
            lines.append([])
            room = width - 0.2
        lines[-1].append(artist)
        room -= needed
    return lines


def handle(name: str, look: Look) -> Artist:
    """Return a policy's entry in a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=look.color, marker=look.marker, label=label(name))


def hollow(source: str) -> Artist:
    """Return the entry in a legend of numbers that others measured."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=SOFT, marker="o", linestyle="", markersize=7, markerfacecolor="none", label=source)


def thin() -> dict[str, Any]:
    """Return how a line of theory is drawn: thin, dashed and in ink, over what was simulated."""
    return {"color": INK, "linewidth": 0.9, "linestyle": (0, (3, 2)), "zorder": 6}


def theory() -> Artist:
    """Return the entry of theory in a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label="theory", **thin())


def milliseconds(axes: Axes, which: str = "x", log: bool = False) -> None:
    """Write the ticks of a latency axis as plain numbers, on a log axis at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    chosen = axes.xaxis if which == "x" else axes.yaxis
    if log:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
        subs = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
        chosen.set_major_locator(LogLocator(10, subs=subs))
        chosen.set_minor_formatter(NullFormatter())
    chosen.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))


def wants_log(values: Iterable[float], ratio: float = 30.0) -> bool:
    """Say whether positive values spread so far that only a log axis shows them all."""
    known = [number for number in values if number > 0 and math.isfinite(number)]
    return bool(known) and max(known) / min(known) > ratio


def small_print(rows: Sequence[Row], *extra: str, intervals: bool = True) -> str:
    """Return the line below a headline: how much was measured, what the intervals are, and what is said besides."""
    trials = max(row.trials for row in rows)
    each = [row.queries // row.trials for row in rows]
    queries = f"{min(each):,} queries" if min(each) == max(each) else f"at least {min(each):,} queries"
    measured = f"{trials} trials, {queries} each" if trials > 1 else f"1 trial, {queries}"
    return "; ".join(filter(None, [measured, "95% intervals" if intervals else "", *extra]))


def some(shown: int, every: int) -> str:
    """Return what to say where only some of the sweep's panels are shown, else nothing."""
    return f"{shown} of {every} sweep points" if shown < every else ""


def pair(key: str, swept: object) -> str:
    """Return a swept key with its value, such as `arrival rate 270 queries/s`."""
    name, _, unit = axis(key).partition(" (")
    return f"{name} {value(swept)} {unit.removesuffix(')')}" if unit else f"{name} = {value(swept)}"


def beside(axes: Axes, index: int, count: int) -> Transform:
    """Return data coordinates moved a little sideways, so that the intervals of `count` policies lie side by side."""
    from matplotlib.transforms import ScaledTranslation

    figure = axes.get_figure(root=True)
    assert figure is not None
    points = 2.6 * (index - (count - 1) / 2)
    return axes.transData + ScaledTranslation(points / 72, 0, figure.dpi_scale_trans)


def pale(color: str, strength: float = 0.38) -> tuple[float, float, float]:
    """Return a colour mixed with white: `strength` of it is left."""
    from matplotlib.colors import to_rgb

    red, green, blue = (1 - strength * (1 - part) for part in to_rgb(color))
    return red, green, blue


def save(figure: Figure, folder: Path, stem: str) -> list[Path]:
    """Write `stem`.png and `stem`.pdf into `folder`, without dates, so that the same figure gives the same bytes."""
    kept: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    }
    written = []
    with applied():
        for ending, metadata in kept.items():
            path = folder / f"{stem}.{ending}"
            with replacing(path) as part:
                figure.savefig(part, format=ending, metadata=metadata)
            written.append(path)
    return written
