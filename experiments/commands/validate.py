"""`parm validate`: the same policies on real worker processes and in simulation, with the same queries."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.commands.arguments import INTERRUPTED, DataFolder, File, Overrides, Plugins, named_device, only_one
from sim.errors import ParmError

if TYPE_CHECKING:
    from rich.table import Table

BUSY = 0.25
"""Load per core, before a run, above which other processes disturb it."""


def validate(
    file: File,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of each policy's real run, per trial.")] = 6.0,
    calibrate: Annotated[
        float, typer.Option(min=0.1, help="Seconds of calibration, half before and half after each real run.")
    ] = 6.0,
    redraws: Annotated[int, typer.Option(min=1, help="Simulations of each real run.")] = 50,
    emulate: Annotated[
        bool,
        typer.Option("--emulate", help="Stretch each pass to the time that cluster.service draws."),
    ] = False,
    pin: Annotated[
        bool | None,
        typer.Option("--pin/--no-pin", help="Bind each process to a core.", show_default="if there are enough"),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder to write.", show_default="runs/NAME")] = None,
    overrides: Overrides = None,
    data: DataFolder = None,
    device: Annotated[
        str,
        typer.Option("--device", help="Where the workers' models run: cpu, cuda or cuda:N.", callback=named_device),
    ] = "cpu",
    plugin: Plugins = None,
) -> None:
    """Run policies on real processes, and compare with simulation.

    The simulation draws service times that were measured on the workers before and after each run.
    """
    from experiments.config import loader
    from experiments.run.progress import Reporter
    from experiments.run.session import console, sigterm_as_interrupt

    experiment = loader.load(file, overrides or (), plugin or ())
    only_one(experiment, "validate")
    from experiments.validation.session import Validation, ValidationSettings

    options = ValidationSettings(seconds, calibrate, redraws, emulate, pin, device, data)
    try:
        validation = Validation(experiment, options, Reporter())
    except ParmError as error:
        raise ParmError(f"{file}: {error}") from error
    folder = out or Path("runs") / experiment.name
    try:
        sigterm_as_interrupt()
        document = validation.run(folder)
    except KeyboardInterrupt:
        print("Interrupted; nothing was compared.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    console().print(_table(document))
    for sentence in _sentences(document):
        print(sentence)
    print(folder)


def _table(document: dict[str, Any]) -> Table:
    from rich.table import Table

    shown = Table("policy", "metric", "real ms", "simulated ms", "error", "95% interval", "model expects ms")
    for policy, found in document["policies"].items():
        for metric, name in (("p50", "p50"), ("p99", "p99"), ("p999", "p99.9")):
            one = found[metric]
            low, high = one["error_95"]
            expects = " to ".join(f"{end * 1e3:.2f}" for end in one["model_expects_seconds"])
            shown.add_row(
                policy,
                name,
                f"{one['real_seconds'] * 1e3:.2f}",
                f"{one['simulated_seconds'] * 1e3:.2f}",
                f"{one['error']:+.1%}",
                "" if low is None else f"{low:+.1%} to {high:+.1%}",
                expects + ("" if one["foreseen"] else " (not there)"),
            )
    return shown


def _sentences(document: dict[str, Any]) -> list[str]:
    """Return caveats on the table."""
    frontend = document["frontend"]
    late, pipe = frontend["lateness_seconds"], frontend["latency_seconds"]
    said = [
        f"Queries were taken up {late['p50'] * 1e3:.2f} ms after their time (p99.9 {late['p99.9'] * 1e3:.2f} ms); a "
        f"pipe takes {pipe * 1e3:.2f} ms one way; the frontend was busy {frontend['busy']:.0%} of the time.",
        "Weights are untrained, which changes no times; nothing was fitted to the runs that are compared.",
    ]
    if document["workers"] >= document["cores"] and not document["emulated"]:
        said.append(
            f"note: {document['workers']} workers and the frontend share {document['cores']} cores; the simulation "
            "does not model that."
        )
    if (document["load_before"] or 0.0) > BUSY * document["cores"]:
        said.append(
            f"note: other processes were busy when this began (load {document['load_before']:.1f} on "
            f"{document['cores']} cores); what was measured is theirs too."
        )
    return said
