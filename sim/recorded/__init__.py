"""Recorded arrivals and slowness that come with parm, by name: where each file is, and a card that says what it is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.files import read_table, stamp

Floats = NDArray[np.float64]
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Card:
    """What a recorded table is, where it comes from, and what it cannot say."""

    about: str
    source: str
    licence: str
    limits: str


@dataclass(frozen=True)
class Series:
    """One machine's recorded slowness."""

    factors: tuple[float, ...]
    """The machine's time over the median time of machines of its kind, in the order of the record."""
    holds: float
    """Seconds for which each factor holds: the median time between rows; infinity for a machine with one row."""


_LLM = (
    "Azure Public Dataset, AzureLLMInferenceTrace 2023 (Patel et al., Splitwise, ISCA 2024), "
    "https://github.com/Azure/AzurePublicDataset"
)
_VM = "Azure VM Noise Dataset 2024 (Freischuetz, Kanellis, Kroth, Venkataraman, TUNA, EuroSys 2025)"
_GPU = "ByteDance-Seed StragglerAnalysis, https://github.com/ByteDance-Seed/StragglerAnalysis"
_CC, _APACHE = (
    "CC-BY 4.0, https://creativecommons.org/licenses/by/4.0/; converted to CSV",
    "Apache-2.0; converted to CSV",
)
_BENCHMARKS = {
    "matrix-math": "multiplying matrices (the processor)",
    "memcpy": "copying memory (its bandwidth)",
    "redis-get": "GET requests to a Redis server on the machine",
}
_STRATA = (
    "Differences between regions and sizes are divided out. Each value is the mean of half a minute or more of a busy "
    "machine: stalls below a second are not in it. The machines are rented ones with 8 cores, without GPUs."
)

ARRIVALS: dict[str, Card] = {
    f"azure-llm-2023-{service}": Card(
        f"{queries} requests to a large language model for {use}, in {minutes} minutes of one day",
        _LLM,
        _CC,
        limits + " Daily and weekly cycles are longer than the record. Requests have no user, so sessions are not told "
        "apart; how much each asked for (the tokens) is in the table but not used.",
    )
    for service, queries, use, minutes, limits in (
        (
            "code",
            "8,819",
            "code completion",
            57,
            "A silence of 217 s decides the variation of the gaps (its cv is 13).",
        ),
        (
            "conv",
            "19,366",
            "conversation",
            58,
            "It is nearly as regular as a Poisson process from one gap to the next.",
        ),
    )
}
"""Cards of recorded arrivals: columns `seconds`, `context_tokens`, `generated_tokens`."""

SLOWNESS: dict[str, Card] = {
    **{
        f"azure-vm-2024-{name}-long": Card(
            f"12 virtual machines over 483 days: {what}, measured every 1 to 3 hours",
            _VM,
            _CC,
            f"{_STRATA} Nothing is known between two measurements, and there are only 12 machines.",
        )
        for name, what in _BENCHMARKS.items()
    },
    **{
        f"azure-vm-2024-{name}-short": Card(
            f"43,600 virtual machines, each measured once: {what}",
            _VM,
            _CC,
            f"{_STRATA} How long a machine stays as slow as it was measured is not known: here for a whole trial.",
        )
        for name, what in _BENCHMARKS.items()
    },
    **{
        f"bytedance-gpu-2025-{job}": Card(
            f"{workers} GPUs of a training job: {passes} forward passes of each in {steps} steps; {what}",
            _GPU,
            _APACHE,
            "Training, not serving: passes differ by the lengths of their sequences as well as by machine. Steps are "
            "samples of a longer job and are joined end to end here. One job on one cluster, so the share of slow GPUs "
            "is one draw.",
        )
        for job, workers, passes, steps, what in (
            ("ar", 16, "1,408", 44, "worker 0.0 takes 2.5 times as long as the others, always"),
            ("se", 64, "344", 43, "a long sequence now and then takes twice as long, on any of them"),
        )
    },
}
"""Cards of recorded slowness: a column `slowdown`, and columns that say of which machine and when."""

CARDS = dict(sorted({**ARRIVALS, **SLOWNESS}.items()))


def path(name: str) -> Path:
    """Return the file of a recorded table."""
    return FOLDER / f"{name}.csv.gz"


def known(name: object, names: Iterable[str]) -> str:
    """Return the name if it is one of `names`; else raise ValueError with the nearest of them."""
    names = list(names)
    if name in names:
        return str(name)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    raise ValueError(f"there is no such record as '{name}'{hint}; there are {', '.join(names)}")


def arrivals(name: str) -> Floats:
    """Return the recorded arrival times in seconds from the first one on, shape (queries,); they never decrease."""
    return _arrivals(path(name), stamp(path(name)))


def slowness(name: str) -> tuple[Series, ...]:
    """Return the recorded machines of a table, one series each."""
    return _slowness(path(name), stamp(path(name)))


@lru_cache(maxsize=4)
def _arrivals(file: Path, _stamp: tuple[int, int]) -> Floats:
    times = read_table(file, ["seconds"]).numbers("seconds")
    times.flags.writeable = False
    return times


@lru_cache(maxsize=4)
def _slowness(file: Path, _stamp: tuple[int, int]) -> tuple[Series, ...]:
    table = read_table(file, ["seconds", "slowdown"], ["sku", "region", "vm", "worker", "step"])
    columns = [table.columns[name] for name in ("sku", "region", "vm", "worker") if name in table.columns]
    steps = table.numbers("step") if "step" in table.columns else np.zeros(len(table))
    seconds, factors = table.numbers("seconds"), table.numbers("slowdown")
    rows: dict[tuple[str, ...], list[tuple[float, float, float]]] = {}
    for machine, *row in zip(zip(*columns, strict=True), steps, seconds, factors, strict=True):
        rows.setdefault(machine, []).append((float(row[0]), float(row[1]), float(row[2])))
    return tuple(_series(sorted(of_one)) for of_one in rows.values())


def _series(rows: list[tuple[float, float, float]]) -> Series:
    """Join the (step, seconds, factor) of a machine, whose clock begins anew at each step."""
    gaps = [later[1] - row[1] for row, later in pairwise(rows) if later[0] == row[0]]
    return Series(tuple(factor for _, _, factor in rows), float(np.median(gaps)) if gaps else np.inf)
