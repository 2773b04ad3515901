"""Files of a run that parm did not write, or that were changed since, are refused in one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.analysis import claims, summary
from experiments.analysis.statistics import Interval
from sim.errors import ParmError
from tests.outcomes import outcome

HUGE = "1" + 400 * "0"
BROKEN: list[tuple[list[str | int], str]] = [
    ([], "[]"), ([], "7"), ([], "[" * 100_000), ([], HUGE), ([], "9" * 5000), (["rows"], "3"), (["rows"], "[7]"),
    (["rows", 0], "[]"), (["rows", 0, "metrics"], "5"), (["rows", 0, "metrics"], "{}"), (["rows", 0, "cost"], "[]"),
    (["rows", 0, "metrics", "mean"], "[1]"), (["rows", 0, "metrics", "mean", "value"], HUGE),
    (["rows", 0, "metrics", "mean", "value"], '"fast"'), (["rows", 0, "policy"], "{}"), (["rows", 0, "notes"], "3"),
    (["rows", 0, "point"], "[]"), (["rows", 0, "trials"], "null"),
]  # fmt: skip


def replaced(document: Any, path: list[str | int], text: str) -> str:
    """The document as JSON, with this text in place of the value at a path."""
    if not path:
        return text
    place = document
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = "PLACE"
    return json.dumps(document).replace('"PLACE"', text)


@pytest.mark.parametrize(("path", "text"), BROKEN)
def test_a_summary_of_other_types_is_one_sentence(tmp_path: Path, path: list[str | int], text: str) -> None:
    summary.write([outcome("none", trial=0), outcome("none", trial=1)], tmp_path)
    file = tmp_path / "summary.json"
    assert len(summary.read(tmp_path)) == 1
    file.write_text(replaced(json.loads(file.read_text()), path, text))
    with pytest.raises(ParmError, match=r"summary\.json cannot be read as the summary of a run: ") as refusal:
        summary.read(tmp_path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ([], "[]"), (["claims"], "4"), (["claims", 0], "[]"), (["claims", 0, "claimed"], "7"),
        (["claims", 0, "points"], "[3]"), (["claims", 0, "says"], "{}"), (["claims", 0, "mean"], "[]"),
        (["claims", 0, "mean", "value"], HUGE), (["claims", 0, "claimed"], "[[], 3]"),
    ],
)  # fmt: skip
def test_claims_of_other_types_are_one_sentence(tmp_path: Path, path: list[str | int], text: str) -> None:
    one = claims.ClaimVerdict("says", "ms", (1.0, 2.0), Interval(1.5, 1.0, 2.0), [], True, "")
    file = tmp_path / claims.FILE
    file.write_text(claims.as_json([one]))
    assert claims.read(tmp_path) == {tmp_path.name: [one]}
    file.write_text(replaced(json.loads(file.read_text()), path, text))
    with pytest.raises(ParmError, match="cannot be read as the claims of a run") as refusal:
        claims.read(tmp_path)
    assert "\n" not in str(refusal.value)


def test_one_query_and_nothing_but_default_answers_are_noted() -> None:
    single = replace(outcome("none", trial=0), queries=1, blocks=())
    assert any("one query per trial" in note for note in summary.rows([single])[0].notes)
    routes = dict.fromkeys(single.routes, 0) | {"default": 1000}
    defaults = outcome("none", trial=0, queries=1000, routes=routes)
    assert any("every answer is a default" in note for note in summary.rows([defaults])[0].notes)
    assert not any("every answer" in note for note in summary.rows([outcome("none", trial=0, queries=1000)])[0].notes)
