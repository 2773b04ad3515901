"""Worker processes: what they answer, how they are slowed down, and that none is ever left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

from backends.real.workers import Answer, Setup, WorkerDiedError, Workers
from sim.errors import ParmError
from tests.real import Counting, Echo, Failing, Unready, alive, gone

ROOT = Path(__file__).parent.parent.parent
ONE = np.ones(1, np.float32)


def ask(workers: Workers, worker: int, model: int = 0, factor: float = 1.0) -> Answer:
    workers.send(worker, model, factor, ONE)
    (answer,) = workers.wait(None)
    return answer


def test_each_worker_runs_the_model_that_it_is_asked_for() -> None:
    with Workers(Counting(), 2) as workers:
        before = perf_counter()
        workers.send(1, 5, 1.0, ONE)
        workers.send(0, 3, 1.0, ONE)
        answers: dict[int, Answer] = {}
        while len(answers) < 2:
            answers |= {answer.worker: answer for answer in workers.wait(None)}
        assert answers[0].outputs.tolist() == [0, 3, 1]
        assert answers[1].outputs.tolist() == [1, 5, 1]
        for answer in answers.values():
            assert before <= answer.begun <= answer.ended <= perf_counter()
        assert workers.wait(0) == []
        pids = workers.pids
        assert all(alive(pid) for pid in pids)
    assert gone(pids, 0)


def test_a_slowdown_is_further_passes_and_fractions_add_up() -> None:
    factors = [1.0, 4.0, 2.5, 2.5, 1.2, 1.2, 1.2, 1.2, 1.2, 1.0]
    with Workers(Counting(), 1) as workers:
        passes = [int(ask(workers, 0, factor=factor).outputs[2]) for factor in factors]
        following = int(ask(workers, 0).outputs[2])
    # What an answer says was counted in its own first pass; what follows it is seen by the next one.
    assert np.diff([*passes, following]).tolist() == [1, 4, 2, 3, 1, 1, 1, 1, 2, 1]


def test_a_failure_is_one_sentence_and_a_death_is_noticed() -> None:
    with Workers(Failing(), 2) as workers:
        with pytest.raises(ParmError, match=r"^worker 0 failed: RuntimeError: out of luck$"):
            ask(workers, 0)
        with pytest.raises(WorkerDiedError, match=r"^worker 1 \(process \d+\) ended with exit status 7 during the run"):
            ask(workers, 1, model=1)
        with pytest.raises(WorkerDiedError):
            workers.send(1, 0, 1.0, ONE)


def test_an_idle_worker_that_is_killed_is_noticed() -> None:
    with Workers(Echo(), 2) as workers:
        os.kill(workers.pids[1], signal.SIGKILL)
        with pytest.raises(WorkerDiedError, match=r"worker 1 .* by signal 9"):
            workers.wait(None)


def test_a_setup_that_fails_leaves_nobody_behind() -> None:
    with pytest.raises(ParmError, match="worker 1 could not be set up: OSError: no such device"):
        Workers(Unready(), 2)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_frontend(how: signal.Signals) -> None:
    program = (
        "import time\nfrom backends.real.workers import Workers\nfrom tests.real import Echo\n"
        "if __name__ == '__main__':\n"
        "    with Workers(Echo(), 2) as workers:\n"
        "        print(*workers.pids, flush=True)\n        time.sleep(60)\n"
    )
    frontend = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert frontend.stdout is not None
        pids = [int(word) for word in frontend.stdout.readline().split()]
        assert len(pids) == 2
        assert all(alive(pid) for pid in pids)
        frontend.send_signal(how)
        _, said = frontend.communicate(timeout=20)
        assert gone(pids)
        assert said.count("Traceback") <= (how == signal.SIGINT)  # the frontend's own, and no worker's
    finally:
        frontend.kill()


def test_a_setup_is_a_callable_that_makes_a_service() -> None:
    setup: Setup = Echo(seconds=0)
    assert setup(0)(0, ONE) is ONE
