"""`parm reversals`: which pairs of policies change their order between sweep points."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.commands.arguments import Plugins, point_of


def reversals(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.", show_default=False)],
    against: Annotated[
        list[str],
        typer.Option("--against", metavar="KEY=VALUE", help="The reference's value of a swept key; may be repeated."),
    ],
    metric: Annotated[str, typer.Option(help="By what policies are ordered: a metric of the summary.")] = "p999",
    confidence: Annotated[float, typer.Option(help="Chance that every order that is called certain is right.")] = 0.95,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all pairs at all points as CSV.", show_default=False)
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Show whose order is another than at a reference point.

    Of each two policies, in a metric; the reference is a point of the sweep, given by values of swept keys.
    """
    from experiments.analysis import reversals as turning
    from experiments.api import open_run
    from experiments.run.session import console
    from experiments.run.store import writing
    from sim import atomic

    found = open_run(folder, plugin or ()).reversals(point_of("--against", against), metric, confidence)
    console().print(turning.table(found))
    if out is not None:
        with writing(out):
            atomic.write(out, turning.as_text(found))
        print(out)
