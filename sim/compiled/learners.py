"""What routers that learn keep, seen from Python: laid out for each of them, and more where it runs out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.compiled import layout
from sim.compiled.arrays import Arrays
from sim.dispatching import Discipline
from sim.routing import LeastRequest, PeakEwma, Prequal

FIRST_PROBES = 16
"""Probes on their way to begin with."""
FIRST_FOUND = 8
"""Numbers of outstanding tasks by which an instance's latencies are kept to begin with."""


class Learners:
    """The routers' memory besides their `FARM`."""

    def __init__(self, arrays: Arrays, farms: int, instances: int) -> None:
        self._arrays = arrays
        arrays["learners"] = np.zeros(farms, layout.LEARNER)
        arrays["known"] = np.zeros(instances, layout.KNOWN)
        arrays["known"]["most"] = -1
        self._columns: dict[tuple[str, int, str], NDArray[Any]] = {}

    def add(self, farm: int, queue: Discipline, places: int) -> tuple[int, int, int]:
        """Lay out the router of a farm; return its number, d, and how many places it draws at once."""
        row = self._arrays["learners"][farm]
        match queue:
            case PeakEwma():
                row["decay"] = queue.decay
                return layout.PEAK, queue.d, queue.d
            case LeastRequest(ejection=rules) if rules is not None:
                for name in ("timeout", "consecutive", "interval", "base", "longest"):
                    row[name] = getattr(rules, name)
                row["at_once"], row["moves"] = rules.at_once(places), rules.move
                return layout.LEAST, queue.d, queue.d
            case Prequal():
                for name in ("probes", "removed", "age", "hot", "round_trip", "bytes_each"):
                    row[name] = getattr(queue, name)
                uses, kept = queue.uses(places), queue.kept(places)
                row["whole"] = 1 << 30 if math.isinf(uses) else int(uses)
                row["part"] = 0.0 if math.isinf(uses) else uses - int(uses)
                row["kept"], row["room"] = kept, FIRST_PROBES
                self._column("learners", farm, "pool", np.zeros(kept, layout.PROBE))
                self._column("learners", farm, "pending", np.zeros(FIRST_PROBES, layout.PROBE))
                self._column("learners", farm, "latest", np.zeros(layout.LATEST, np.int64))
                self._column("learners", farm, "ordered", np.zeros(layout.LATEST, np.int64))
                return layout.PREQUAL, 1, min(places, int(queue.probes) + 1)
        raise TypeError(f"the kernel does not know '{queue.name_in_yaml()}'")

    def _column(self, table: str, row: int, name: str, array: NDArray[Any]) -> None:
        self._columns[table, row, name] = array
        self._arrays[table][name][row] = array.ctypes.data

    def more_probes(self, farm: int, count: int) -> None:
        """Let there be room for `count` probes more on their way."""
        row = self._arrays["learners"][farm]
        old = self._columns["learners", farm, "pending"]
        new = np.zeros(2 * (len(old) + count), layout.PROBE)
        new[: len(old)] = np.roll(old, -int(row["head"]))
        row["head"], row["room"] = 0, len(new)
        self._column("learners", farm, "pending", new)

    def more_latencies(self, instance: int, found: int) -> None:
        """Let there be room for latencies of tasks that found so many outstanding."""
        before = int(self._arrays["known"]["room"][instance])
        room = max(FIRST_FOUND, 2 * found)
        self._arrays["known"]["room"][instance] = room
        for name, each in (("seen", layout.SEEN), ("counts", 1), ("medians", 1)):
            array = np.zeros(room * each, np.int64 if name == "counts" else np.float64)
            if before:
                array[: before * each] = self._columns["known", instance, name]
            self._column("known", instance, name, array)
