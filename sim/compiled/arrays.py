"""The kernel's memory, seen from Python: arrays that grow, whose addresses the kernel is told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.compiled import layout
from sim.stragglers.base import Tenancy
from sim.stragglers.tenants import LAG
from sim.stragglers.timeline import SharedPieces
from sim.streams import BLOCK, Stream

KEPT_BLOCKS = 16
"""Blocks of draws that are kept of each stream; any block can be drawn again."""

FIRST_PIECES = 32
"""Pieces of a timeline that are made at first; then as many as there are."""

FIRST_SPANS = 32
"""Spans of our tasks beside a second service, for each of its instances, to begin with."""


class Arrays:
    """The `WORLD`, and arrays by the names of their addresses in it."""

    def __init__(self) -> None:
        self.world = np.zeros(1, layout.WORLD)
        self._arrays: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    def __setitem__(self, name: str, array: NDArray[Any]) -> None:
        self._arrays[name] = array
        self.world[name] = array.ctypes.data

    def get(self, name: str) -> int:
        """Return a whole number of the `WORLD`."""
        return int(self.world[name][0])

    def resize(self, name: str, rows: int) -> None:
        """Let an array grow or shrink, in place where the system can; new rows are zero."""
        array = self._arrays[name]
        array.resize((rows, *array.shape[1:]), refcheck=False)
        self.world[name] = array.ctypes.data

    def rows(self, name: str, free: str, spare: str, link: str, rows: int) -> None:
        """Let there be `rows` records, and string the new ones up as free ones by their field `link`."""
        before = len(self._arrays[name])
        self.resize(name, rows)
        self._arrays[name][link][before:] = np.arange(before + 1, rows + 1)
        self._arrays[name][link][-1] = self.get(free) if self.get(spare) else -1
        self.world[free] = before
        self.world[spare] += rows - before


class Blocks:
    """Streams whose draws the kernel reads block by block."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self._streams: list[Stream] = []
        self._tables: list[NDArray[np.int64]] = []
        self._kept: list[dict[int, NDArray[np.float64]]] = []
        arrays["streams"] = np.zeros(8, layout.STREAM)

    def add(self, stream: Stream) -> int:
        """Return the number by which the kernel knows the stream."""
        number = len(self._streams)
        if number == len(self._arrays["streams"]):
            self._arrays.resize("streams", 2 * number)
        self._streams.append(stream)
        self._kept.append({})
        self._tables.append(np.zeros(0, np.int64))
        self._table(number, 8)
        return number

    def fetch(self, number: int, block: int) -> int:
        """Draw a block and return its address; the block that has been here longest may have to go for it."""
        kept = self._kept[number]
        if block >= len(self._tables[number]):
            self._table(number, 2 * block)
        if len(kept) == KEPT_BLOCKS:
            oldest = next(iter(kept))
            del kept[oldest]
            self._tables[number][oldest] = 0
        kept[block] = drawn = np.ascontiguousarray(self._streams[number].block(block), np.float64)
        if drawn.shape != (BLOCK,):
            raise ValueError(f"a distribution drew an array of shape {drawn.shape} where {BLOCK} values were asked for")
        self._tables[number][block] = address = drawn.ctypes.data
        return address

    def _table(self, number: int, length: int) -> None:
        table = np.zeros(length, np.int64)
        table[: len(self._tables[number])] = self._tables[number]
        self._tables[number] = table
        self._arrays["streams"][number] = (table.ctypes.data, length)


class Line:
    """One instance's condition over time: where it comes from, and what of it the kernel has."""

    def __init__(self, record: Any, numbers: Iterable[tuple[float, float]]) -> None:
        self._record = record
        self._numbers = numbers if isinstance(numbers, SharedPieces) else iter(numbers)
        self._first = self._second = np.empty(0)

    def extend(self) -> None:
        """Let the kernel have as many pieces more as it has now."""
        count = int(self._record["count"])
        if isinstance(self._numbers, SharedPieces):
            self._set(*self._numbers.first(max(FIRST_PIECES, 2 * count)))
            return
        new = np.array(list(islice(self._numbers, max(FIRST_PIECES, count)))).reshape(-1, 2)
        if not len(new):
            raise ValueError("a straggler's timeline has ended")
        self._set(np.append(self._first[:count], new[:, 0]), np.append(self._second[:count], new[:, 1]))

    def end(self, second: float) -> None:
        """Let the last piece go on for ever, so that the kernel can end after an error."""
        self._set(np.append(self._first, np.inf), np.append(self._second, second))

    def _set(self, first: NDArray[np.float64], second: NDArray[np.float64]) -> None:
        self._first, self._second = first, second
        record = self._record
        record["first"], record["second"], record["count"] = first.ctypes.data, second.ctypes.data, len(first)


