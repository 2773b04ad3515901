"""Cells on the machines of a Ray cluster.

Ray starts processes, schedules, and carries values. What it offers for failures is not used: a task is tried once, and
what was lost with a process or a machine is sent again from here, so that it can be counted, limited and told of.
Results are fetched as soon as they are there, so that a machine which dies later takes none with it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cache, partial
from importlib.util import find_spec
from time import monotonic
from typing import Any

from backends.blame import portable
from backends.processes import WorkerKilledError
from experiments.run import inputs
from experiments.run.executors.base import Item
from experiments.run.executors.shipping import install, plugin_sources
from experiments.run.manifest import versions
from experiments.run.progress import Reporter
from sim import compiled
from sim.errors import ParmError

INSTALL = "pip install 'parm[ray]'"
MOST_TRIES = 4
"""Times that an item is tried where its process or machine is lost each time; then it is an error."""
REACHABLE = 5.0
"""Seconds to wait for an answer of an address."""
PATIENCE = 20.0
"""Seconds without any result after which it is looked whether the cluster has a machine left."""
SAME = ("numpy", "scipy", "simpy", "pyarrow")
"""Packages on which the bytes of a trace may depend."""
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # else Ray reports to its makers
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else it warns that this will be so
}


@contextlib.contextmanager
def connected(address: str | None, reporter: Reporter) -> Iterator[RayCluster]:
    """Connect to the cluster at `address`, HOST:PORT, and disconnect at the end of the block.

    Without an address it is that of the environment (RAY_ADDRESS), else that of this machine, else a cluster of this
    machine alone, which ends with the block. A connection that the process already has is used and kept.

    Raises ParmError if Ray is not installed or there is no cluster.
    """
    if find_spec("ray") is None:
        raise ParmError(f"--executor ray: Ray is not installed; {INSTALL}.")
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    address = address or os.environ.get("RAY_ADDRESS")
    if address is not None and address not in ("auto", "local"):
        _ensure_reachable(address)
    if ray.is_initialized():
        if address is not None and address not in ("auto", ray.get_runtime_context().gcs_address):
            raise ParmError(f"--address {address}: this process is connected to another Ray cluster already.")
        yield RayCluster(reporter)
        return
    _connect(address)
    try:
        yield RayCluster(reporter)
    finally:
        ray.shutdown()


def _connect(address: str | None) -> None:
    import ray

    given = f"--address {address}: " if address else "--executor ray: "
    ours = threading.current_thread() is threading.main_thread()
    handlers = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)} if ours else {}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, include_dashboard=None)
    except ImportError as error:
        raise ParmError(f"--executor ray: Ray cannot be used ({error}); {INSTALL}.") from error
    except (ConnectionError, ValueError, RuntimeError, OSError, SystemExit) as error:
        says = " ".join(str(error).split())
        raise ParmError(f"{given}there is no Ray cluster that this machine is a part of ({says}).") from error
    else:
        # What happens to machines is told in one line each, from here; Ray would print a dead one's last logs.
        ray._private.worker._worker_logs_enabled = False
    finally:
        for one, handler in handlers.items():
            signal.signal(one, handler)  # Ray's ends the process


def _ensure_reachable(address: str) -> None:
    """Raise ParmError unless something answers at HOST:PORT; Ray itself would try for two minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal() or not host:
        raise ParmError(f"--address {address}: must be HOST:PORT, as `ray start --head` says it, or auto.")
    try:
        socket.create_connection((host, int(port)), REACHABLE).close()
    except (OSError, OverflowError) as error:
        says = getattr(error, "strerror", None) or error
        raise ParmError(f"--address {address}: no Ray cluster answers there ({says}).") from error


