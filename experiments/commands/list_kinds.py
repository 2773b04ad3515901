"""`parm list`: what YAML can name, and what the columns of tables mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.commands.arguments import Plugins


def list_kinds(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="A family (policy), a kind (coded), a section (cluster), a key (queue), or 'column'.",
        ),
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Look up options and kinds of the YAML, and columns of tables.

    Without NAME everything that YAML can name is listed, with its options. 'parm list column' lists the columns of all
    tables that parm prints and writes, with their units; 'parm list p999' and 'parm list summary.csv' some of them.
    """
    from experiments.config import loader

    loader.import_plugins(plugin or (), Path.cwd())
    from experiments.commands.catalogue import catalogue

    print(catalogue(name))
