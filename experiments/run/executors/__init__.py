"""Where cells are computed: in processes of this machine, or on the machines of a Ray cluster.

`base.py` has the one interface, `local.py` and `ray_cluster.py` the two executors, `shipping.py` what machines without
this one's files are sent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from experiments.run.executors.base import Executor
from experiments.run.executors.local import Local
from experiments.run.progress import Reporter
from sim.errors import ParmError


@contextlib.contextmanager
def opened(name: str, address: str | None = None, reporter: Reporter | None = None) -> Iterator[Executor]:
    """Yield the executor of that name, `local` or `ray`, which is closed at the end of the block.

    `address` is a Ray cluster's; None: the one of this machine, else one is started here. Raises ParmError where there
    is no such executor or cluster, or Ray is not installed.
    """
    if name == "local":
        if address is not None:
            raise ParmError(f"--address {address}: is for --executor ray.")
        with Local() as here:
            yield here
    elif name == "ray":
        from experiments.run.executors.ray_cluster import connected

        with connected(address, reporter or Reporter()) as cluster:
            yield cluster
    else:
        raise ParmError(f"there is no executor '{name}': choose local or ray.")
