"""`parm fit`: a cluster that can be simulated, from a log of answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sim.errors import ParmError


def fit(
    log: Annotated[
        Path, typer.Argument(metavar="LOG", help="Table of answers: CSV or JSON lines.", show_default=False)
    ],
    column: Annotated[str, typer.Option(help="Its column of service times, or of latencies.")] = "latency",
    unit: Annotated[str, typer.Option(help="Their unit: s, ms, us or ns.")] = "s",
    time: Annotated[
        str | None, typer.Option(help="Its column of times.", show_default="the one named like a time")
    ] = None,
    time_unit: Annotated[str, typer.Option(help="Unit of times that are numbers; dates have none.")] = "s",
    at: Annotated[str, typer.Option(help="What a time marks: start or end of the service, or arrival.")] = "start",
    host: Annotated[
        str | None, typer.Option(help="Its column of hosts.", show_default="the one named like a host")
    ] = None,
    arrival: Annotated[
        str | None, typer.Option(help="A further column, with times of arrival.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The experiment to write.", show_default="LOG's name.yaml")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The figure to write.", show_default="NAME.fit.png")
    ] = None,
) -> None:
    """Make an experiment of a log of answers: hosts, slowness, load.

    LOG has a row for each answer: when its service began, how long it took, and on which host. With '--at arrival' the
    times are those of arrival and the latencies contain waiting: services are reconstructed, first come first served on
    each host.
    """
    from typing import get_args

    from experiments.calibration.log.fit import Columns, Mark
    from experiments.calibration.log.fit import fit as fit_log

    marks: dict[str, Mark] = {name: name for name in get_args(Mark)}
    if at not in marks:
        raise ParmError(f"--at {at}: must be one of {', '.join(marks)}.")
    fitted = fit_log(log, out, Columns(column, unit, time, time_unit, marks[at], host, arrival), figure)
    for line in fitted.lines:
        print(line)
    experiment, *others = fitted.files
    print(f"{experiment}: look with 'parm check {experiment}', run with 'parm run {experiment}'")
    print(f"also written: {', '.join(map(str, others))}")
