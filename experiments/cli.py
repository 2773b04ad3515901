"""The command line: a table from each verb to its module in `commands`, which is imported when the verb is given.

`parm --help` imports them all: they are light, since everything heavy is imported inside their functions.
"""

from __future__ import annotations

import importlib
import inspect
import platform
import sys
from functools import cache
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from sim.errors import ParmError

RUN, ASK, MACHINES, LOOK = "Run experiments", "Other questions", "Real machines", "Look up"
VERBS = {
    "init": (RUN, "init"),
    "run": (RUN, "run"),
    "check": (RUN, "check"),
    "train": (RUN, "train"),
    "figures": (RUN, "figures"),
    "report": (RUN, "report"),
    "trace": (RUN, "trace"),
    "compare": (RUN, "compare"),
    "claims": (RUN, "claims"),
    "reversals": (RUN, "reversals"),
    "plan": (ASK, "plan"),
    "tune": (ASK, "tune"),
    "accuracy": (ASK, "accuracy"),
    "profile": (MACHINES, "profile"),
    "calibrate": (MACHINES, "calibrate"),
    "fit": (MACHINES, "fit"),
    "validate": (MACHINES, "validate"),
    "list": (LOOK, "list_kinds"),
}
"""For each verb the heading in `parm --help`, and the module in `commands` with a function of the same name."""

debug_wanted: list[bool] = []
"""Holds True once `--debug` was given."""


def _remember_debug(debug: bool) -> None:
    if debug:
        debug_wanted.append(True)


def _print_version(version: bool) -> None:
    if version:
        from importlib import metadata

        of = metadata.version
        print(f"parm {of('parm')}, Python {platform.python_version()}, torch {of('torch')}")
        raise typer.Exit


@cache
def verb(name: str) -> Any:
    """Return a verb's click command, with the option `--debug` that every verb has."""
    heading, module = VERBS[name]
    function = getattr(importlib.import_module(f"experiments.commands.{module}"), module)
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    command = _command(function, name, rich_help_panel=heading, help=text)
    command.params.extend(_command(_options_of_every_verb, "debug").params)
    return command


def _command(function: Any, name: str, **options: Any) -> Any:
    alone = typer.Typer(add_completion=False)
    alone.command(name, **options)(function)
    return typer.main.get_command(alone)


def _options_of_every_verb(
    debug: Annotated[
        bool,
        typer.Option(
            "--debug",
            help="Show where in the code an error was raised.",
            callback=_remember_debug,
            is_eager=True,
            expose_value=False,
        ),
    ] = False,
) -> None:
    """Declare the options that `verb` gives to every verb."""


class Verbs(TyperGroup):
    """The verbs of `VERBS`, imported when needed."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the verbs in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a verb's command, or None where there is no such verb."""
        return verb(cmd_name) if cmd_name in VERBS else None


app = typer.Typer(name="parm", cls=Verbs, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def parm(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the versions of parm, Python, torch.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Simulate prediction serving with redundancy.

    If some machines are slow or fail, how late and how wrong are the answers under each policy, and at what cost?
    """


def main() -> NoReturn:
    """Entry point: a user's mistake is one sentence on standard error and exit status 2, never a traceback."""
    try:
        app(prog_name="parm")
    except ParmError as error:
        if debug_wanted:
            raise
        says = str(error)
        print(says if says.endswith((".", "?")) else f"{says}.", file=sys.stderr)
    except Exception as error:
        if debug_wanted:
            raise
        says = " ".join(str(error).split())
        from backends.blame import blamed

        print(f"parm failed{blamed(error)} ({type(error).__name__}: {says}); --debug shows where.", file=sys.stderr)
        sys.exit(1)
    sys.exit(2)


if __name__ == "__main__":
    main()
