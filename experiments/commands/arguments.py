"""Arguments and options that several verbs of the command line share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from sim.errors import ParmError

INTERRUPTED = 130
"""The exit status of a run that was interrupted."""


def remember_debug(debug: bool) -> bool:
    """Note that errors are to be shown with where they come from."""
    if debug:
        debug_wanted.append(True)
    return debug


def named_device(device: str) -> str:
    """Return the device, which need not be there. Raises ParmError where no device is called that."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", device):
        raise ParmError(f"there is no device '{device}': choose auto, cpu, cuda or cuda:N.")
    return device


debug_wanted: list[bool] = []
"""Holds True once `--debug` was given."""

File = Annotated[Path, typer.Argument(metavar="FILE", help="The experiment's YAML file.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override any key, as policies.1.k=3.")
]
Plugins = Annotated[
    list[str] | None, typer.Option("--plugin", metavar="MODULE", help="Import a module with kinds of your own.")
]
DataFolder = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="Where data sets are.", show_default=".parm/data")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes that simulate.", show_default="cores")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.", callback=named_device)]
ModelsFolder = Annotated[
    Path, typer.Option("--models", metavar="DIR", envvar="PARM_MODELS", help="Where trained models are kept.")
]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show where an error comes from.", callback=remember_debug, is_eager=True)
]
MODELS = Path(".parm/models")
