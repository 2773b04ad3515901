"""Processes that are started never get the terminal's Ctrl-C; a pool gives results in order, and cannot hang."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from backends.processes import Pool, WorkerKilledError, ignoring_sigint, start, stop


def tell(pipe: Connection) -> None:
    pipe.send(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)


def test_a_process_ignores_interrupts_from_its_first_line_on_and_the_starter_hears_them_again() -> None:
    before = signal.getsignal(signal.SIGINT)
    process, pipe = start(tell)
    assert pipe.poll(60)
    assert pipe.recv() is True
    with pytest.raises(EOFError):
        pipe.recv()  # the pipe ends with the process
    stop([process])
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_than_the_main_one_changes_nothing() -> None:
    # Signals can only be set in the main thread; in another one it would raise.
    before, found = signal.getsignal(signal.SIGINT), []

    def enter() -> None:
        with ignoring_sigint():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [before]


def triple(item: int) -> bytes:
    """Answer with a megabyte, so that an answer is under way for a while; fail for 7, and die for 9."""
    if item == 7:
        raise LookupError("seven")
    if item == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return bytes([item]) * 1_000_000


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order(workers: int) -> None:
    with Pool(workers) as pool:
        for first in (0, 100):  # a pool may be used again
            answers = [take()[:1] for take in pool.in_order(triple, list(range(first, first + 7)))]
            assert answers == [bytes([item]) for item in range(first, first + 7)]
    assert not multiprocessing.active_children()


def ten_times(item: int) -> bytes:
    return bytes([10 * item])


def test_processes_stay_for_the_next_items_whatever_is_done_with_them() -> None:
    with Pool(3) as pool:
        assert not pool.started
        assert [take() for take in pool.in_order(ten_times, [1])] == [bytes([10])]
        assert not pool.started  # not worth a process
        assert [take()[:1] for take in pool.in_order(triple, [1, 2])] == [bytes([1]), bytes([2])]
        first = {child.pid for child in multiprocessing.active_children()}
        assert [take() for take in pool.in_order(ten_times, [1, 2, 3])] == [bytes([10]), bytes([20]), bytes([30])]
        assert len(first) == 2
        assert first < {child.pid for child in multiprocessing.active_children()}


def test_a_worker_that_died_is_replaced_for_the_next_items() -> None:
    with Pool(2) as pool:
        killed = list(pool.in_order(triple, [9, 1]))
        with pytest.raises(WorkerKilledError):
            killed[0]()
        assert [take()[:1] for take in pool.in_order(triple, [1, 2])] == [bytes([1]), bytes([2])]
        assert len(multiprocessing.active_children()) == 2


def test_who_gives_up_gets_no_results_of_before() -> None:
    with Pool(2) as pool:
        for take in pool.in_order(triple, [1, 2, 3, 4]):
            assert take()[:1] == bytes([1])
            break
        assert [take() for take in pool.in_order(ten_times, [5, 6])] == [bytes([50]), bytes([60])]


def touch(path: str) -> None:
    Path(path).touch()


def test_workers_may_do_something_first_and_what_goes_wrong_in_it_is_ignored(tmp_path: Path) -> None:
    with Pool(2) as pool:
        pool.start(2, partial(touch, str(tmp_path / "done")))
        assert [take() for take in pool.in_order(ten_times, [1, 2])] == [bytes([10]), bytes([20])]
        assert (tmp_path / "done").exists()
    with Pool(2) as pool:
        pool.start(2, partial(touch, str(tmp_path / "no" / "file")))
        assert [take() for take in pool.in_order(ten_times, [1, 2])] == [bytes([10]), bytes([20])]


def test_an_error_belongs_to_its_item_and_the_others_go_on() -> None:
    seen: dict[int, str] = {}
    with Pool(2) as pool:
        for item, take in zip(range(5, 12), pool.in_order(triple, list(range(5, 12))), strict=True):
            try:
                seen[item] = str(take()[0])
            except LookupError as error:
                seen[item] = str(error)
            except WorkerKilledError:
                seen[item] = "killed"
    assert seen == {5: "5", 6: "6", 7: "seven", 8: "8", 9: "killed", 10: "10", 11: "11"}


def test_when_every_worker_is_gone_the_rest_is_lost_but_nobody_waits() -> None:
    lost = 0
    with Pool(2) as pool:
        for take in pool.in_order(triple, [9, 9, 9, 9]):
            with pytest.raises(WorkerKilledError):
                take()
            lost += 1
    assert lost == 4


def test_workers_may_be_stopped_while_they_answer() -> None:
    """Many times over: what is terminated in the midst of a megabyte must not be waited for."""
    for _ in range(6):
        with Pool(3) as pool:
            assert next(pool.in_order(triple, [1, 2, 3, 4, 5, 6] * 2))()[:1] == b"\x01"
        assert not multiprocessing.active_children()
