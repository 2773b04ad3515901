"""`parm list`: kinds and options of the YAML, and columns of tables."""

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

    Without NAME all kinds and sections are listed with their options. 'parm list column' lists the columns of all
    tables with their units, 'parm list summary.csv' those of one table, 'parm list p999' those of one name.
    """
    from experiments.config import loader

    loader.import_plugins(plugin or (), Path.cwd())
    from experiments.commands.catalogue import catalogue

    print(catalogue(name))
