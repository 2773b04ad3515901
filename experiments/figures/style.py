"""The one style of all figures: sizes, colours, markers, headlines, and files that are the same every time."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sim.atomic import replacing
from sim.errors import ParmError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from experiments.analysis.summary import Row

LineStyle = Literal["-"] | tuple[float, tuple[float, ...]]
DPI = 200
INK, SOFT, FAINT, GRID = "#22262b", "#6a7078", "#b4b9bf", "#e6e8ea"
PALETTE = ("#5b6168", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c5a2b")
"""Grey for the first policy, with which the others are compared, then Okabe and Ito's colour-blind safe colours."""
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p", "*")
METRICS = {"mean": "mean", "p50": "median", "p99": "p99", "p999": "p99.9", "gap": "p99.9 - median"} | {
    "goodput": "goodput",
    "goodput_per_instance": "goodput per instance",
    "goodput_per_price": "goodput per price",
}
AXES = {
    "workload.arrivals.rate": "arrival rate (queries/s)",
    "workload.queries": "queries per trial",
    "policies.coded.k": "coding group size k",
    "stragglers.shuffles.concurrent": "concurrent shuffles",
    "stragglers.sticky.stickiness": "stickiness",
    "corruption.0.instances": "instances that answer wrongly",
    "corruption.0": "wrong answers",
    "cluster.batching.size": "batch size",
    "cluster.queue": "queue",
    "cluster.instances": "deployed instances",
    "cluster.extra": "extra instances",
}
LEGEND_INCHES = 0.23
_COMMENT = re.compile(r"(^|\s)#.*")
FONT_SIZE = 9.0
"""Points of a figure's text where nothing else is said; all other sizes are given for it and scaled."""
NARROWEST = 1.6
"""Inches that a panel needs at that font size."""

RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
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
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "text.color": INK,
    "lines.linewidth": 1.7,
    "lines.markersize": 5,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.dpi": DPI,
    "pdf.fonttype": 42,
    "svg.hashsalt": "parm",
}
SIZES = {
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "figure.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8.5,
}


@dataclass(frozen=True)
class Page:
    """What a user asks of a figure's paper and letters."""

    width: float | None = None
    """Inches; None: as wide as the panels like to be."""
    height: float | None = None
    """Inches; None: as high as the panels like to be at that width."""
    title: bool = True
    """Whether the headline and the small print are drawn."""
    font: str | None = None
    font_size: float | None = None
    """Points of axis labels; other text keeps its proportion to it."""
    sheet: Path | None = None
    """A matplotlib style sheet over the house's style."""


@dataclass(frozen=True)
class Look:
    """How a policy is drawn in every figure of a run."""

    color: str
    marker: str


@contextmanager
def applied(page: Page | None = None) -> Iterator[None]:
    """Use the style inside the block and nowhere else. Raises ParmError where the page's style sheet is none."""
    import matplotlib

    page = page or Page()
    given: dict[str, Any] = {} if page.sheet is None else read_sheet(page.sheet)
    points = float(page.font_size or given.get("font.size", FONT_SIZE))
    scaled = {name: size * points / FONT_SIZE for name, size in SIZES.items()}
    if page.font is not None:
        _installed(page.font)
    chosen: dict[str, Any] = {"font.size": points} | ({} if page.font is None else {"font.family": [page.font]})
    together: Any = {**RC, **scaled, **given, **chosen}
    with matplotlib.rc_context(together):
        yield


def _installed(font: str) -> None:
    from matplotlib import font_manager

    try:
        font_manager.findfont(font, fallback_to_default=False)
    except ValueError:
        raise ParmError(f"the font family '{font}' is not installed") from None


def read_sheet(path: Path) -> dict[str, Any]:
    """Return the settings of a matplotlib style sheet; raises ParmError, with the line, where it is none."""
    from matplotlib import RcParams, rcParamsDefault

    found: dict[str, Any] = RcParams()  # type: ignore[assignment]
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ParmError(f"{path} cannot be read as a matplotlib style sheet: {error}") from error
    for number, line in enumerate(lines, 1):
        text = _COMMENT.sub("", line).strip()
        if not text:
            continue
        name, colon, setting = (part.strip() for part in text.partition(":"))
        if not colon or name not in rcParamsDefault:
            raise ParmError(f"{path}:{number}: '{name}' is not a setting of a matplotlib style sheet")
        try:
            found[name] = setting.strip("\"'")
        except ValueError as error:
            raise ParmError(f"{path}:{number}: {name}: {' '.join(str(error).split())}") from error
    return dict(found)


def points(size: float) -> float:
    """Return the font size that is `size` where labels have the usual one; to be called inside `applied`."""
    return size * zoom()


def zoom() -> float:
    """Return how much larger than usual the text is; to be called inside `applied`."""
    import matplotlib

    return float(matplotlib.rcParams["font.size"]) / FONT_SIZE


def looks(policies: Iterable[str], palette: Sequence[str] = PALETTE) -> dict[str, Look]:
    """Give every policy its colour and marker, by its place in the list; more than there are colours come round."""
    return {
        policy: Look(palette[index % len(palette)], MARKERS[index % len(MARKERS)])
        for index, policy in enumerate(policies)
    }


