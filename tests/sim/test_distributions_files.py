"""Distributions that are read from files: recorded times and measured profiles."""

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from sim.distributions import Distribution
from sim.files import read_times
from sim.kinds import Options

N = 20_000


class Machine(Options):
    service: Distribution


def make(yaml: Any, *folders: Path) -> Distribution:
    return Machine.model_validate({"service": yaml}, context={"paths": list(folders)}).service


def draws(distribution: Distribution, n: int = N) -> np.ndarray:
    return distribution.sample(np.random.Generator(np.random.Philox(7)), n)


def refusal(yaml: Any, *folders: Path) -> str:
    with pytest.raises(ValidationError) as caught:
        make(yaml, *folders)
    (error,) = caught.value.errors()
    return error["msg"]


@pytest.fixture
def record(tmp_path: Path) -> Path:
    (tmp_path / "times.csv").write_text("\ufeffduration, query\n3,0\n1,1\n\n2,2\n2,3\n", encoding="utf-8")
    return tmp_path


RECORD = {"kind": "empirical", "file": "times.csv", "column": "duration", "unit": "ms"}


def test_recorded_times_are_drawn_again(record: Path) -> None:
    ours = make(RECORD, record)
    assert ours.mean() == pytest.approx(0.002)
    np.testing.assert_allclose(
        ours.quantiles(np.array([0, 0.25, 0.26, 0.75, 0.76, 1])), [0.001, 0.001, 0.002, 0.002, 0.003, 0.003]
    )
    np.testing.assert_allclose(ours.cdf(np.array([-1, 0.0005, 0.001, 0.0025, 0.003])), [0, 0, 0.25, 0.75, 1])
    assert ours.mean_up_to(0.0025) == pytest.approx((1 + 2 + 2) / 4000)
    values, counts = np.unique(draws(ours), return_counts=True)
    np.testing.assert_allclose(values, [0.001, 0.002, 0.003])
    np.testing.assert_allclose(counts / N, [0.25, 0.5, 0.25], atol=4.5 * math.sqrt(0.25 / N))


def test_units(record: Path) -> None:
    means = [make({**RECORD, "unit": unit}, record).mean() for unit in ("s", "ms", "us")]
    assert means == pytest.approx([2, 2e-3, 2e-6])


def test_a_file_that_changed_is_read_again(record: Path) -> None:
    before = make(RECORD, record)
    (record / "times.csv").write_text("duration\n5\n")
    after = make(RECORD, record)
    assert (before.mean(), after.mean()) == pytest.approx((0.002, 0.005))
    assert before != after


def test_times_keep_the_order_of_the_file(record: Path) -> None:
    assert list(read_times(record / "times.csv", "duration")) == [3, 1, 2, 2]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("time\n1\n", "has no column 'duration'; it has time"),
        ("duratoin\n1\n", "has no column 'duration' (did you mean 'duratoin'?)"),
        ("", "has no column 'duration'; it has none"),
        ("duration\n", "has a header but no rows"),
        ("duration\n1\nfast\n", "line 3 of"),
        ("duration\n1\n-2\n", "has '-2' where a time of at least 0 belongs"),
        ("duration\nnan\n", "has 'nan' where a time of at least 0 belongs"),
        ("duration\ninf\n", "has 'inf' where a time of at least 0 belongs"),
        ("query,duration\n1\n", "has '' where a time of at least 0 belongs"),
    ],
)
def test_refuses_a_bad_record(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "times.csv").write_text(text)
    message = refusal(RECORD, tmp_path)
    assert says in message
    assert "times.csv" in message


@pytest.mark.parametrize("kind", [RECORD, {"kind": "profile", "file": "nowhere"}])
def test_says_where_it_looked(tmp_path: Path, kind: dict[str, Any]) -> None:
    other = tmp_path / "other"
    other.mkdir()
    message = refusal(kind, other, tmp_path)
    assert "there is no file" in message
    assert f"{other} or {tmp_path}" in message


