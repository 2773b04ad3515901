"""What the pages name is there: the files that they link to, the verbs, and the options of these."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

from experiments.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
VERBS: dict[str, Any] = typer.main.get_command(app).commands
named = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


@named
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@named
def test_commands_exist_with_their_options(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for verb, rest in re.findall(r"(?:`|^|    )parm ([a-z]+)([^`\n]*)", text, flags=re.MULTILINE):
        assert verb in VERBS, f"parm {verb}"
        options = {option for parameter in VERBS[verb].params for option in parameter.opts}
        said = re.findall(r"(?<=[\s\[])--[a-z-]+", rest.partition("#")[0])
        assert set(said) <= options, f"parm {verb}{rest}"


def test_every_page_is_reached_from_the_readme() -> None:
    readme = PAGES[0].read_text(encoding="utf-8")
    assert not [page.name for page in PAGES[1:] if f"docs/{page.name}" not in readme]
