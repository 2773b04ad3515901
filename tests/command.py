"""The command line, run in the tests' own process."""

from __future__ import annotations

import signal
import sys

import pytest

from experiments import cli


def parm(*words: object, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a command; return its exit status. What it does to signals and to `--debug` is undone."""
    monkeypatch.setattr(sys, "argv", ["parm", *map(str, words)])
    cli.debug_wanted.clear()
    kill = signal.getsignal(signal.SIGTERM)
    try:
        cli.main()
    except SystemExit as exit_:
        return int(exit_.code or 0)
    finally:
        signal.signal(signal.SIGTERM, kill)