def curve(p: list[float], seconds: list[float]) -> dict[str, list[float]]:
    return {"probabilities": p, "seconds": seconds}


ONE, FOUR = curve([0, 0.5, 1], [1, 2, 5]), curve([0, 0.9, 1], [4, 4, 14])
PROFILE = {"format": 1, "device": "a device", "network": "mlp", "how": "made up", "made": {}, "roles": {}}


def write(folder: Path, roles: Any, name: str = "gpu.json") -> Path:
    (folder / name).write_text(json.dumps({**PROFILE, "roles": roles}))
    return folder


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    return write(tmp_path, {"deployed": {"1": ONE, "4": FOUR}, "backup": {"2": ONE}})


def test_a_profile_is_its_inverse_cdf(profiles: Path) -> None:
    ours = make({"kind": "profile", "file": "gpu"}, profiles)
    p = np.array([0, 0.25, 0.5, 0.75, 1])
    x = [1, 1.5, 2, 3.5, 5]
    np.testing.assert_allclose(ours.quantiles(p), x)
    np.testing.assert_allclose(ours.cdf(np.array([-math.inf, 0.9, *x, 6, math.inf])), [0, 0, *p, 1, 1])
    assert ours.mean() == pytest.approx(0.5 * 1.5 + 0.5 * 3.5)
    assert ours.mean_up_to(3.5) == pytest.approx(0.5 * 1.5 + 0.25 * 2.75)
    drawn = np.sort(draws(ours))
    assert np.abs(ours.cdf(drawn) - (np.arange(N) + 0.5) / N).max() < 2.2 / math.sqrt(N)


def test_a_flat_stretch_is_a_jump(profiles: Path) -> None:
    ours = make({"kind": "profile", "file": "gpu", "batch": 4}, profiles)
    np.testing.assert_allclose(ours.cdf(np.array([3.999, 4, 9, 14])), [0, 0.9, 0.95, 1])
    assert ours.mean() == pytest.approx(0.9 * 4 + 0.1 * 9)
    assert ours.mean_up_to(4) == pytest.approx(0.9 * 4)
    write(profiles, {"deployed": {"1": curve([0, 0.5, 1], [1, 2, 2])}})
    np.testing.assert_allclose(
        make({"kind": "profile", "file": "gpu"}, profiles).cdf(np.array([1.5, 2, 3])), [0.25, 1, 1]
    )


@pytest.mark.parametrize(
    ("role", "size", "quantiles"),
    [
        ("deployed", 1, [1, 2, 4.4, 5]),
        ("deployed", 2, [2, 2 + 2 / 3, 4.4 - 0.4 / 3, 8]),
        ("deployed", 4, [4, 4, 4, 14]),
        ("deployed", 6, [6, 6, 6, 21]),
        ("deployed", 8, [8, 8, 8, 28]),
    ],
)
def test_batches_between_and_beyond_the_measured_sizes(
    profiles: Path, role: str, size: int, quantiles: list[float]
) -> None:
    asked = make({"kind": "profile", "file": "gpu", "role": role}, profiles).at_batch(size)
    written = make({"kind": "profile", "file": "gpu", "role": role, "batch": size}, profiles)
    assert asked == written
    assert asked is not None
    np.testing.assert_allclose(asked.quantiles(np.array([0, 0.5, 0.9, 1])), quantiles)


def test_a_profile_of_one_size_leaves_other_sizes_to_the_cluster(profiles: Path) -> None:
    """The backup's only measured batch is of two: what a batch of four costs is `cluster.batch_cost`'s to say."""
    backup = make({"kind": "profile", "file": "gpu", "role": "backup"}, profiles)
    assert backup.at_batch(2) is not None
    assert backup.at_batch(1) is None
    assert backup.at_batch(4) is None


