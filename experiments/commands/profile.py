"""`parm profile`: service times of a network and its codes, measured on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.commands.arguments import DataFolder, Device, Overrides, Plugins
from sim.errors import ParmError


def profile(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="Measure this experiment's network.")] = None,
    network: Annotated[
        str | None,
        typer.Option(metavar="YAML", help="Or this network, as resnet18 or '{kind: resnet18, width: 16}'."),
    ] = None,
    shape: Annotated[str, typer.Option(metavar="C,H,W", help="Shape of a sample for --network.")] = "3,32,32",
    outputs: Annotated[int, typer.Option(min=1, help="Number of classes for --network.")] = 10,
    batches: Annotated[str, typer.Option(metavar="B,B,...", help="Batch sizes to measure.")] = "1",
    repeats: Annotated[int, typer.Option(min=1, help="Measurements per batch size.")] = 500,
    contention: Annotated[int, typer.Option(min=0, help="Processes that load the device meanwhile.")] = 0,
    half: Annotated[bool, typer.Option("--half", help="Half precision; else as a run settles.")] = False,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The profile to write.")] = Path("profile.json"),
    overrides: Overrides = None,
    data: DataFolder = None,
    device: Device = "auto",
    plugin: Plugins = None,
) -> None:
    """Measure a network's service times on this machine.

    Encoding and decoding of its codes are measured, too. To use the profile in an experiment, write
    'service: {kind: profile, file: profile.json}'.
    """
    from experiments.run.store import ensure_writable, writing

    if (file is None) == (network is None):
        raise ParmError("name either an experiment's FILE or a --network to measure, not both.")
    ensure_writable(out)
    sizes, dimensions = _numbers(batches, "--batches"), _numbers(shape, "--shape")
    if len(dimensions) != 3:
        raise ParmError(f"--shape {shape}: must be three numbers: channels, height and width.")
    from experiments.calibration.profiling import Effort, measure_model, measure_network, parse_network
    from experiments.config import loader

    effort = Effort(device, sizes, repeats, "half" if half else "auto", contention)
    if file is not None:
        experiment = loader.load(file, overrides or (), plugin or ())
        if experiment.model is None:
            raise ParmError(f"{file} has no 'model' to measure; name one with --network.")
        measured = measure_model(experiment.model, experiment.policies, data, effort)
    else:
        loader.import_plugins(plugin or (), Path.cwd())
        channels, height, width = dimensions
        measured = measure_network(parse_network(network or ""), (channels, height, width), outputs, effort)
    with writing(out):
        measured.write(out)
    for role, services in measured.roles.items():
        for size, times in services.items():
            print(
                f"{role}, batch {size}: mean {times.mean * 1e3:.3f} ms, "
                f"p50 {times.at(0.5) * 1e3:.3f} ms, p99 {times.at(0.99) * 1e3:.3f} ms"
            )
    print(out)


def _numbers(text: str, option: str) -> list[int]:
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise ParmError(f"{option} {text}: must be whole numbers above 0 with commas between them.")
    return [int(word) for word in words]