class RayCluster:
    """The machines of the Ray cluster to which this process is connected."""

    local = False
    started = True

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def describe(self) -> dict[str, Any]:
        """Return the manifest's entry: Ray's version, and the machines, cores and GPUs at this time."""
        import ray

        machines = sum(node["Alive"] for node in ray.nodes())
        size = {"machines": machines, "cores": self.at_once(), "gpus": self.gpus()}
        return {"name": "ray", "version": ray.__version__, **size}

    def at_once(self) -> int:
        """Return the number of cores that the cluster has now."""
        return max(1, self._count("CPU"))

    def gpus(self) -> int:
        """Return the number of GPUs that the cluster has now."""
        return self._count("GPU")

    def start(self, workers: int, first: Callable[[], object]) -> None:
        """Do nothing: the cluster's machines have processes."""

    def in_order(
        self,
        function: Callable[[Item], Any],
        items: Sequence[Item],
        workers: int | None = None,
        then: Callable[[Item, Any], Any] | None = None,
    ) -> Generator[Callable[[], Any], None, None]:
        """Yield a call for each item's result, as `Executor.in_order` says."""
        with contextlib.closing(_Sequence(self._reporter, self.at_once, function, items, workers, then)) as all_of_them:
            yield from all_of_them.in_order()

    def _count(self, resource: str) -> int:
        import ray

        return int(ray.cluster_resources().get(resource, 0))


class _Sequence:
    """Items on their way to the cluster and back."""

    def __init__(
        self,
        reporter: Reporter,
        at_once: Callable[[], int],
        function: Callable[[Any], Any],
        items: Sequence[Any],
        workers: int | None,
        then: Callable[[Any, Any], Any] | None,
    ) -> None:
        import ray
        from ray import cloudpickle

        self._reporter, self._at_once, self._items, self._workers = reporter, at_once, items, workers
        self._sources = ray.put(plugin_sources(items))
        self._function = ray.put(cloudpickle.dumps(function))
        self._compiling = compiled.installed() and compiled.ready()
        self._start: Callable[..., Any] = ray.remote(num_cpus=1, max_retries=0)(_apply).remote
        self._actors = [] if then is None else self._second(then)
        self._load: Counter[Any] = Counter()
        self._busy: dict[Any, tuple[int, Any]] = {}
        """The item's number and the actor, if any, of each result that is awaited, by its reference."""
        self._waiting = deque(range(len(items)))
        self._results: dict[int, Callable[[], Any]] = {}
        self._tries: Counter[int] = Counter()

    def in_order(self) -> Generator[Callable[[], Any], None, None]:
        """Yield a call for each item's result."""
        width = self._workers or self._at_once()
        for wanted in range(len(self._items)):
            while wanted not in self._results:
                while self._waiting and self._waiting[0] < wanted + 2 * width and self._room(width):
                    self._send(self._waiting.popleft())
                self._collect()
                width = self._workers or self._at_once()  # machines come and go
            yield self._results.pop(wanted)

    def close(self) -> None:
        """Send nothing more, and end the processes that hold a GPU.

        What is still in progress, at most two items for each core, is left to the end of the connection, which stops
        it, or where the connection is not ours to its own end: a task that Ray cancels just as its answer arrives ends
        this process (https://github.com/ray-project/ray/pull/54738), which nobody may do to a notebook.
        """
        import ray

        for actor in self._actors:
            with contextlib.suppress(Exception):  # its machine may be gone, and it is over in any case
                ray.kill(actor)

    def _second(self, then: Callable[[Any, Any], Any]) -> list[Any]:
        """Return a process on each GPU that applies `then`; one that is lost is started elsewhere."""
        import ray
        from ray import cloudpickle

        actor, content = ray.remote(num_cpus=0, num_gpus=1, max_restarts=-1)(_Second), ray.put(cloudpickle.dumps(then))
        return [actor.remote(self._sources, content) for _ in range(int(ray.cluster_resources()["GPU"]))]

    def _room(self, width: int) -> bool:
        """Say whether another item may be sent: beyond `workers` none is even queued."""
        return self._workers is None or len(self._busy) < width

    def _send(self, number: int) -> None:
        from ray import cloudpickle

        self._tries[number] += 1
        item = cloudpickle.dumps(self._items[number])
        found, actor = self._start(self._sources, self._function, item, self._compiling), None
        if self._actors:
            actor = min(self._actors, key=lambda one: self._load[one])
            self._load[actor] += 1
            found = actor.call.remote(item, found)
        self._busy[found] = number, actor

    def _collect(self) -> None:
        """Wait until something is back, and sort what came back."""
        import ray

        began = monotonic()
        while not (ready := ray.wait(list(self._busy), timeout=PATIENCE)[0]):
            if not ray.cluster_resources().get("GPU" if self._actors else "CPU"):
                self._reporter.status(
                    f"The cluster has no machine left that can compute; waiting for one since {monotonic() - began:.0f}"
                    " s. Ctrl-C ends the wait.",
                    last=False,
                )
        ready, _ = ray.wait(list(self._busy), num_returns=len(self._busy), timeout=0)
        lost: list[int] = []
        for reference in ready:
            number, actor = self._busy.pop(reference)
            if actor is not None:
                self._load[actor] -= 1
            if not self._take(number, reference):
                lost.append(number)
        if lost:
            self._waiting.extendleft(sorted(lost, reverse=True))
            names = ", ".join(f"({self._items[number]})" for number in lost[:2]) + (", ..." if len(lost) > 2 else "")
            what = "1 cell was" if len(lost) == 1 else f"{len(lost)} cells were"
            again = "it runs again" if len(lost) == 1 else "they run again"
            self._reporter.say(f"warning: {what} lost with a machine or a process of the cluster; {again}: {names}.")

    def _take(self, number: int, reference: Any) -> bool:
        """Keep an item's result or error; return False if it was lost and is to be tried again."""
        import ray

        try:
            good, value, where, made_with = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise ParmError(f"a process of the cluster cannot run parm: {_last_line(error)}.") from error
        except ray.exceptions.RayError:
            if self._tries[number] < MOST_TRIES:
                return False
            self._results[number] = partial(_raise, WorkerKilledError())
            return True
        _ensure_same(where, made_with)
        self._results[number] = partial(_return if good else _raise, value)
        return True


