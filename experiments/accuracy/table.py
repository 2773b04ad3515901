"""The lines of `accuracy.csv`: what was measured of one code with one deployed model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

from rich.table import Table

from experiments.analysis import csv_text

HEADING = ("model", "code", "recipe", "seed", "A_a %", "A_d % (95%)", "default %")


@dataclass(frozen=True)
class Line:
    """One code with one deployed model. Accuracies are fractions; for boxes they are mean intersections over unions."""

    dataset: str
    network: str
    width: str
    """The network's `width`, where it has one."""
    code: str
    k: int
    r: int
    recipe: str
    seed: int
    epochs: int | str
    """Of what the code needs trained; empty where it needs nothing."""
    device: str
    """What the code's parts were trained on."""
    available: float
    """A_a, of the deployed model on the test set."""
    degraded: float
    """A_d: every way to lose `losses` answers of a group, five random groupings of the test set."""
    degraded_lo: float
    degraded_hi: float
    """Its 95% interval: Wilson's for as many independent predictions as there are test images."""
    default: float
    """Of the one answer that is most often right."""
    train_seconds: float
    """Spent on training what the code needs."""
    losses: int
    agreement: float
    """How often a reconstruction is what the deployed model itself answers."""
    encode_us: float
    decode_us: float
    """Microseconds for one group, the median on the device of the study."""
    model: str
    """What the study calls the deployed model."""
    coding: str
    """What it calls the code at its group size."""
    note: str
    """The data set's caveat."""


def as_csv(lines: Sequence[Line]) -> str:
    """Return the lines as CSV with a header."""
    rows = ([f"{value:.6g}" if isinstance(value, float) else value for value in astuple(line)] for line in lines)
    return csv_text.as_csv([field.name for field in fields(Line)], rows)


def as_table(lines: Sequence[Line]) -> Table:
    """Return the lines as a table for the terminal."""
    table = Table(*HEADING, box=None, header_style="bold", pad_edge=False)
    for line in lines:
        interval = f"{100 * line.degraded:.1f} ({100 * line.degraded_lo:.1f} to {100 * line.degraded_hi:.1f})"
        table.add_row(
            line.model,
            line.coding,
            line.recipe,
            str(line.seed),
            f"{100 * line.available:.1f}",
            interval,
            f"{100 * line.default:.1f}",
        )
    return table
