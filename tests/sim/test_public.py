"""`from sim import ...`: every public name is there, importing is cheap, and the example in the docstring is right."""

from __future__ import annotations

import ast
import doctest
import inspect
import subprocess
import sys

import numpy as np
import pytest

import sim
from sim import OpenSchedule, Streams
from workloads.arrivals import Poisson


def test_the_example_gives_what_it_says() -> None:
    result = doctest.testmod(sim)
    assert result.attempted >= 7
    assert result.failed == 0


def test_every_public_name_is_there_for_checkers_and_for_programs() -> None:
    typed = {
        alias.name
        for node in ast.walk(ast.parse(inspect.getsource(sim)))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sim.")
        for alias in node.names
    }
    assert sorted(typed) == sorted(sim.__all__)
    assert all(getattr(sim, name) is not None for name in sim.__all__)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'sim' has no attribute 'simulat'"):
        sim.simulat  # noqa: B018


def test_importing_sim_imports_no_library() -> None:
    code = "import sys, sim; print(*{'numpy', 'pydantic', 'simpy', 'sim.simulation'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_poisson_arrivals_are_those_of_a_workload() -> None:
    ours = OpenSchedule.poisson(50.0, 1000, Streams(3, 1))
    theirs = Poisson(rate=50.0).schedule(1000, Streams(3, 1).generator("arrivals"))
    assert np.array_equal(ours.times, theirs.times)
