"""`parm calibrate`: fits a profile of service times to latencies of a real cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.commands.arguments import INTERRUPTED, Workers
from sim.errors import ParmError

if TYPE_CHECKING:
    from rich.table import Table

    from experiments.calibration.fitting import Residual
    from sim.distributions.profile import ServiceProfile


def calibrate(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="YAML of a calibration, or a CSV.", show_default=False),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The profile to write.", show_default="NAME.json")
    ] = None,
    workers: Workers = None,
    column: Annotated[str, typer.Option(help="Column of the CSV with the times.")] = "latency",
    unit: Annotated[str, typer.Option(help="Unit of the times: s, ms, us or ns.")] = "s",
    role: Annotated[str, typer.Option(help="Role of the times: deployed, parity, backup, backlog.")] = "deployed",
    machine: Annotated[str, typer.Option(help="The measured machine, in words.")] = "unknown",
    network: Annotated[str, typer.Option(help="The served model, in words.")] = "unknown",
) -> None:
    """Fit a cluster to measured latencies, and write a profile.

    FILE is a calibration's YAML with measured latencies to fit, or a CSV of service times, which become a profile.
    """
    from experiments.run.store import ensure_writable, writing

    if out is not None:
        ensure_writable(out)
    if file.suffix.lower() == ".csv":
        profile, name = _from_times(file, column, unit, role, machine, network), file.stem
    else:
        try:
            profile, name = _fitted(file, workers)
        except KeyboardInterrupt:
            print("Interrupted; nothing was written.", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
    path = out or Path(f"{name}.json")
    with writing(path):
        profile.write(path)
    print(path)


def _from_times(file: Path, column: str, unit: str, role: str, machine: str, network: str) -> ServiceProfile:
    from typing import get_args

    from experiments.calibration.profiles import profile_from_times
    from sim.distributions.profile import RoleName
    from sim.files import UNITS

    roles: dict[str, RoleName] = {name: name for name in get_args(RoleName)}
    for option, given, known in (("--unit", unit, UNITS), ("--role", role, roles)):
        if given not in known:
            raise ParmError(f"{option} {given}: must be one of {', '.join(known)}.")
    profile = profile_from_times(file, column, unit, roles[role], machine, network)
    times = profile.roles[roles[role]][1]
    print(
        f"{role}: mean {times.mean * 1e3:.3f} ms, p50 {times.at(0.5) * 1e3:.3f} ms, p99 {times.at(0.99) * 1e3:.3f} ms"
    )
    return profile


def _fitted(file: Path, count: int | None) -> tuple[ServiceProfile, str]:
    from rich.console import Console

    from experiments.calibration.fitting import describe, fit, residuals, summary, total_loss, workers
    from experiments.calibration.options import Calibration
    from experiments.calibration.profiles import profile_of
    from experiments.config import loader
    from experiments.run.executors.local import default_workers
    from experiments.run.progress import Reporter

    calibration = loader.load_as(Calibration, file)
    with workers(count or default_workers()) as run:
        values = fit(calibration, run, Reporter().say)
        found = residuals(calibration, values, run)
    Console(width=None if sys.stdout.isatty() else 120).print(_table(found))
    print(f"fit: {describe(values)}; loss {total_loss(found):.3f}")
    print(summary(found))
    return profile_of(calibration, values, found, f"parm calibrate {file.name}"), calibration.profile.name


def _table(found: list[Residual]) -> Table:
    """Return every residual as a row."""
    from rich.table import Table

    shown = Table("policy", "metric", "at", "measured ms", "simulated ms", "ratio", "within")
    for one in found:
        within = f"{'yes' if one.met else 'NO'} ({one.aim.tolerance:.0%})"
        times = f"{one.measured * 1e3:.2f}", f"{one.simulated * 1e3:.2f}"
        shown.add_row(one.policy, one.metric, one.point, *times, f"{one.ratio:.3f}", within)
    return shown
