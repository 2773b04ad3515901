"""`parm calibrate`: from what was measured on a real cluster to a service-time profile that simulations draw from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.commands.arguments import INTERRUPTED, Debug, Workers
from sim.errors import ParmError

if TYPE_CHECKING:
    from rich.table import Table

    from experiments.calibration.fitting import Residual
    from sim.distributions.profile import ServiceProfile


def calibrate_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A calibration's YAML, or a CSV of service times.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The profile to write.", show_default="NAME.json")
    ] = None,
    workers: Workers = None,
    column: Annotated[str, typer.Option(help="Column of a CSV with the times.")] = "latency",
    unit: Annotated[str, typer.Option(help="Unit of a CSV's times: s, ms or us.")] = "s",
    role: Annotated[str, typer.Option(help="Whose times a CSV holds: deployed, parity, backup, backlog.")] = "deployed",
    machine: Annotated[str, typer.Option(help="On what a CSV was measured, in words.")] = "unknown",
    network: Annotated[str, typer.Option(help="Of which model a CSV's times are.")] = "unknown",
    debug: Debug = False,
) -> None:
    """Fit a cluster to measured latency quantiles, or take its measured service times, and write a profile."""
    del debug
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
    from sim.distributions.files import UNITS
    from sim.distributions.profile import RoleName

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
    from experiments.calibration.options import load
    from experiments.calibration.profiles import profile_of
    from experiments.run.progress import Reporter
    from experiments.run.runner import default_workers

    calibration, context = load(file)
    with workers(count or default_workers()) as run:
        values = fit(calibration, run, Reporter().say, context)
        found = residuals(calibration, values, run, context=context)
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
