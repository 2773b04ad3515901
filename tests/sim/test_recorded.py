"""Slowness of recorded machines: what instances meet is what the tables say, and in the recorded order."""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from itertools import islice

import numpy as np
import pytest
from pydantic import ValidationError

from sim import recorded
from sim.network import Network
from sim.stragglers import Recorded
from sim.stragglers.base import ServiceModifier, Setting
from sim.streams import Streams
from sim.task import Task
from workloads.arrivals import Recorded as RecordedArrivals

SHORT = [name for name in recorded.SLOWNESS if name.endswith("-short")]
SERIES = [name for name in recorded.SLOWNESS if not name.endswith("-short")]


def table(name: str) -> dict[tuple[str, ...], list[tuple[float, float, float]]]:
    """Every machine's (step, seconds, slowdown) in the order of time, read without parm's reader."""
    found = defaultdict(list)
    with gzip.open(recorded.path(name), "rt") as file:
        for row in csv.DictReader(file):
            machine = tuple(row[key] for key in ("sku", "region", "vm", "worker") if key in row)
            found[machine].append((float(row.get("step", 0)), float(row["seconds"]), float(row["slowdown"])))
    return {machine: sorted(rows) for machine, rows in found.items()}


def modifier(straggler: Recorded, instances: int, trial: int = 0, number: int = 0) -> ServiceModifier:
    found = straggler.attach(Setting(Streams(1, trial), number, [(0, 0)] * instances, Network())).modifier
    assert found is not None
    return found


def factors(straggler: Recorded, instances: int, time: float = 0.0, trial: int = 0) -> np.ndarray:
    modify = modifier(straggler, instances, trial)
    task: Task = None  # type: ignore[assignment]
    return np.array([modify(task, one, time, 1e-9) * 1e9 for one in range(instances)])


@pytest.mark.parametrize("name", SHORT)
def test_quantiles_of_the_drawn_factors_are_those_of_the_table(name: str) -> None:
    """All machines at once are the table itself; few at a time, over trials, are an honest sample of it."""
    values = np.array([rows[0][2] for rows in table(name).values()])
    straggler = Recorded(name=name)
    np.testing.assert_allclose(np.sort(factors(straggler, len(values))), np.sort(values), rtol=1e-9)
    few = np.concatenate([factors(straggler, 20, trial=trial) for trial in range(300)])
    shares = np.array([0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
    within = (values[:, None] <= np.quantile(few, shares)).mean(axis=0)
    assert (np.abs(within - shares) < 4 * np.sqrt(shares * (1 - shares) / len(few)) + 0.001).all(), within
    np.testing.assert_allclose(np.median(values), 1.0, atol=1e-4)  # a factor is relative to the median machine


@pytest.mark.parametrize("name", SERIES)
def test_instances_meet_whole_series_in_the_recorded_order(name: str) -> None:
    """One turn of an instance's series is one machine's rows, from somewhere on and round again, each equally long."""
    rows = [[slowdown for _, _, slowdown in of_one] for of_one in table(name).values()]
    straggler, machines = Recorded(name=name), recorded.slowness(name)
    assert sorted(list(series.factors) for series in machines) == sorted(rows)
    for series in machines[:3]:
        pieces = list(islice(straggler._pieces(series, 0.3), 2 * len(series.factors) + 1))
        at = int(0.3 * len(series.factors))
        assert [factor for _, factor in pieces] == [
            *series.factors[at:], *series.factors, *series.factors[:at + 1],
        ]  # fmt: skip
        np.testing.assert_allclose(np.diff([end for end, _ in pieces]), series.holds)
        assert 0 < pieces[0][0] <= series.holds


def test_machines_are_drawn_without_replacement_and_differ_between_trials_and_stragglers() -> None:
    """Of 16 GPUs one is 2.5 times as slow: in every 16 instances there is exactly one, each time another."""
    straggler = Recorded(name="bytedance-gpu-2025-ar")
    slow = [np.flatnonzero(factors(straggler, 48, trial=trial) > 2) for trial in range(5)]
    assert all((places // 16).tolist() == [0, 1, 2] for places in slow)
    assert len({tuple(places) for places in slow}) == 5
    np.testing.assert_array_equal(factors(straggler, 48)[:12], factors(straggler, 12))  # whatever else is launched
    first, second = (modifier(straggler, 16, number=number) for number in (0, 1))
    task: Task = None  # type: ignore[assignment]
    assert any(first(task, one, 0.0, 1e-9) != second(task, one, 0.0, 1e-9) for one in range(16))


def test_a_slow_gpu_stays_slow_and_a_hidden_sequence_does_not() -> None:
    """Runs and stickiness are kept: worker 0.0 of `ar` is slow in every pass, `se` is slow a pass at a time."""
    ar = recorded.slowness("bytedance-gpu-2025-ar")
    assert sum(min(one.factors) > 2 for one in ar) == 1 and len(ar) == 16
    se = np.array([one.factors for one in recorded.slowness("bytedance-gpu-2025-se")])
    assert np.median(se) == pytest.approx(1.0, abs=0.01)
    assert ((se > 1.5).mean(axis=1) < 0.3).all()


def test_speed_plays_a_series_faster() -> None:
    name = "azure-vm-2024-redis-get-long"
    plain, fast = Recorded(name=name), Recorded(name=name, speed=1000)
    np.testing.assert_allclose(factors(plain, 24, time=1e6), factors(fast, 24, time=1e3), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "azure-vm-2024-redis-get-shrt"}, "did you mean 'azure-vm-2024-redis-get-short'"),
        ({"name": "azure-llm-2023-conv"}, "there is no such record as 'azure-llm-2023-conv'"),
        ({"name": 7}, "there is no such record as '7'"),
        ({"name": SHORT[0], "speed": 2}, "speed: each machine of .* has one factor"),
        ({"name": SERIES[-1], "speed": 1e9}, "speed: must be at most"),
        ({"name": SERIES[-1], "speed": 0}, "greater than 0"),
    ],
)
def test_refusals(options: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Recorded.model_validate(options)


def test_every_record_has_a_card_and_a_kind_that_reads_it() -> None:
    files = {file.name.removesuffix(".csv.gz") for file in recorded.FOLDER.glob("*.csv.gz")}
    assert files == set(recorded.CARDS)
    assert {Recorded(name=name).name for name in recorded.SLOWNESS} == set(recorded.SLOWNESS)
    assert {RecordedArrivals(name=name).name for name in recorded.ARRIVALS} == set(recorded.ARRIVALS)
    for card in recorded.CARDS.values():
        assert card.about and card.source and card.licence and len(card.limits) > 50
