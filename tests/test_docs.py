"""What the pages name is there: linked files, verbs and their options; and every page is on the site."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from experiments import cli

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SITE = sorted(
    page
    for page in DOCS.rglob("*.md")
    if DOCS / "results" not in page.parents and not page.name.startswith("_")  # results, and what docs/conf.py writes
)
PAGES = [*sorted(ROOT.glob("*.md")), *SITE]
VERBS: dict[str, Any] = {name: cli.verb(name) for name in cli.VERBS}
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


def test_every_page_is_in_one_toctree() -> None:
    trees = re.findall(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    listed = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    pages = [page.relative_to(DOCS).with_suffix("").as_posix() for page in SITE]
    assert sorted([*listed, "index"]) == sorted(pages)


def test_the_readme_leads_to_the_site() -> None:
    assert "(docs/index.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_changelog_and_the_citation_have_the_current_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    versions = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert versions[:2] == ["Unreleased", project["version"]]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]


@pytest.fixture
def times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with the CSV that the page and the notebook begin with."""
    monkeypatch.chdir(tmp_path)
    drawn = np.random.default_rng(1).gamma(25, 1, 400)
    (tmp_path / "times.csv").write_text("ms\n" + "\n".join(f"{one:.3f}" for one in drawn))


@pytest.mark.usefixtures("times")
def test_the_page_about_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(block, names)
    said = capsys.readouterr().out
    assert "p99.9 <= 80 ms" in said
    assert "queries later than 80 ms" in said
    assert Path("tail.pdf").stat().st_size > 1000


@pytest.mark.usefixtures("times")
def test_the_notebook_runs() -> None:
    cells = json.loads((DOCS / "decision.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names: dict[str, Any] = {}
    for one in code:
        exec(one, names)
    assert names["found"].policies == ["equal_resources", "replication", "coded"]
    assert len("".join(code).split("found.verdict")[0].splitlines()) < 30
