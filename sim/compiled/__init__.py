"""The compiled engine: common simulations as machine code, ten to twenty times as fast as on SimPy, the same trace.

It is to `sim.simulation` what `_heapq` is to `heapq`: the modules outside this package are the reference, which runs
everything, and this package does again what they do, in the same order, down to the last bit of every number. What it
does not know (`world.unsupported`) runs on SimPy. A change of `sim.frontend`, `sim.pool` or a policy has to be made
here as well; the tests simulate random worlds on both engines and compare every array.

Read in this order:

- `layout`: the records that the kernel works on, and all of its numbers for kinds of events, policies and so on
- `memory`: how compiled code reaches them
- `heap`, `conditions`, `tenants`: `sim.clock`; stragglers, draws and travel; second services that depend on us
- `tasks`, `routing`, `learning`, `services`, `pools`: tasks and their ends; `sim.dispatching`; `sim.routing`;
  `sim.pool`, `sim.routed` and their lanes
- `answers`, `waiting`, `copies`, `coding`: what policies do
- `loop`: arrivals, batches, deadlines, and the event loop, which is the function that is called
- `world`: which simulations are possible, and their options as numbers
- `engine`, `arrays`, `learners`: memory, and the answers to what the kernel asks for
- `columns`: the trace
- `cache`: the compiled kernel on disk

*Asking.* The kernel guesses no sizes. Where it runs out of rows, heap, columns, draws or pieces of a timeline, it calls
`engine.Engine`, which adds to them, and goes on. Draws come from the same streams as on SimPy, a block at a time.

*Rows.* Tasks, batches and coding groups have rows as long as somebody may ask for them; finished tasks are written to
the trace's columns at once and their rows used again, so that memory is that of the trace.

The package can be imported without numba; `run` needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from sim.cluster import Cluster
from sim.compiled import cache
from sim.compiled.engine import Engine
from sim.compiled.world import unsupported
from sim.policies import Policy
from sim.schedule import Schedule
from sim.stragglers.base import Effect
from sim.streams import Streams
from sim.trace import Trace

__all__ = ["compile_kernel", "installed", "ready", "run", "unsupported"]


def installed() -> bool:
    """Say whether numba is installed."""
    return find_spec("numba") is not None


def ready() -> bool:
    """Say whether the kernel can be had without compiling it."""
    return cache.kernel.cache_info().currsize > 0 or cache.on_disk()


def compile_kernel() -> None:
    """Have the kernel ready, in this process and on disk for others."""
    cache.kernel()


def run(
    cluster: Cluster,
    policy: Policy,
    effects: Sequence[Effect],
    schedule: Schedule,
    streams: Streams,
    deadline: float | None,
) -> Trace:
    """Simulate what `unsupported` has nothing against, as `sim.simulation.simulate` does, which calls this.

    `cluster` has the times of the policy's code, `effects` are the stragglers', and `deadline` is in seconds.
    """
    return Engine(cluster, policy, effects, schedule, streams, deadline).run(cache.kernel())
