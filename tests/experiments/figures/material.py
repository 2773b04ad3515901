"""Material for figures without a simulation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.text

from experiments.analysis import summary
from experiments.figures.base import FigureData
from tests.outcomes import outcome

SWEEP: list[dict[str, Any]] = [{"workload.arrivals.rate": rate} for rate in (100, 200, 300)]


def material(points: Sequence[dict[str, Any]] = ({},), trials: int = 3, model: bool = True, **more: Any) -> FigureData:
    """Return what figures are drawn from: two policies, the second earlier, less accurate and dearer."""
    policies = (("equal_resources", 0.02, 0.0, 12), ("coded_k2", 0.01, 0.1, 18))
    cells = [
        outcome(policy, trial, scale, degraded, model, instances, point)
        for point in points
        for policy, scale, degraded, instances in policies
        for trial in range(trials)
    ]
    return FigureData(summary.rows(cells), cells, **more)


def texts(figure: Any) -> str:
    """Return all that is written in a figure."""
    return " | ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))
