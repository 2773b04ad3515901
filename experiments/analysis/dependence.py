"""Tests whether logged latencies are independent, as `{kind: empirical}` assumes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from sim.distributions.files import Empirical
from sim.files import Floats, read_table
from sim.kinds import Options

BOUND = 3.29
"""Standard errors of a serial correlation that chance stays within in 99.9% of independent logs."""
LEAST = 0.1
"""Least correlation within hosts that gives a warning."""
STANDARD_ERRORS = 4.0
FEW = 30
"""With this many rows or fewer there is no test."""
_TIME = re.compile(r"(time|timestamp|date|datetime|ts|when|start|started|arrival|arrived|sent|at)(_?(at|s|ms|us|ns))?")
_HOST = re.compile(r"(host|hostname|instance|machine|node|server|worker|gpu|device|pod|replica|backend)(_?(id|name))?")


def time_column(names: Iterable[str], mark: str = "") -> str | None:
    """Return the first column whose name is one of times, or None; one that begins with `mark` comes first."""
    found = [name for name in names if _TIME.fullmatch(name.casefold())]
    return next((name for name in found if mark and name.casefold().startswith(mark)), found[0] if found else None)


def host_column(names: Iterable[str]) -> str | None:
    """Return the first column whose name is one of hosts, or None."""
    return next((name for name in names if _HOST.fullmatch(name.casefold())), None)


def autocorrelation(values: Floats) -> float:
    """Return the rank correlation of each value with the next, in -1 .. 1 (Spearman's at lag 1); 0 if all are equal."""
    ranks = _ranks(values)
    first, second = ranks[:-1] - ranks[:-1].mean(), ranks[1:] - ranks[1:].mean()
    size = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / size if size > 0 else 0.0


def intraclass(values: Floats, groups: NDArray[np.int64]) -> float:
    """Return the intraclass correlation of the ranks of `values` within groups 0, 1, ...; 0 for one group.

    One-way random effects, ICC(1), with groups of unequal sizes (Shrout and Fleiss, Psychological Bulletin 1979;
    Donner, International Statistical Review 1986): (MSB - MSW) / (MSB + (n0 - 1) MSW).
    """
    ranks = _ranks(values)
    sizes = np.bincount(groups).astype(np.float64)
    count, total = len(sizes), float(sizes.sum())
    if count < 2 or total <= count:
        return 0.0
    means = np.bincount(groups, ranks) / sizes
    between = float(sizes @ (means - ranks.mean()) ** 2) / (count - 1)
    within = float(((ranks - means[groups]) ** 2).sum()) / (total - count)
    size = (total - float(sizes @ sizes) / total) / (count - 1)
    below = between + (size - 1) * within
    return (between - within) / below if below > 0 else 0.0


def warnings(options: Options, place: str) -> list[str]:
    """Return a warning for each recorded distribution in `options` whose log has dependent values."""
    found: list[str] = []
    for name in type(options).model_fields:
        value = getattr(options, name)
        parts = value if isinstance(value, tuple) else (value,)
        for index, part in enumerate(parts):
            below = f"{place}.{name}" + (f".{index}" if isinstance(value, tuple) else "")
            if isinstance(part, Empirical):
                found += [f"{below}: {says}" for says in _of(part)]
            elif isinstance(part, Options):
                found += warnings(part, below)
    return found


def _of(recorded: Empirical) -> list[str]:
    header = read_table(recorded.file, [recorded.column]).header
    others = [name for name in dict.fromkeys(header) if name != recorded.column]
    time, host = time_column(others), host_column(others)
    table = read_table(recorded.file, [recorded.column], [name for name in (time, host) if name is not None])
    if len(table) < FEW:
        return []
    values = table.numbers(recorded.column)
    order, where = np.arange(len(values)), "in the order of the file"
    if time is not None:
        with contextlib.suppress(ValueError):  # not a column of times, despite its name
            order, where = np.argsort(table.moments(time, "s")[1], kind="stable"), f"in the order of '{time}'"
    measured = []
    ordered = values[order]
    steps = np.diff(ordered)
    r = autocorrelation(ordered)
    if r > BOUND / np.sqrt(len(values)) and steps.min() < 0 < steps.max():  # sorted values say nothing of time
        measured.append(f"{where} each correlates {r:.2g} with the next (lag-1 rank correlation)")
    if host is not None:
        groups = np.unique(np.array(table.columns[host]), return_inverse=True)[1]
        r = intraclass(values, groups)
        if r > max(LEAST, STANDARD_ERRORS / np.sqrt(len(values))):
            measured.append(f"values of one '{host}' correlate {r:.2f} (intraclass correlation)")
    if not measured:
        return []
    return [
        f"{recorded.file}: rows are drawn independently, but {' and '.join(measured)}: slowness that lasts is lost, "
        f"and redundancy looks better than it is; 'parm fit {recorded.file.name}' makes a cluster of the log"
    ]


def _ranks(values: Floats) -> Floats:
    """Return the ranks from 0, with ties averaged; shape (n,)."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Floats = (ends - (counts + 1) / 2)[inverse]
    return ranks
