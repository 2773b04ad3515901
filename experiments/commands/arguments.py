"""Arguments and options that several verbs of the command line share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.errors import ParmError

if TYPE_CHECKING:
    from experiments.config.schema import Experiment

INTERRUPTED = 130
"""The exit status of a run that was interrupted."""
EXECUTORS = ("local", "ray")
ENGINES = ("auto", "simpy", "compiled")
"""As `sim.engines.Engine`, which would import numpy for `parm --help`."""


def named_device(device: str) -> str:
    """Return the device, which need not be present. Raises ParmError for an invalid name."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", device):
        raise ParmError(f"there is no device '{device}': choose auto, cpu, cuda or cuda:N.")
    return device


def named_engine(engine: str | None) -> str | None:
    """Return the name of an engine, or None. Raises ParmError for any other name."""
    if engine not in (None, *ENGINES):
        raise ParmError(f"there is no engine '{engine}': choose {', '.join(ENGINES)}.")
    return engine


def named_executor(executor: str) -> str:
    """Return the name of an executor. Raises ParmError for any other name."""
    if executor not in EXECUTORS:
        raise ParmError(f"there is no executor '{executor}': choose {' or '.join(EXECUTORS)}.")
    return executor


def with_engine(overrides: list[str] | None, engine: str | None) -> list[str]:
    """Return the overrides with the engine among them, if one is named."""
    return [*(overrides or ()), *(() if engine is None else (f"engine={engine}",))]


File = Annotated[Path, typer.Argument(metavar="FILE", help="The experiment's YAML file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override an option of FILE, as policies.1.k=3; may be repeated."),
]
Plugins = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="MODULE", help="Import a Python module with your own kinds; may be repeated."),
]
DataFolder = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="Folder with data sets.", show_default=".parm/data")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Cells that are simulated at once.", show_default="cores")]
ExecutorName = Annotated[
    str,
    typer.Option("--executor", help="Where cells are computed: local or ray.", callback=named_executor),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT", help="The Ray cluster's head.", show_default="this machine's cluster, else a new one"
    ),
]
Device = Annotated[
    str,
    typer.Option("--device", help="Device of the models: auto, cpu, cuda or cuda:N.", callback=named_device),
]
EngineName = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="What simulates: auto, simpy or compiled; the results are the same.",
        callback=named_engine,
        show_default="as in FILE",
    ),
]
ModelsFolder = Annotated[
    Path, typer.Option("--models", metavar="DIR", envvar="PARM_MODELS", help="Folder with trained models.")
]
MODELS = Path(".parm/models")


def point_of(option: str, given: Sequence[str]) -> dict[str, Any]:
    """Return the values of swept keys that an option has as `KEY=VALUE`; raises ParmError for what looks otherwise."""
    import yaml

    point: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise ParmError(f"{option} {text}: must look like rate=300.")
        point[key] = yaml.safe_load(value)
    return point


def only_one(experiment: Experiment, verb: str) -> None:
    """Raise ParmError where a verb that knows one service is given several."""
    if experiment.services:
        raise ParmError(f"'parm {verb}' knows one service only: leave out 'services', or run the file with 'parm run'.")
