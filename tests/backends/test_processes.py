"""Processes that are started never get the terminal's Ctrl-C; a pool gives results in order, and cannot hang."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection

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
    with Pool(triple, workers) as pool:
        for first in (0, 100):  # a pool may be used again
            answers = [take()[:1] for take in pool.in_order(list(range(first, first + 7)))]
            assert answers == [bytes([item]) for item in range(first, first + 7)]
    assert not multiprocessing.active_children()


def test_an_error_belongs_to_its_item_and_the_others_go_on() -> None:
    seen: dict[int, str] = {}
    with Pool(triple, 2) as pool:
        for item, take in zip(range(5, 12), pool.in_order(list(range(5, 12))), strict=True):
            try:
                seen[item] = str(take()[0])
            except LookupError as error:
                seen[item] = str(error)
            except WorkerKilledError:
                seen[item] = "killed"
    assert seen == {5: "5", 6: "6", 7: "seven", 8: "8", 9: "killed", 10: "10", 11: "11"}


def test_when_every_worker_is_gone_the_rest_is_lost_but_nobody_waits() -> None:
    lost = 0
    with Pool(triple, 2) as pool:
        for take in pool.in_order([9, 9, 9, 9]):
            with pytest.raises(WorkerKilledError):
                take()
            lost += 1
    assert lost == 4


def test_workers_may_be_stopped_while_they_answer() -> None:
    """Many times over: what is terminated in the midst of a megabyte must not be waited for."""
    for _ in range(6):
        with Pool(triple, 3) as pool:
            assert next(pool.in_order([1, 2, 3, 4, 5, 6] * 2))()[:1] == b"\x01"
        assert not multiprocessing.active_children()
