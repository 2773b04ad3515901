"""Processes that are started never hear the terminal's Ctrl-C."""

from __future__ import annotations

import multiprocessing
import signal
import threading

from backends.processes import ignoring_sigint


def ignores(queue: multiprocessing.Queue[bool]) -> None:
    queue.put(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)


def told_of_a_process() -> bool:
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    process = spawn.Process(target=ignores, args=(queue,))
    with ignoring_sigint():
        process.start()
    told: bool = queue.get(timeout=60)
    process.join()
    return told


def test_a_process_ignores_interrupts_from_its_first_line_on_and_the_starter_hears_them_again() -> None:
    before = signal.getsignal(signal.SIGINT)
    assert told_of_a_process()
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
