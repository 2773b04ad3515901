"""The lines of `accuracy.csv`: measurements of one code with one deployed model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

from rich.table import Table

from experiments.analysis import csv_text

HEADING = ("model", "code", "recipe", "seed", "A_a %", "A_d % (95%)", "default %")


@dataclass(frozen=True)
class Line:
    """One code with one deployed model; `experiments.analysis.columns` documents the columns of the CSV."""

    dataset: str
    network: str
    width: str
    code: str
    k: int
    r: int
    recipe: str
    seed: int
    epochs: int | str
    device: str
    available: float
    degraded: float
    degraded_lo: float
    degraded_hi: float
    default: float
    train_seconds: float
    train_flop: float
    losses: int
    agreement: float
    encode_us: float
    decode_us: float
    model: str
    coding: str
    note: str


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