def _ensure_same(where: str, theirs: dict[str, str]) -> None:
    """Raise ParmError if a machine has other software than this one, with which a trace might have other bytes."""
    for name, mine in software().items():
        if (other := theirs.get(name)) != mine:
            raise ParmError(
                f"the machine {where} of the cluster has {name} {other or 'not at all'}, this one {mine}: "
                "install the same on all of them."
            )


@cache
def software() -> dict[str, str]:
    """Return what has to be the same on every machine, by name."""
    known = versions()
    return {inputs.CODE: inputs.code(), **{name: known[name] for name in SAME if name in known}}


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__


def _return(value: Any) -> Any:
    return value


def _raise(error: BaseException) -> Any:
    raise error


Answer = tuple[bool, Any, str, dict[str, str]]
"""Whether it went well, the result or the error, the machine, and its software."""


def _apply(sources: dict[str, bytes], function: bytes, item: bytes, compiling: bool) -> Answer:
    """Apply the pickled function to the pickled item, on a machine of the cluster, with the plugins in `sources`.

    `compiling` says whether the compiled engine is wanted.
    """
    install(sources)
    if compiling:
        _kernel()
    return _tried(lambda: pickle.loads(function)(pickle.loads(item)))


class _Second:
    """What a process with a GPU does: `then`, which keeps its models from one item to the next."""

    def __init__(self, sources: dict[str, bytes], then: bytes) -> None:
        install(sources)
        self._then = pickle.loads(then)

    def call(self, item: bytes, first: Answer) -> Answer:
        """Apply `then` to a pickled item and what was found of it, unless that is an error."""
        good, found, *_ = first
        return _tried(lambda: self._then(pickle.loads(item), found)) if good else first


def _tried(call: Callable[[], Any]) -> Answer:
    try:
        good, value = True, call()
    except BaseException as error:  # this machine's user is told, with the item's name
        good, value = False, portable(error)
    return good, value, socket.gethostname(), software()


@cache
def _kernel() -> None:
    """Have the compiled engine ready on this machine: one process compiles it, and the others wait for that."""
    if not compiled.installed() or compiled.ready():
        return
    from filelock import FileLock

    from sim.compiled import cache as kept

    with contextlib.suppress(OSError):
        kept.folder().mkdir(parents=True, exist_ok=True)
        with FileLock(kept.folder() / ".lock"):
            if not compiled.ready():
                compiled.compile_kernel()
