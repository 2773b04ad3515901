"""`parm report`: a run as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.commands.arguments import Plugins


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.", show_default=False)],
    slo: Annotated[
        str | None, typer.Option(metavar="METRIC=TIME", help="The verdict says who keeps it, as p999=50ms.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to write.", show_default="DIR/report.html")
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Write a run as one HTML page to send to a colleague.

    The page needs no network: verdict in words, sortable table, figures, claims, slowest queries, and the experiment.
    """
    from experiments.api import open_run
    from experiments.capacity.targets import parse

    run = open_run(folder, plugin or ())
    target = None if slo is None else parse([slo], None)[0]
    print(run.report(out, *((target.bound, target.metric) if target else ())))
