"""The event loop: SimPy's events and ours in one heap, and cancelled entries that leave it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st

from sim.clock import COMPACT_ABOVE, Call, Clock


@given(st.lists(st.floats(0, 100), max_size=40), st.floats(0, 100))
def test_entries_happen_in_order_of_time_and_ties_in_order_of_scheduling(times: list[float], until: float) -> None:
    clock = Clock()
    happened: list[tuple[float, int]] = []
    for number, time in enumerate(times):
        clock.at(time, Call(lambda call: happened.append((clock.now, call.item)), number))
    clock.advance(until)
    assert clock.now == until
    expected = sorted((time, number) for number, time in enumerate(times))
    assert happened == [pair for pair in expected if pair[0] <= until]
    clock.drain()
    assert happened == expected


def test_simpy_processes_share_the_clock() -> None:
    clock = Clock()
    seen: list[tuple[str, float]] = []

    def process() -> Iterator[simpy.Event]:
        for _ in range(3):
            yield clock.timeout(2.0)
            seen.append(("process", clock.now))

    clock.process(process())
    clock.at(3.0, Call(lambda _: seen.append(("callback", clock.now)), None))
    clock.drain()
    assert seen == [("process", 2.0), ("callback", 3.0), ("process", 4.0), ("process", 6.0)]


def test_a_failing_process_is_not_swallowed() -> None:
    clock = Clock()

    def process() -> Iterator[simpy.Event]:
        yield clock.timeout(1.0)
        raise LookupError("a fault in a model of the network")

    clock.process(process())
    with pytest.raises(LookupError, match="a fault"):
        clock.drain()


def test_cancelled_entries_do_not_happen_and_leave_the_heap() -> None:
    clock = Clock()
    happened: list[int] = []
    calls = [Call(lambda call: happened.append(call.item), number) for number in range(10_000)]
    for call in calls:
        clock.at(1000.0 + call.item, call)
        if call.item % 100:
            clock.cancel(call)
        assert len(clock.heap) <= 2 * (call.item // 100 + 1) + COMPACT_ABOVE + 1
    clock.drain()
    assert happened == list(range(0, 10_000, 100))
