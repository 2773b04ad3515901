"""`parm list` shows every kind with all its options."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Literal

import pytest

from experiments.commands.catalogue import catalogue, families, meaning, option_lines, type_words
from experiments.config.messages import fields_in_yaml
from sim.distributions import Distribution
from sim.errors import ParmError


def test_every_family_of_the_design_is_there() -> None:
    assert set(families()) >= {
        "arrival process",
        "batching",
        "code",
        "dataset",
        "distribution",
        "figure",
        "network",
        "policy",
        "queue discipline",
        "recipe",
        "sampling",
        "straggler",
    }


def test_every_member_and_every_option_is_shown_with_its_meaning() -> None:
    text = catalogue()
    for family, base in families().items():
        part = text[text.index(f"\n{family.upper()} (") :]
        ours = {kind: one for kind, one in base.members().items() if not one.__module__.startswith("tests.")}
        for kind, member in ours.items():
            assert f"\n  {kind}: {meaning(member)}\n" in f"{part}\n"
            assert meaning(member), kind
            lines = option_lines(member)
            assert len(lines) == len(fields_in_yaml(member)) - 1
            for line in lines:
                assert f"\n    {line}" in part
                assert " - " in line, f"{kind} does not say what an option means: {line}"


def test_the_sections_of_the_yaml_are_shown() -> None:
    text = catalogue()
    assert "    trials: whole number (>= 1, <= 10000), default 5 - Number of independent repetitions" in text
    assert "    arrivals: arrival process, required - The arrival process." in text
    assert "    queue: queue discipline, default single_queue - " in text


@pytest.mark.parametrize(
    "name", ["policy", "policies", "Policy", "arrival_process", "arrival processes", "coded", "cluster"]
)
def test_one_family_section_or_kind(name: str) -> None:
    text = catalogue(name)
    assert len(text) < len(catalogue()) / 2
    assert text


@pytest.mark.parametrize(
    ("key", "title"),
    [
        ("arrivals", "ARRIVAL PROCESS ("),
        ("workload.arrivals", "ARRIVAL PROCESS ("),
        ("queue", "QUEUE DISCIPLINE ("),
        ("cluster.parity_service", "DISTRIBUTION ("),
        ("model.backup", "MODEL.BACKUP: "),
        ("coded.hedge", "CODED.HEDGE: "),
    ],
)
def test_a_key_of_the_yaml_leads_to_what_can_stand_there(key: str, title: str) -> None:
    assert catalogue(key).startswith(title)


def test_what_an_option_holds_can_be_looked_up() -> None:
    text = catalogue("coded")
    assert "    hedge: coded.hedge, optional - " in text
    assert "    backup: coded.backup, optional - " in text
    assert "after_quantile: " in catalogue("coded.backup")


@pytest.mark.parametrize("key", ["workload.queue", "execution", "nothing.arrivals"])
def test_a_key_that_names_no_kind_is_refused(key: str) -> None:
    with pytest.raises(ParmError, match="there is nothing called"):
        catalogue(key)


def test_an_unknown_name_is_one_sentence_with_the_near_miss() -> None:
    with pytest.raises(ParmError, match="there is nothing called 'polcy' \\(did you mean 'policy'\\?\\)"):
        catalogue("polcy")


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int | Literal["budget"] | None, "whole number or budget"),
        (tuple[float, ...], "list of number"),
        (tuple[int, int], "list of 2 (whole number, whole number)"),
        (dict[str, Path], "mapping of text to path"),
        (Distribution | None, "distribution"),
        (typing.Annotated[float, "x"], "number"),
    ],
)
def test_types_are_told_in_words(annotation: object, words: str) -> None:
    assert type_words(annotation) == words
