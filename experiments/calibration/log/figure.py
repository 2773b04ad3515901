"""How good the fit is, as a figure: tails, dependence and hosts, observed and simulated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.calibration.log.comparison import Comparison
from experiments.figures import style
from sim.files import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOG, MODEL = style.INK, style.PALETTE[2]


def draw(comparison: Comparison, name: str) -> Figure:
    """Return the figure of a fit to the log of this name."""
    from matplotlib.lines import Line2D

    observed, simulated = comparison.observed, comparison.simulated
    with style.applied():
        legend = [
            Line2D([], [], color=LOG, label="observed"),
            Line2D([], [], color=MODEL, linestyle=(0, (3, 2)), label="simulated"),
        ]
        latencies = observed.latency is not None and simulated.latency is not None
        small = f"{len(observed.seconds):,} answers, {len(simulated.seconds):,} simulated queries without redundancy"
        rows, columns = (2, 2) if latencies else (1, 3)
        figure, axes = style.sheet(rows, columns, (3.6, 2.9), f"{name} and the fitted cluster", small, legend)
        tails, last = axes[0], axes[-1]
        _tail(tails, observed.seconds, simulated.seconds, "service time (ms)")
        if observed.latency is not None and simulated.latency is not None:
            _tail(axes[1], observed.latency, simulated.latency, "latency from arrival (ms)")
        lags = np.arange(1, len(observed.correlation) + 1)
        middle = axes[-2]
        middle.plot(lags, observed.correlation, color=LOG, marker="o")
        middle.plot(
            lags, simulated.correlation, color=MODEL, linestyle=(0, (3, 2)), marker="o", markerfacecolor="white"
        )
        middle.axhline(0, color=style.FAINT, linewidth=0.8)
        middle.set_xlabel("services later, on one host")
        middle.set_ylabel("rank correlation")
        _hosts(last, observed.means, simulated.means)
        return figure


def save(figure: Figure, file: Path) -> None:
    """Write the figure; the file's ending says in which format."""
    style.save(figure, file.parent, file.stem, (file.suffix.removeprefix("."),))


def _tail(axes: Axes, observed: Floats, simulated: Floats, label: str) -> None:
    beyond = np.geomspace(1, max(10 / len(observed), 1e-6), 200)
    axes.plot(np.quantile(observed, 1 - beyond) * 1e3, beyond, color=LOG)
    axes.plot(np.quantile(simulated, 1 - beyond) * 1e3, beyond, color=MODEL, linestyle=(0, (3, 2)))
    axes.set_yscale("log")
    style.milliseconds(axes, "x", log=True)
    axes.set_xlabel(label)
    axes.set_ylabel("share slower")


def _hosts(axes: Axes, observed: Floats, simulated: Floats) -> None:
    """Draw each host's mean service time, in the order of the observed ones."""
    order = np.argsort(observed)
    places = np.arange(len(order))
    axes.plot(places, observed[order] * 1e3, color=LOG, linestyle="", marker="o")
    axes.plot(
        places, simulated[order] * 1e3, color=MODEL, linestyle="", marker="o", markerfacecolor="none", markersize=7
    )
    axes.set_ylim(0, float(np.nanmax([observed, simulated])) * 1.15e3)
    axes.set_xticks([])
    axes.set_xlabel("hosts, from the fastest")
    axes.set_ylabel("mean service time (ms)")
