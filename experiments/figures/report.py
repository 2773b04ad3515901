"""The page: what a run directory holds, as one HTML file that needs no network."""

from __future__ import annotations

import base64
import copy
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from experiments.analysis import claims
from experiments.analysis.quantiles import MS
from experiments.analysis.statistics import Interval
from experiments.analysis.summary import Row

BUSY = "busy_seconds_per_query"
SLOWEST = 3
"""Slowest queries of each policy that the page shows."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A table's cell: what is read, and what is sorted by."""

    text: str
    key: float | str
    margin: str = ""


@dataclass(frozen=True, slots=True)
class SlowQuery:
    """One of the slowest queries."""

    policy: str
    point: str
    trial: int
    query: int
    latency: float
    """Milliseconds."""
    route: str
    picture: str = ""
    """SVG of its timeline, or nothing."""


def page(folder: Path, rows: Sequence[Row], verdicts: Sequence[str], slow: Sequence[SlowQuery]) -> str:
    """Return the page of the run in `folder`, whose tables and figures are written already."""
    import jinja2

    experiment_text = (folder / "experiment.yaml").read_text(encoding="utf-8")
    experiment = yaml.safe_load(experiment_text)
    manifest = _json(folder / "manifest.json")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    columns = _columns(rows)
    template = environment.from_string(
        resources.files("experiments.figures").joinpath("report.html").read_text(encoding="utf-8")
    )
    return template.render(
        name=experiment["name"],
        question=list(_question(experiment)),
        verdicts=verdicts,
        headings=[heading for heading, _, _ in columns],
        meanings=[meaning for _, meaning, _ in columns],
        table=[[cell(row) for _, _, cell in columns] for row in rows],
        notes=_notes(rows),
        figures=list(_figures(folder / "figures")),
        claims=next(iter(claims.read(folder).values())) if (folder / claims.FILE).is_file() else (),
        slow=slow,
        yaml=experiment_text,
        manifest=json.dumps(manifest, indent=1) if manifest else "",
        command=" ".join(manifest.get("command", [])) if manifest else "",
        versions=manifest.get("versions", {}) if manifest else {},
    )


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def _question(experiment: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What was simulated, as pairs of a word and its value; an option that is swept says so in place of its value."""
    sweep = experiment["sweep"] or {}
    experiment = copy.deepcopy(experiment)
    for keys in sweep:
        for key in keys.split(","):
            *path, last = key.strip().split(".")
            part: Any = experiment
            for word in path:
                part = part.get(word) if isinstance(part, dict) else None
            if isinstance(part, dict) and last in part:
                part[last] = "as swept"
    cluster, workload = experiment["cluster"], experiment["workload"]
    yield "machines", f"{cluster['instances']} instances, and {cluster['extra']} as the budget for redundancy"
    if cluster.get("scaler") is not None:
        yield "scaler", _spelt(cluster["scaler"])
    yield (
        "service time",
        _spelt(cluster["service"]) + (" seconds" if isinstance(cluster["service"], int | float) else ""),
    )
    yield "arrivals", _spelt(workload["arrivals"])
    yield "slowness and failures", "; ".join(_spelt(one) for one in experiment["stragglers"]) or "none"
    if experiment.get("corruption"):
        yield "wrong answers", "; ".join(_spelt(one) for one in experiment["corruption"])
    yield "swept", "; ".join(f"{key}: {', '.join(map(str, values))}" for key, values in sweep.items()) or "nothing"
    yield "measured", f"{experiment['trials']} trials of {workload['queries']:,} queries, seed {experiment['seed']}"
    if experiment["model"]:
        yield "model", f"{_spelt(experiment['model']['network'])} on {_spelt(experiment['model']['dataset'])}"


def _spelt(kind: Any) -> str:
    """Return a kind with its options in words, those that are not given left out."""
    if not isinstance(kind, dict):
        return str(kind)
    options = {key: value for key, value in kind.items() if key != "kind" and value not in (None, "", [], {})}
    written = ", ".join(f"{key.replace('_', ' ')} {_spelt(value)}" for key, value in options.items())
    name = str(kind.get("kind", "")).replace("_", " ")
    return f"{name} ({written})" if name and written else name or written


Column = tuple[str, str, Callable[[Row], Cell]]
"""A heading, what it means, and the cell of a row."""


def _shortest(key: str, keys: Sequence[str]) -> str:
    """Return the fewest last parts of a swept key that no other one ends with."""
    parts = key.split(".")
    endings = (".".join(parts[-count:]) for count in range(1, len(parts)))
    return next((end for end in endings if sum(f".{one}".endswith(f".{end}") for one in keys) == 1), key)


def _columns(rows: Sequence[Row]) -> list[Column]:
    def measured(metric: str, heading: str, meaning: str, factor: float = 1.0) -> Column:
        return heading, meaning, lambda row: _interval(row.metrics[metric], factor)

    def swept(key: str) -> Column:
        return _shortest(key, [*rows[0].point]), f"swept: {key}", lambda row: _plain(row.point[key])

    def standing(row: Row) -> Cell:
        return Cell(row.standing, row.standing)

    marked = any(row.standing for row in rows)
    columns: list[Column] = [
        *(swept(key) for key in rows[0].point),
        ("policy", "redundancy policy", lambda row: Cell(row.policy, row.policy)),
        measured("p50", "p50 ms", "median latency"),
        measured("p99", "p99 ms", "the latency that 1% of the queries exceed"),
        measured("p999", "p99.9 ms", "the latency that 0.1% of the queries exceed"),
        *([("standing", "what is certain of the policy among all of its sweep point", standing)] if marked else []),
        measured("unavailable", "unavail. %", "replies that are not the deployed model's own answer", 100),
    ]
    if any(row.metrics["accuracy_overall"] for row in rows):
        columns += [
            measured("accuracy_available", "A_a %", "accuracy of the deployed model's own answers", 100),
            measured("accuracy_degraded", "A_d %", "accuracy of the other replies (degraded mode)", 100),
            measured("accuracy_overall", "A_o %", "accuracy of all replies", 100),
        ]
    return [
        *columns,
        ("instances", "instances that the policy uses", lambda row: _plain(row.cost["instances"])),
        ("busy ms/query", "time that instances work for a query", lambda row: _plain(row.cost[BUSY] * MS)),
    ]


def _plain(value: Any) -> Cell:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Cell(f"{value:.4g}", float(value))
    return Cell(str(value), str(value))


def _interval(interval: Interval | None, factor: float) -> Cell:
    if interval is None or math.isnan(interval.value):
        return Cell("–", math.inf)
    shown = interval.scaled(factor)
    decimals = 2
    if shown.margin > 0:
        decimals = min(max(1 - math.floor(math.log10(shown.margin)), 0), 2)
    margin = "" if math.isnan(shown.margin) else f"±{shown.margin:.{decimals}f}"
    return Cell(f"{shown.value:.{decimals}f}", shown.value, margin)


def _notes(rows: Sequence[Row]) -> list[str]:
    """Return each note once, with the policies that it is about where these are not all."""
    who: dict[str, list[str]] = {}
    for row in rows:
        for note in row.notes:
            who.setdefault(note, []).append(row.policy)
    everyone = {row.policy for row in rows}
    return [
        note if set(names) == everyone else f"{note} ({', '.join(dict.fromkeys(names))})" for note, names in who.items()
    ]


def _figures(folder: Path) -> Iterator[tuple[str, str]]:
    """Return the name of each figure with its picture as a data URL."""
    for file in sorted(folder.glob("*.png")):
        yield file.stem.replace("_", " "), "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
