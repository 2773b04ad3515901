"""The tails of the latencies, real and simulated, one panel for each policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.analysis.outcome import GRID
from experiments.figures import style
from experiments.figures.panels import grid
from experiments.validation.comparison import CENTRAL, Trial, real_latencies, simulated_latencies

MS = 1e3


def draw(policies: Mapping[str, Sequence[Trial]], queries: int, folder: Path) -> list[Path]:
    """Write `real_and_simulated.png` and `.pdf` into `folder`; `queries` are those of one run."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    with style.applied():
        looks = style.looks(policies)
        rows, columns = grid(len(policies))
        trials = len(next(iter(policies.values())))
        floor = min(max(2 / (trials * queries), 1e-5), 0.1)
        colour = style.INK
        legend = [
            Line2D([], [], color=colour, label="real"),
            Line2D([], [], color=colour, linestyle=(0, (3, 2)), label="simulated"),
            Patch(color=style.pale(colour), label="where the model expects 95%"),
        ]
        subtitle = (
            f"{trials} run{'s' if trials > 1 else ''} of {queries:,} queries each; the same arrivals and slow periods"
        )
        figure, axes = style.sheet(
            rows,
            columns,
            (4.6, 3.2),
            "The same queries, real and simulated",
            subtitle,
            legend,
            sharex=True,
            sharey=True,
        )
        beyond = 1 - GRID
        kept = beyond >= floor * 0.999
        for (policy, measured), ax in zip(policies.items(), axes, strict=False):
            real = np.quantile(real_latencies(measured), GRID[kept]) * MS
            simulated = simulated_latencies(measured)
            days = np.quantile(simulated.reshape(len(simulated), -1), GRID[kept], axis=1).T * MS
            low, high = np.quantile(days, CENTRAL, axis=0)
            color = looks[policy].color
            ax.fill_betweenx(beyond[kept], low, high, color=style.pale(color), linewidth=0, zorder=2)
            ax.plot(real, beyond[kept], color=color, zorder=4)
            ax.plot(days.mean(axis=0), beyond[kept], color=color, linestyle=(0, (3, 2)), zorder=3)
            ax.set_title(style.label(policy))
        axes[0].set_yscale("log")
        axes[0].set_ylim(floor, 1)
        style.milliseconds(axes[0], "x", log=True)
        for index, ax in enumerate(axes):
            ax.set_visible(index < len(policies))
            if index % columns == 0:
                ax.set_ylabel("share of queries slower")
            if index >= len(policies) - columns:
                ax.set_xlabel("latency (ms)")
                ax.tick_params(labelbottom=True)
        return style.save(figure, folder, "real_and_simulated")
