"""Service-time profiles as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.distributions.profile import Profile, Quantiles, ServiceProfile

PROFILES = Path(__file__).parents[2] / "backends" / "profiles"


def profile(**changes: Any) -> ServiceProfile:
    times = np.random.default_rng(3).lognormal(-7, 0.4, 2000)
    fields: dict[str, Any] = {
        "device": "a test’s clock",
        "network": "mlp",
        "how": "made up [as  so]",
        "made": {"torch": "0"},
        "roles": {"deployed": {1: Quantiles.of(times), 4: Quantiles.of(times * 3)}},
    }
    return ServiceProfile(**{**fields, **changes})


def test_a_profile_reads_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "one.json"
    profile().write(path)
    assert ServiceProfile.read(path) == profile()
    first = path.read_bytes()
    ServiceProfile.read(path).write(path)
    assert path.read_bytes() == first
    plain = json.loads(first)
    assert plain["format"] == 1
    assert set(plain["roles"]["deployed"]) == {"1", "4"}
    assert max(map(len, first.decode().splitlines())) > 1000, "each list is to stand on one line"


def test_the_simulator_draws_from_what_was_written(tmp_path: Path) -> None:
    profile().write(tmp_path / "one.json")
    drawn = Profile(file=tmp_path / "one.json", role="deployed", batch=4)
    kept = profile().roles["deployed"][4]
    probabilities = np.array([0, 0.303, 0.5, 0.9991, 1])
    np.testing.assert_allclose(drawn.quantiles(probabilities), [kept.at(p) for p in probabilities], rtol=1e-12)
    assert drawn.mean() == pytest.approx(kept.mean, rel=1e-12)


def test_the_quantiles_keep_the_whole_distribution() -> None:
    times = np.random.default_rng(5).exponential(0.01, 100_000) + 1e-3
    kept = Quantiles.of(times)
    assert kept.seconds[0] == pytest.approx(times.min(), abs=1e-9)
    assert kept.seconds[-1] == pytest.approx(times.max(), abs=1e-9)
    for probability in (0.5, 0.99, 0.999, 0.9999):
        assert kept.at(probability) == pytest.approx(np.quantile(times, probability), abs=1e-8)
    assert kept.mean == pytest.approx(times.mean(), rel=0.01)


@pytest.mark.parametrize(("count", "finest"), [(1, 0.99), (100, 0.99), (200, 0.995), (1000, 0.999), (10_000, 0.9999)])
def test_no_tail_quantile_is_claimed_beyond_the_measurements(count: int, finest: float) -> None:
    kept = Quantiles.of(np.linspace(0.001, 0.002, count))
    assert kept.probabilities[-2:] == (finest, 1.0)


GOOD: dict[str, Any] = {
    "format": 1,
    "device": "d",
    "network": "n",
    "how": "h",
    "made": {},
    "roles": {"deployed": {"1": {"probabilities": [0, 0.5, 1], "seconds": [1, 2, 3]}}},
}


def times(probabilities: list[Any], seconds: list[Any], size: str = "1") -> dict[str, Any]:
    return {**GOOD, "roles": {"deployed": {size: {"probabilities": probabilities, "seconds": seconds}}}}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([], "is malformed: Input should be"),
        ({**GOOD, "format": 2}, "at format: Input should be 1"),
        ({**GOOD, "colour": "red"}, "at colour: Extra inputs are not permitted"),
        ({key: value for key, value in GOOD.items() if key != "roles"}, "at roles: Field required"),
        ({**GOOD, "roles": {}}, "at roles: .* at least 1 item"),
        ({**GOOD, "roles": {"deployed": {}}}, "role 'deployed' needs batch sizes"),
        ({**GOOD, "roles": {"spare": {}}}, "at roles.spare"),
        (times([0, 1], [1, 2], "0"), "batch sizes, each at least 1"),
        (times([0, 1], [1, 2], "many"), "at roles.deployed.many"),
        (times([0, 1], [1, 2, 3]), "roles.deployed.1: there are 2 probabilities but 3 seconds"),
        (times([0, 0.9], [1, 2]), "the probabilities must go from 0 to 1"),
        (times([0, 0.5, 0.5, 1], [1, 2, 3, 4]), "the probabilities must increase"),
        (times([0, 0.5, 1], [1, 3, 2]), "the seconds must be positive and never decrease"),
        (times([0, 1], [0, 2]), "the seconds must be positive"),
        (times([0, 1], [1, float("nan")]), "seconds.1: Input should be a finite number"),
        (times([0, 1], [1, "slow"]), "seconds.1: Input should be a valid number"),
    ],
)
def test_a_malformed_profile_is_refused_in_one_sentence(tmp_path: Path, content: object, sentence: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(GOOD))
    ServiceProfile.read(path)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=sentence) as refused:
        ServiceProfile.read(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_profile_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        ServiceProfile.read(tmp_path / "none.json")
    (tmp_path / "text.json").write_text('{"format": 1,\n oops')
    with pytest.raises(ValueError, match=r"is not JSON: .* in line 2"):
        ServiceProfile.read(tmp_path / "text.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not UTF-8"):
        ServiceProfile.read(tmp_path / "bytes.json")


def test_the_profiles_that_come_with_the_project_can_be_read() -> None:
    found = sorted(PROFILES.glob("*.json"))
    assert found
    for path in found:
        assert "deployed" in ServiceProfile.read(path).roles