def test_a_batch_size_is_worked_out_once(profiles: Path) -> None:
    ours = make({"kind": "profile", "file": "gpu"}, profiles)
    assert ours.at_batch(3) is ours.at_batch(3)
    with pytest.raises(ValueError, match="at least one query, not 0"):
        ours.at_batch(0)


def test_what_is_made_of_a_profile_knows_batches(profiles: Path) -> None:
    gpu = {"kind": "profile", "file": "gpu"}
    for yaml, mean in [
        ({"kind": "scaled", "of": gpu, "factor": 2, "shift": 1}, 2 * 4.5 + 1),
        ({"kind": "sum", "terms": [0.5, gpu, gpu]}, 0.5 + 9),
        ({"kind": "mixture", "parts": [gpu, 1], "weights": [3, 1]}, (3 * 4.5 + 1) / 4),
        ({"kind": "truncated", "of": gpu, "high": 4}, 4),
    ]:
        four = make(yaml, profiles).at_batch(4)
        assert four is not None
        assert four.mean() == pytest.approx(mean)


def test_profiles_come_back_from_plain_data_and_from_workers(profiles: Path) -> None:
    ours = make({"kind": "profile", "file": "gpu", "batch": 2}, profiles)
    data = ours.model_dump(mode="json", serialize_as_any=True)
    assert Path(data["file"]) == profiles / "gpu.json"
    assert TypeAdapter(Distribution).validate_python(data) == ours == pickle.loads(pickle.dumps(ours))


def test_two_profiles_of_one_name_are_told_apart(profiles: Path) -> None:
    first = make({"kind": "profile", "file": "gpu"}, profiles)
    write(profiles, {"deployed": {"1": FOUR}})
    second = make({"kind": "profile", "file": "gpu"}, profiles)
    assert first != second
    assert first.at_batch(4) != second.at_batch(4)


@pytest.mark.parametrize("name", ["gpu", "gpu.json", "{}/gpu", "{}/gpu.json"])
def test_ways_to_name_a_profile(profiles: Path, name: str) -> None:
    assert make({"kind": "profile", "file": name.format(profiles)}, profiles).quantile(1) == 5


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        ("[1]", "is malformed: Input should be"),
        (json.dumps({**PROFILE, "format": 2}), "is malformed at format: Input should be 1"),
        (
            json.dumps({**PROFILE, "roles": {"backup": {"1": ONE}}}),
            "has no service times for the role 'deployed'; it has backup",
        ),
        (
            json.dumps({**PROFILE, "roles": {"deployed": {"0": ONE}}}),
            "needs batch sizes, each at least 1",
        ),
        (json.dumps({**PROFILE, "roles": {"deployed": {"1": [1, 2]}}}), "at roles.deployed.1: "),
        (
            json.dumps({**PROFILE, "roles": {"deployed": {"1": curve([0, 1], [1, 2, 3])}}}),
            "2 probabilities but 3",
        ),
        (json.dumps({**PROFILE, "roles": {"deployed": {"1": curve([0.1, 1], [1, 2])}}}), "must go from 0 to 1"),
        (json.dumps({**PROFILE, "roles": {"deployed": {"1": curve([0, 0, 1], [1, 2, 3])}}}), "must increase"),
        (json.dumps({**PROFILE, "roles": {"deployed": {"1": curve([0, 1], [2, 1])}}}), "positive and never decrease"),
        (json.dumps({**PROFILE, "roles": {"deployed": {"1": curve([0, 1], [-1, 1])}}}), "positive and never decrease"),
        (json.dumps({**PROFILE, "roles": {"deployed": {"1": curve([0, 1], [0, 1])}}}), "positive and never decrease"),
        (json.dumps({**PROFILE, "roles": {"deployed": {"1": curve([0, 1], [1, math.inf])}}}), "a finite number"),
    ],
)
def test_refuses_a_bad_profile(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "gpu.json").write_text(text)
    message = refusal({"kind": "profile", "file": "gpu"}, tmp_path)
    assert says in message
    assert "gpu.json" in message
