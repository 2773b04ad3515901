"""`parm compare`: several runs in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.commands.arguments import Plugins


def compare(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR DIR...", help="Run directories; the first is the base.", show_default=False),
    ],
    within: Annotated[
        str | None,
        typer.Option(metavar="DIFFERENCE", help="Also say which run is best, or not worse by more: 1ms, 5%."),
    ] = None,
    metric: Annotated[str, typer.Option(help="The metric by which --within says so.")] = "p999",
    confidence: Annotated[float, typer.Option(help="The confidence with which it says so.")] = 0.95,
    plugin: Plugins = None,
) -> None:
    """Compare runs by policy and sweep point."""
    from experiments.analysis import compare as comparing
    from experiments.run.session import console

    comparison = comparing.compare(folders)
    console().print(comparison.table())
    for sentence in comparison.unmatched:
        print(sentence)
    if within is not None:
        from experiments.api import compare_runs, open_run

        runs = [open_run(folder, plugin or ()) for folder in folders]
        for sentence in compare_runs(dict(zip(comparison.names, runs, strict=True)), metric, within, confidence):
            print(sentence)
