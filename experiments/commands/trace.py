"""`parm trace`: what happened around the slowest queries, for Perfetto or Chrome's tracing view."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.commands.arguments import Plugins, point_of


def trace(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.", show_default=False)],
    slowest: Annotated[int, typer.Option(min=1, help="Queries whose neighbourhoods are exported.")] = 20,
    policy: Annotated[str | None, typer.Option(help="Only this policy.", show_default="all")] = None,
    at: Annotated[
        list[str] | None,
        typer.Option("--at", metavar="KEY=VALUE", help="Only this sweep point, as rate=300; may be repeated."),
    ] = None,
    trial: Annotated[int | None, typer.Option(min=0, help="Only this trial.", show_default="all")] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Export whole cells instead of neighbourhoods.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write; .gz packs it to a sixth.", show_default="DIR/trace.json.gz"),
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Export the slowest queries of a run as a timeline.

    The file opens in https://ui.perfetto.dev or chrome://tracing: a track for each instance, a slice for each query and
    task, arrows from queries to their tasks.
    """
    from experiments.analysis import perfetto
    from experiments.api import open_run
    from experiments.run.store import writing
    from sim import atomic

    run, point = open_run(folder, plugin or ()), point_of("--at", at or ())
    excerpts = run.whole(policy, trial, **point) if whole else run.slowest(slowest, policy, trial, **point)
    file = out or folder / "trace.json.gz"
    with writing(file), atomic.replacing(file) as part, part.open("wb") as opened:
        events = perfetto.write(opened, excerpts, compressed=file.suffix == ".gz")
    print(
        f"{events} events of {len(excerpts)} cell{'s' if len(excerpts) > 1 else ''}; open it in https://ui.perfetto.dev"
    )
    print(file)
