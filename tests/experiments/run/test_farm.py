"""Worker processes: results in order, errors with their item, and no way to hang."""

from __future__ import annotations

import multiprocessing
import os
import signal
from contextlib import closing

import pytest

from experiments.run.farm import WorkerKilledError, in_order


def triple(item: int) -> bytes:
    """Answer with a megabyte, so that an answer is under way for a while; fail for 7, and die for 9."""
    if item == 7:
        raise LookupError("seven")
    if item == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return bytes([item]) * 1_000_000


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order(workers: int) -> None:
    answers = [take()[:1] for take in in_order(triple, list(range(7)), workers)]
    assert answers == [bytes([item]) for item in range(7)]
    assert not multiprocessing.active_children()


def test_an_error_belongs_to_its_item_and_the_others_go_on() -> None:
    seen: dict[int, str] = {}
    for item, take in zip(range(5, 12), in_order(triple, list(range(5, 12)), 2), strict=True):
        try:
            seen[item] = str(take()[0])
        except LookupError as error:
            seen[item] = str(error)
        except WorkerKilledError:
            seen[item] = "killed"
    assert seen == {5: "5", 6: "6", 7: "seven", 8: "8", 9: "killed", 10: "10", 11: "11"}


def test_when_every_worker_is_gone_the_rest_is_lost_but_nobody_waits() -> None:
    lost = 0
    for take in in_order(triple, [9, 9, 9, 9], 2):
        with pytest.raises(WorkerKilledError):
            take()
        lost += 1
    assert lost == 4


def test_workers_may_be_stopped_while_they_answer() -> None:
    """Many times over: what is terminated in the midst of a megabyte must not be waited for."""
    for _ in range(6):
        with closing(in_order(triple, [1, 2, 3, 4, 5, 6] * 2, 3)) as results:
            assert next(results)()[:1] == b"\x01"
        assert not multiprocessing.active_children()
