"""Which engine simulates: SimPy, which can do everything, or the compiled kernel, which is faster. Traces are alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sim import compiled
from sim.cluster import Cluster
from sim.errors import ParmError
from sim.policies import Policy
from sim.stragglers.base import Effect

Engine = Literal["auto", "simpy", "compiled"]

WORTH_COMPILING = 2_000_000
"""Queries from which on it takes less time to compile the kernel than to do without."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine that runs, and why."""

    engine: Literal["simpy", "compiled"]
    reason: str


def choose(
    engine: Engine,
    cluster: Cluster,
    policy: Policy,
    effects: Sequence[tuple[str, Effect]],
    *,
    queries: int,
    measured: bool = False,
) -> Choice:
    """Return which engine simulates `queries` queries; `effects` are the stragglers', each with its kind.

    With `measured` service times, hardware is in the loop. `auto` takes the kernel where it can run everything and is
    compiled already, or is worth compiling. Raises ParmError, in one sentence, where `compiled` is asked for and
    impossible.
    """
    if engine == "simpy":
        return Choice("simpy", "as asked for")
    obstacle = "hardware in the loop" if measured else compiled.unsupported(cluster, policy, effects)
    if engine == "compiled":
        if obstacle is not None:
            raise ParmError(f"the compiled engine cannot simulate {obstacle}: use 'engine: auto' or 'engine: simpy'")
        if not compiled.installed():
            raise ParmError(
                "the compiled engine needs numba, which is not installed: use 'engine: auto' or 'engine: simpy'"
            )
        return Choice("compiled", "as asked for")
    if obstacle is None and not compiled.installed():
        obstacle = "anything without numba"
    if obstacle is not None:
        return Choice("simpy", f"the compiled engine cannot simulate {obstacle}")
    if queries >= WORTH_COMPILING or compiled.ready():
        return Choice("compiled", "it can simulate all of this")
    return Choice("simpy", f"the engine is not compiled yet, and {queries:,} queries are not worth it")
