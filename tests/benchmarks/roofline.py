"""The roofline figure: what was reached, under what the device can do (Williams, Waterman, Patterson, CACM 2009)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from experiments.figures import style

if TYPE_CHECKING:
    from tests.benchmarks.inference import Limits, Speed

MARKS = {
    "eager, single": "o",
    "eager, TF32": "p",
    "onnx, single": "s",
    "folded, single": "D",
    "folded, half": "^",
    "cudnn, half": "v",
    "compiled, half": "*",
}
"""Ways to run a network over large batches; their variants, and what runs one image at a time, are not drawn."""


def draw(speeds: Sequence[Speed], peak: Limits, device: str, file: Path) -> None:
    """Write the figure to `file`."""
    names = list(dict.fromkeys(speed.network for speed in speeds))
    with style.applied():
        figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
        intensity = np.logspace(-0.5, 3, 200)
        for rate, label, line in ((peak.single, "single", "-"), (peak.half, "half", "--")):
            axes.plot(intensity, np.minimum(rate, peak.bytes * intensity), color="0.4", linestyle=line)
            axes.text(900, rate * 1.06, f"matrix rate, {label}", ha="right", fontsize=8, color="0.3")
        drawn = [speed for speed in speeds if speed.contender in MARKS]
        for speed in drawn:
            axes.plot(
                speed.intensity,
                speed.gflops,
                MARKS[speed.contender],
                color=f"C{names.index(speed.network)}",
                markerfacecolor="none" if speed.contender.startswith("eager") else None,
            )
        for number, name in enumerate(names):
            axes.plot([], [], "o", color=f"C{number}", label=name)
        for name, mark in MARKS.items():
            if name not in {speed.contender for speed in drawn}:
                continue
            axes.plot([], [], mark, color="0.4", markerfacecolor="none" if "eager" in name else None, label=name)
        axes.text(1, peak.bytes * 1.25, "memory", ha="right", fontsize=8, color="0.3")
        axes.set(xscale="log", yscale="log", xlabel="operations per byte of activations", ylabel="GFLOP/s")
        axes.set_title(f"Inference on {device}", fontsize=10)
        axes.legend(fontsize=8, loc="lower right")
        figure.savefig(file, dpi=style.DPI)
        plt.close(figure)