class ChainLine(Line):
    """Factors that are used up one by one: the kernel only has those to come."""

    def __init__(self, record: Any, numbers: Iterator[float]) -> None:
        super().__init__(record, ((number, 0.0) for number in numbers))

    def extend(self) -> None:
        """Let the kernel have the next factors."""
        self._record["count"] = self._record["at"] = 0
        super().extend()


class TrafficLine:
    """The pieces of time of bulk traffic, alike for all instances."""

    def __init__(self, record: Any, pieces: Iterator[Any], instances: int) -> None:
        self._record = record
        self._pieces = pieces
        self._instances = instances
        self._ends = np.empty(0)
        self._flows = np.empty((0, instances, 2), np.int64)
        self._waits = np.empty((0, instances, 2), np.float64)

    def extend(self) -> None:
        """Let the kernel have as many pieces more as it has now."""
        new = list(islice(self._pieces, max(FIRST_PIECES, len(self._ends))))
        flows = np.array([flows for _, flows, _ in new], np.int64).reshape(-1, self._instances, 2)
        waits = np.array([waits for _, _, waits in new]).reshape(-1, self._instances, 2)
        self._set([end for end, _, _ in new], flows, waits)

    def end(self) -> None:
        """Let there be no traffic any more, so that the kernel can end after an error."""
        self._set([np.inf], np.zeros((1, self._instances, 2), np.int64), np.zeros((1, self._instances, 2)))

    def _set(self, ends: list[float], flows: NDArray[np.int64], waits: NDArray[np.float64]) -> None:
        self._ends = np.append(self._ends, ends)
        self._flows = np.concatenate([self._flows, flows])
        self._waits = np.concatenate([self._waits, waits])
        record = self._record
        record["values"], record["flows"] = self._ends.ctypes.data, self._flows.ctypes.data
        record["waits"] = self._waits.ctypes.data
        record["count"] = len(self._ends)


class SecondService:
    """A second service on some instances, and the spans of our tasks there."""

    def __init__(self, form: Tenancy, lines: int) -> None:
        """`lines` is the address of its queues' arrivals."""
        count = len(form.places) - form.places.count(-1)
        self._rows = rows = np.zeros(1, layout.TENANCY)
        self._record = record = rows[0]
        self._states = np.zeros(2, layout.STATE)
        self._spans = np.zeros((2, count, FIRST_SPANS))
        self._kept: list[NDArray[Any]] = []
        record["slowdown"], record["mutual"], record["lag"] = form.slowdown, form.mutual, LAG
        record["shared"], record["count"], record["lines"] = len(form.arrivals) == 1, count, lines
        record["places"] = self._address(np.array(form.places, np.int64))
        record["states"] = self._states.ctypes.data
        for name in ("fronts", "backs"):
            record[name] = self._address(np.zeros(count, np.int64))
        for name in ("paces", "ends"):
            record[name] = self._address(np.zeros(count))
        for state in self._states:
            state["left"] = self._address(np.full(count, -1.0))
            state["idle"], state["resting"] = self._address(np.arange(count)), count
            for name in ("taken", "seen"):
                state[name] = self._address(np.zeros(count, np.int64))
        self._tell()

    @property
    def address(self) -> int:
        """Where the kernel finds it."""
        return self._rows.ctypes.data

    def grow(self) -> None:
        """Let there be room for twice as many spans on each instance."""
        self._spans = np.concatenate([self._spans, np.zeros_like(self._spans)], axis=2)
        self._tell()

    def _tell(self) -> None:
        self._record["starts"], self._record["finishes"] = (spans.ctypes.data for spans in self._spans)
        self._record["room"] = self._spans.shape[2]

    def _address(self, array: NDArray[Any]) -> int:
        self._kept.append(array)
        return array.ctypes.data
