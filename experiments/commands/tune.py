"""`parm tune`: the wait and the probability of hedged requests, from a log of latencies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def tune(
    log: Annotated[
        Path, typer.Argument(metavar="LOG", help="Table of latencies: CSV or JSON lines.", show_default=False)
    ],
    column: Annotated[str, typer.Option(help="Its column of latencies.")] = "latency",
    unit: Annotated[str, typer.Option(help="Their unit: s, ms, us or ns.")] = "s",
    percentile: Annotated[float, typer.Option(help="The percentile of latency that is to be low.")] = 99.0,
    budget: Annotated[float, typer.Option(help="Most copies per query.")] = 0.05,
) -> None:
    """Compute hedging's wait and probability from a log of latencies.

    They give the least percentile of latency for so many copies per query (SingleR), if a copy is as fast as any other
    query, whatever the first one meets, and the copies do not lengthen the queues. A run shows what holds of that.
    """
    from experiments.capacity.reissue import single_r
    from sim.errors import ParmError
    from sim.files import UNITS, read_times

    if unit not in UNITS:
        raise ParmError(f"there is no unit '{unit}': choose s, ms, us or ns.")
    try:
        latencies = read_times(log.expanduser(), column, unit)
    except ValueError as error:
        raise ParmError(str(error)) from error
    found = single_r(latencies, percentile, budget)
    print(f"- {{kind: hedged, after: {found.after:.6g}, probability: {found.probability:.4g}}}")
    print(
        f"p{percentile:g} {found.percentile * 1000:.4g} ms with {found.copies:.1%} copies; without copies "
        f"{found.alone * 1000:.4g} ms, with a copy of all that are slower than the {1 - budget:.1%} quantile "
        f"{found.hedged * 1000:.4g} ms"
    )
