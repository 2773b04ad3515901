"""Setups of real workers that need no torch, for tests: a worker's process imports them by name."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import numpy as np

from backends.real.workers import Service, Values


@dataclass(frozen=True)
class Echo:
    """A model whose prediction is its input, which is linear: parities of it decode exactly."""

    seconds: float = 0.002
    slow: tuple[int, ...] = ()
    """These workers take a quarter of a second instead."""

    def __call__(self, worker: int) -> Service:
        seconds = 0.25 if worker in self.slow else self.seconds

        def serve(model: int, inputs: Values) -> Values:
            time.sleep(seconds)
            return inputs

        return serve


@dataclass(frozen=True)
class Counting:
    """Answers with its worker's number, the model's, and how many passes it has run."""

    def __call__(self, worker: int) -> Service:
        passes = 0

        def serve(model: int, inputs: Values) -> Values:
            nonlocal passes
            passes += 1
            return np.array([worker, model, passes], np.float32)

        return serve


@dataclass(frozen=True)
class Failing:
    """Fails at model 0, dies at any other."""

    def __call__(self, worker: int) -> Service:
        def serve(model: int, inputs: Values) -> Values:
            if model == 0:
                raise RuntimeError("out of\n luck")
            os._exit(7)

        return serve


@dataclass(frozen=True)
class Unready:
    """Cannot be set up, beginning with worker 1."""

    def __call__(self, worker: int) -> Service:
        if worker:
            raise OSError("no such device")
        return Echo()(worker)


def alive(pid: int) -> bool:
    """Say whether a process is there and no zombie."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:  # noqa: PTH123
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not os.path.isdir("/proc/self")  # noqa: PTH112


def gone(pids: list[int], seconds: float = 20.0) -> bool:
    """Wait until the processes are gone; say whether they are."""
    until = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True
