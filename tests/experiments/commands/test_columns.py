"""Every column that parm prints or writes is defined, and every definition has a column."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console
from rich.table import Table as Printed

from experiments.analysis import columns
from experiments.commands import validate
from experiments.commands.catalogue import catalogue
from tests.command import parm
from tests.experiments.accuracy.test_accuracy_study import SMALL
from tests.experiments.commands.test_calibrate import described

EXPERIMENT = """\
name: tiny
trials: 2
model: {network: {kind: mlp, hidden: [16]}, dataset: digits, recipe: {kind: best, epochs: 1}}
workload: {arrivals: {kind: poisson, rate: 60}, queries: 400}
cluster: {instances: 2, extra: 1, service: 0.01, prices: {parity: 0.5}}
corruption: [noise]
policies: [equal_resources, {kind: coded, name: two, k: 2}]
sweep: {workload.arrivals.rate: [60, 90]}
figures: [frontier]
goodput: 50ms
target: {p50: 1s}
reference: [{source: us, policy: two, key: workload.arrivals.rate, values: {60: 12}}]
claims: [{kind: level, says: it is late, policy: two, above: 1}]
reversals: {against: {workload.arrivals.rate: 60}, metric: accuracy_overall}
"""
SWEPT = "workload.arrivals.rate"


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """The headings of each table that is printed."""
    found: list[list[str]] = []
    show = Console.print

    def spy(self: Console, *things: Any, **options: Any) -> None:
        found.extend([str(column.header) for column in thing.columns] for thing in things if isinstance(thing, Printed))
        show(self, *things, **options)

    monkeypatch.setattr(Console, "print", spy)
    yield found


def defined(table: str) -> list[list[str]]:
    """The names of each of a table's columns, with and without the unit, as `plain` has them."""
    (found,) = [one for one in columns.TABLES if one.name == table]
    alone = [column for column in found.columns if column.names != ("service",)]  # it is there with several of them
    return [[plain(name), plain(name + column.unit)] for column in alone for name in column.names]


def plain(heading: str) -> str:
    """Return a heading without the places where it is broken, and what stands in brackets."""
    return re.sub(r"\(95%\)|-\n|\s", "", heading)


def check(table: str, headings: list[str], without: Sequence[str] = ()) -> None:
    names = [known for known in defined(table) if known[0] not in without]
    headings = [part for heading in headings for part in heading.split(",\n")]  # the standing stands below the policy
    assert len(headings) == len(names), (table, headings)
    for heading, known in zip(headings, names, strict=True):
        assert plain(heading) in known, (table, heading)


def header(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return ["KEY" if name == SWEPT else name for name in next(csv.reader(file))]


def test_columns_of_a_run_and_of_what_compares_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: list[list[str]]
) -> None:
    file, out = tmp_path / "experiment.yaml", tmp_path / "out"
    file.write_text(EXPERIMENT)
    words = ["--models", tmp_path / "models", "--workers", 1]
    assert parm("run", file, "--out", out, *words, monkeypatch=monkeypatch) == 0
    check("parm run", printed[0], without=("gap", "kB/query"))  # where there are wrong answers
    check("parm reversals", printed[-2])
    check("parm claims", printed[-1])
    for name in ("summary.csv", "differences.csv", "reference.csv", "frontier.csv", "reversals.csv"):
        check(name, header(out / name))
    for folder in ("queries", "tasks"):
        trace = next((out / folder).glob("*.parquet"))
        check(f"{folder}/*.parquet", ["KEY" if name == SWEPT else name for name in pq.read_schema(trace).names])

    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "summary.json").write_bytes((out / "summary.json").read_bytes())
    printed.clear()
    assert parm("compare", out, copy, monkeypatch=monkeypatch) == 0
    check("parm compare", ["BASE" if name == "out" else name for name in printed[0]])
    plan = ["--slo", "p50=1s", "--trials", 2, "--most", 2, "--keep", tmp_path / "kept", "--set", "sweep={}"]
    plan += ["--set", "claims=[]", "--set", "reference=[]", "--set", "reversals="]
    printed.clear()
    assert parm("plan", file, *plan, *words, monkeypatch=monkeypatch) == 0
    check("parm plan", printed[0])


def test_columns_of_a_study_of_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: list[list[str]]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "small.yaml"
    file.write_text(SMALL.replace("epochs: 3", "epochs: 1").replace("epochs: 2", "epochs: 1"))
    assert parm("accuracy", file, "--models", tmp_path / "models", monkeypatch=monkeypatch) == 0
    check("parm accuracy", printed[0])
    check("accuracy.csv", header(tmp_path / "runs/small/accuracy.csv"))


def test_columns_of_a_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: list[list[str]]) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(described(search=[{"queries": 500, "evaluations": 1}])))
    words = ["calibrate", file, "--out", tmp_path / "tiny.json", "--workers", 1]
    assert parm(*words, monkeypatch=monkeypatch) == 0
    check("parm calibrate", printed[0])


def test_columns_of_a_validation() -> None:
    check("parm validate", [str(column.header) for column in validate._table({"policies": {}}).columns])


def test_all_tables_are_listed_with_a_meaning_for_each_column() -> None:
    text = catalogue("column")
    for table in columns.TABLES:
        assert f"{table.name}: " in text
        for column in table.columns:
            assert f"\n    {column}" in text
            assert column.meaning.endswith(".")


@pytest.mark.parametrize(
    ("name", "first", "tables"),
    [
        ("p999", "    p99.9 (ms): ", ["parm run", "summary.csv", "frontier.csv"]),
        ("p99.9", "    p99.9 (ms): ", ["parm run", "summary.csv", "frontier.csv"]),
        ("p999_lo", "    p999, p999_lo, p999_hi (ms): ", ["summary.csv", "frontier.csv"]),
        ("column.A_d", "    A_d (%): ", ["parm run", "parm accuracy"]),
        ("a_d", "    A_d (%): ", ["parm run", "parm accuracy"]),
        ("summary.csv", "    policy: ", ["summary.csv"]),
        ("column.plan", "    policy: ", ["parm plan"]),
        ("column.queries", "    queries (count): ", ["summary.csv"]),
    ],
)
def test_one_column_or_one_table_can_be_looked_up(name: str, first: str, tables: list[str]) -> None:
    parts = [part.splitlines() for part in catalogue(name).split("\n\n")]
    assert [part[0].partition(": ")[0] for part in parts] == tables
    assert parts[0][1].startswith(first)
