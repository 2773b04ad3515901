"""Replayed slowness: which recorded instance slows which machine, and when."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from sim.network import Network
from sim.stragglers import Replay
from sim.stragglers.base import Setting
from sim.stragglers.replay import natural
from sim.streams import Streams
from sim.task import Task


def replay(folder: Path, text: str, name: str = "slow.csv", **options: object) -> Replay:
    (folder / name).write_text(text)
    return Replay.model_validate({"file": name, **options}, context={"paths": [folder]})


def factors(straggler: Replay, instances: int, times: list[float]) -> list[list[float]]:
    """The factor that each instance has at each time."""
    modify = straggler.attach(Setting(Streams(0), 0, [(0, 0)] * instances, Network())).modifier
    assert modify is not None
    task: Task = None  # type: ignore[assignment]
    return [[round(modify(task, one, time, 1e-6) * 1e6, 3) for time in times] for one in range(instances)]


def record(*instances: str, slow: str) -> str:
    rows = [f"{time},{10 if one == slow else 1},{one}" for one in instances for time in (0, 100)]
    return "\n".join(["time,factor,instance", *rows])


@pytest.mark.parametrize("name", ["{}", "gpu{}", "rack1-gpu{:03d}", "{}.0"])
def test_recorded_instances_are_taken_in_natural_order(tmp_path: Path, name: str) -> None:
    names = [name.format(number) for number in range(12)]
    for order in (names, sorted(names), names[::-1]):
        ours = replay(tmp_path, record(*order, slow=names[2]), aligned=True)
        assert ours.recorded == tuple(names)
        assert [of_one[0] for of_one in factors(ours, 12, [50])] == [1, 1, 10, *[1] * 9]


def test_natural_order() -> None:
    names = ["a", "a1", "a02", "a10", "b", "7", "10", "", "0", "00", "1" * 5000]
    assert sorted(names, key=natural) == ["", "0", "00", "7", "10", "1" * 5000, "a", "a1", "a02", "a10", "b"]


OFFSET = "time,factor,instance\n0,1,0\n10,1,0\n20,1,0\n30,1,0\n5,1,1\n15,10,1\n25,1,1\n35,1,1\n"


def test_an_aligned_record_has_one_clock(tmp_path: Path) -> None:
    """Instance 1 is slow from 15 s to 25 s on instance 0's clock, and again one whole record, of 45 s, later."""
    times = [2.0, 14, 15, 24, 25, 40, 46, 59, 60.0, 69, 70]
    for text in (OFFSET, re.sub(r"(?m)^(\d+)", lambda found: f"17000000{int(found[0]):02d}", OFFSET)):
        ours = factors(replay(tmp_path, text, aligned=True), 2, times)
        assert ours == [[1.0] * len(times), [1, 1, 10, 10, 1, 1, 1, 1, 10, 10, 1]]


def test_time_0_can_be_any_moment_of_the_record(tmp_path: Path) -> None:
    assert factors(replay(tmp_path, OFFSET, aligned=True, origin=10), 2, [4, 5, 14, 15])[1] == [1, 10, 10, 1]
    assert factors(replay(tmp_path, OFFSET, aligned=True, origin=-10), 2, [24, 25, 34, 35])[1] == [1, 10, 10, 1]
    with pytest.raises(ValidationError, match="origin: needs 'aligned: true'"):
        replay(tmp_path, OFFSET, origin=10)


def test_spellings_of_the_record(tmp_path: Path) -> None:
    for text in (
        "\ufefftime, factor\n0,1\n10,4\n",
        '{"time": 0, "factor": 1}\n{"time": 10, "factor": 4}\n',
        "time,factor\n2024-05-01T12:00:00Z,1\n2024-05-01T12:00:10Z,4\n",
    ):
        assert factors(replay(tmp_path, text, aligned=True), 1, [9, 10, 19, 20]) == [[1, 4, 4, 1]]
    milliseconds = replay(tmp_path, "time,factor\n0,1\n10000,4\n", aligned=True, unit="ms")
    assert factors(milliseconds, 1, [9, 10, 19, 20]) == [[1, 4, 4, 1]]


def test_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "slow.csv").write_text(OFFSET)
    assert Replay.model_validate({"file": "~/slow.csv"}).recorded == ("0", "1")


def test_gaps_that_would_never_end_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="1e-300 s apart on average; at least 1e-06 s"):
        replay(tmp_path, "time,factor\n0,1\n1e-300,2\n")
    np.testing.assert_allclose(replay(tmp_path, "time,factor\n0,1\n1e-6,2\n")._record.length, 2e-6)