def palette(page: Page) -> Sequence[str]:
    """Return the house's colours, or those of the page's style sheet where it has some."""
    given: dict[str, Any] = {} if page.sheet is None else read_sheet(page.sheet)
    cycle = given.get("axes.prop_cycle")
    return PALETTE if cycle is None else cycle.by_key().get("color", PALETTE)


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
    page: Page | None = None,
    **subplots: Any,
) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels of `size` inches each below a headline, a line of small print and a legend.

    `legend` takes artists with labels, laid out in as many lines as they need. Where `page` says how wide or high the
    figure is, the panels share that. The figure's label is its caption: headline and small print.

    Raises ParmError where the page is too low.
    """
    from matplotlib.figure import Figure

    page, scale = page or Page(), zoom()
    width = page.width or columns * size[0]
    room = width - 0.2
    heading = textwrap.wrap(title, max(int(room / (0.094 * scale)), 12)) if page.title else []
    small = textwrap.wrap(subtitle, max(int(room / (0.055 * scale)), 12)) if page.title else []
    lines = _lines(legend, room, scale)
    above = 0.12 if page.title else 0.06
    below_heading = above + (0.05 + 0.19 * len(heading)) * scale * bool(heading)
    below_small = below_heading + (0.06 + 0.15 * len(small)) * scale * bool(small)
    header = below_small + LEGEND_INCHES * scale * len(lines)
    height = page.height or header + rows * size[1] * (
        min(max(width / columns / size[0], 0.75), 1) if page.width else 1
    )
    if height - header < rows * 0.7:
        raise ParmError(
            f"{width:g} x {height:g} inches is too low for its panels, which need {header + 0.7 * rows:.1f} inches"
        )
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.set_label(f"{title}. {subtitle}")
    figure.get_layout_engine().set(rect=(0.005, 0.01, 0.985, 1 - header / height - 0.01))  # type: ignore[union-attr, call-arg]
    left = 0.12 / width
    figure.text(left, 1 - above / height, "\n".join(heading), va="top", size=points(11), weight="bold", linespacing=1.1)
    figure.text(left, 1 - below_heading / height, "\n".join(small), va="top", size=points(8), color=SOFT)
    for number, line in enumerate(lines):
        top = 1 - (below_small + LEGEND_INCHES * scale * number) / height
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


def _lines(legend: Sequence[Artist], width: float, scale: float) -> list[list[Artist]]:
    """Break a legend into lines that fit `width` inches, by an estimate of how wide its entries are."""
    lines: list[list[Artist]] = []
    room = 0.0
    for artist in legend:
        needed = (0.56 + 0.064 * len(str(artist.get_label()))) * scale
        if needed > room or not lines:
            lines.append([])
            room = width
        lines[-1].append(artist)
        room -= needed
    return lines


def handle(name: str, look: Look, says: str = "", linestyle: LineStyle = "-") -> Artist:
    """Return a policy's entry in a legend; `says` follows its name."""
    from matplotlib.lines import Line2D

    text = f"{label(name)} {says}".strip()
    return Line2D([], [], color=look.color, marker=look.marker, linestyle=linestyle, label=text)


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
    """Write the ticks of a latency axis as plain numbers, on a log axis, if any is positive, at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    chosen = axes.xaxis if which == "x" else axes.yaxis
    if log and chosen.get_data_interval()[1] > 0:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
        subs = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
        chosen.set_major_locator(LogLocator(10, subs=subs))
        chosen.set_minor_locator(NullLocator())
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


def some(shown: int, every: int, what: str = "sweep points") -> str:
    """Return what to say where only some of the sweep's panels are shown, else nothing."""
    return f"{shown} of {every} {what}" if shown < every else ""


def pair(key: str, swept: object) -> str:
    """Return a swept key with its value, such as `arrival rate 270 queries/s`."""
    name, _, unit = axis(key).partition(" (")
    return f"{name} {value(swept)} {unit.removesuffix(')')}" if unit else f"{name} = {value(swept)}"


def pale(color: str, strength: float = 0.38) -> tuple[float, float, float]:
    """Return a colour mixed with white: `strength` of it is left."""
    from matplotlib.colors import to_rgb

    red, green, blue = (1 - strength * (1 - part) for part in to_rgb(color))
    return red, green, blue


def inches(axes: Axes) -> float:
    """Return about how wide a panel of a sheet will be."""
    figure, place = axes.get_figure(root=True), axes.get_subplotspec()
    assert figure is not None and place is not None
    return float(figure.get_figwidth()) / place.get_gridspec().ncols - 0.4


def slo(axes: Axes, milliseconds: float | None, which: str = "y") -> None:
    """Draw the latency that is promised as a line across the axes, with its name."""
    if milliseconds is None:
        return
    how: dict[str, Any] = {"color": INK, "linewidth": 0.9, "linestyle": (0, (6, 2, 1, 2)), "zorder": 2}
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
    text: dict[str, Any] = {"size": points(7.5), "color": INK, "zorder": 6, "bbox": box}
    name = f"SLO {milliseconds:g} ms"
    if which == "y":
        axes.axhline(milliseconds, **how)
        axes.text(1, milliseconds, name, transform=axes.get_yaxis_transform(), ha="right", va="bottom", **text)
    else:
        axes.axvline(milliseconds, **how)
        where = axes.get_xaxis_transform()
        axes.text(milliseconds, 1, f" {name}", transform=where, ha="left", va="top", rotation=90, **text)


def save(figure: Figure, folder: Path, stem: str, formats: Sequence[str] = ("png", "pdf")) -> list[Path]:
    """Write `stem` into `folder` in each format, without dates, so that the same figure gives the same bytes."""
    import matplotlib

    kept: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
        "svg": {"Date": None, "Creator": None},
    }
    engine = figure.get_layout_engine()
    if engine is not None:  # once, not twice for each format
        engine.execute(figure)
        figure.set_layout_engine("none")
    written = []
    fixed: Any = {name: RC[name] for name in ("savefig.dpi", "pdf.fonttype", "svg.hashsalt")}
    with matplotlib.rc_context(fixed):
        for ending in formats:
            path = folder / f"{stem}.{ending}"
            with replacing(path) as part:
                figure.savefig(part, format=ending, metadata=kept[ending])
            written.append(path)
    return written
