"""Sphinx's settings: the pages of this folder in reading order, and a reference made from the code and `parm list`."""

from __future__ import annotations

import importlib.metadata
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

project = "parm"
author = "The parm authors"
release = importlib.metadata.version("parm")
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"parm {release}"
exclude_patterns = ["results", "reference/_*", "**.ipynb"]
default_role = "code"
smartquotes = False
myst_heading_anchors = 3
autodoc_default_options = {
    "members": True,
    "ignore-module-all": True,
    "exclude-members": "model_config, model_post_init",
}
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
add_module_names = False
suppress_warnings = ["ref.python"]  # a name such as `Network` that two packages have, in a signature
html_show_sourcelink = False
html_copy_source = False

HOUSES = ("sim", "workloads", "parity", "backends", "experiments")


def listed(*names: str) -> str:
    """Return what `parm list` prints, as Markdown: a heading per section, family or table, a list of options."""
    command = [sys.executable, "-m", "experiments.cli", "list", *names]
    told = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    printed = subprocess.run(command, capture_output=True, check=True, cwd=ROOT, env=told, encoding="utf-8").stdout
    lines: list[str] = []
    for line in printed.splitlines():
        text = _escaped(line.strip())
        head, _, meaning = text.partition(": ")
        if not line.strip():
            lines.append("")
        elif line.startswith("    "):
            lines.append(f"- `{head}`: {meaning}")
        elif line.startswith("  "):
            lines += ["", f"### `{head}`", "", meaning, ""]
        else:
            title = head.lower()
            title = f"`{title}`" if "." in head or not head.isupper() else title.capitalize()
            lines += ["", f"## {title}", "", meaning, ""]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """Return text whose stars, underscores and brackets outside of backticks stand for themselves in Markdown."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*\[\]<>])", r"\\\1", part) for part in parts)


def modules(house: str) -> str:
    """Return a page's text: one heading and one `automodule` for each public module of a package."""
    found = [house, *(each.name for each in pkgutil.walk_packages([str(ROOT / house)], f"{house}."))]
    public = [name for name in found if not any(part.startswith("_") for part in name.split("."))]
    parts = (f"## `{name}`\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n" for name in public)
    return "\n".join(parts)


def plain(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Take a docstring as prose: only backticks and lists mean something, and a star or a bar is what it is."""
    for number, line in enumerate(lines):
        parts = re.split(r"(`[^`]*`)", line)
        lines[number] = "".join(p if p.startswith("`") else re.sub(r"([*|]|_(?=\W|$))", r"\\\1", p) for p in parts)


def write_reference(app: Sphinx, config: object) -> None:
    """Write the generated parts of the reference, which its pages include; a part that is the same is left alone."""
    for name, text in {
        "kinds": listed(),
        "columns": listed("column"),
        **{house: modules(house) for house in HOUSES},
    }.items():
        file = DOCS / "reference" / f"_{name}.md"
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def name_folders(app: Sphinx, page: str, source: list[str]) -> None:
    """Name, instead of link to, what is in the repository and not on the site: folders of results, other READMEs."""

    def named(link: re.Match[str]) -> str:
        words, target = link.groups()
        file = (DOCS / page).parent / target
        outside = file.is_dir() or (file.exists() and DOCS not in file.resolve().parents)
        path = os.path.relpath(file, ROOT)
        return (f"`{path}`" if words.strip("`") in path else f"{words} (`{path}`)") if outside else link.group()

    source[0] = re.sub(r"(?<!!)\[([^\]]*)\]\(([^)#:]+)\)", named, source[0])


def setup(app: Sphinx) -> None:
    """Register the hooks."""
    app.connect("config-inited", write_reference)
    app.connect("source-read", name_folders)
    app.connect("autodoc-process-docstring", plain)
