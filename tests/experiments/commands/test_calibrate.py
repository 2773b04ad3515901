"""Calibration: the fit finds what made the data, and profiles say what the fitted laws say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from pydantic import ValidationError
from typer.testing import CliRunner

from experiments.calibration.fitting import Residual, fit, residuals, simulated, summary, total_loss, workers
from experiments.calibration.options import Aim, Calibration
from experiments.calibration.profiles import TAIL, curve, profile_of
from experiments.commands.calibrate import calibrate
from experiments.config import loader
from experiments.run.cells import cells
from sim.distributions import Distribution
from sim.distributions.combined import Mixture
from sim.distributions.families import Deterministic, Exponential, Gamma
from sim.distributions.heavy import Weibull
from sim.distributions.profile import ServiceProfile
from sim.errors import ParmError

TRUTH = {"service": 0.02, "stall": 0.1}
EXPERIMENT: dict[str, Any] = {
    "name": "tiny",
    "trials": 1,
    "warmup": 100,
    "workload": {"arrivals": {"kind": "poisson", "rate": 100}, "queries": 4000},
    "cluster": {
        "instances": 4,
        "extra": 2,
        "service": {"kind": "mixture", "parts": [0.02, {"kind": "exponential", "mean": 0.1}], "weights": [19, 1]},
    },
    "policies": ["equal_resources"],
    "sweep": {"workload.arrivals.rate": [60, 120]},
}


def described(**changes: Any) -> dict[str, Any]:
    return {
        "experiment": EXPERIMENT,
        "free": {
            "service": {"keys": ["cluster.service.parts.0.value"], "start": 0.03, "low": 0.005, "high": 0.1},
            "stall": {"keys": ["cluster.service.parts.1.mean"], "start": 0.06, "low": 0.01, "high": 1},
        },
        "aims": {"p50": {"tolerance": 0.02}, "p999": {"tolerance": 0.07}},
        "targets": [
            {"policy": "equal_resources", "metric": "p50", "milliseconds": [20, 20]},
            {"policy": "equal_resources", "metric": "p999", "milliseconds": [400, None]},
        ],
        "search": [{"queries": 2000, "points": [1], "evaluations": 30}, {"queries": 4000, "evaluations": 40}],
        "profile": {"name": "tiny", "device": "none", "network": "none", "roles": {"deployed": "cluster.service"}},
        **changes,
    }


def true_targets() -> list[dict[str, Any]]:
    """What the cluster with TRUTH has."""
    todo = cells(Calibration.model_validate(described()).at(TRUTH))
    found = [simulated(cell) for cell in todo]
    return [
        {"policy": "equal_resources", "metric": metric, "milliseconds": [one[metric] * 1e3 for one in found]}
        for metric in ("p50", "p999")
    ]


def test_the_fit_finds_the_options_that_made_the_data_and_says_so() -> None:
    calibration = Calibration.model_validate(described(targets=true_targets()))
    said: list[str] = []
    with workers(1) as run:
        values = fit(calibration, run, said.append)
        assert values == fit(calibration, run, lambda _: None)
        found = residuals(calibration, values, run)
        start = residuals(calibration, {name: one.start for name, one in calibration.free.items()}, run)
    assert values == pytest.approx(TRUTH, rel=0.03)
    assert total_loss(found) < 1 < total_loss(start)
    assert all(one.met for one in found)
    assert not all(one.met for one in start)
    assert "p50: 2 of 2 within 2%" in summary(found)
    assert said[0].startswith("stage 1: loss ")
    profile = profile_of(calibration, values, found, "by a test")
    assert "p999: 2 of 2 within 7%" in profile.how
    assert profile.roles["deployed"][1].at(0.5) == pytest.approx(values["service"], rel=1e-4)


def test_processes_change_nothing() -> None:
    calibration = Calibration.model_validate(described())
    with workers(1) as alone, workers(2) as together:
        assert residuals(calibration, TRUTH, alone) == residuals(calibration, TRUTH, together)


def test_an_error_counts_in_units_of_the_noise_and_is_met_by_the_tolerance() -> None:
    aim = Aim(tolerance=0.05)
    plain, exact = (Residual("none", "p50", "", 0.100, 0.104, aim, noise) for noise in (None, 0.01))
    assert exact.loss == pytest.approx(plain.loss * (np.log(1.05) / np.log(1.01)) ** 2)
    assert plain.met
    assert exact.met
    targets = [{**target, "noise": 0.01} for target in described()["targets"]]
    with workers(1) as run:
        found = residuals(Calibration.model_validate(described(targets=targets)), TRUTH, run)
    assert {one.noise for one in found} == {0.01}


def test_values_beyond_a_bound_are_never_returned() -> None:
    free = {"service": {"keys": ["cluster.service.parts.0.value"], "start": 0.05, "low": 0.03, "high": 0.1}}
    calibration = Calibration.model_validate(described(free=free, targets=true_targets()))
    with workers(1) as run:
        assert fit(calibration, run, lambda _: None) == {"service": pytest.approx(0.03, rel=1e-3)}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"free": {"x": {"keys": ["cluster.speed"], "start": 1, "low": 1, "high": 2}}}, "no number 'cluster.speed'"),
        ({"free": {"x": {"keys": ["cluster.service"], "start": 1, "low": 1, "high": 2}}}, "no number"),
        ({"free": {"x": {"keys": ["cluster.instances"], "start": 3, "low": 1, "high": 2}}}, "'start' .3. must be"),
        ({"targets": [{"policy": "coded", "metric": "p50", "milliseconds": [1, 1]}]}, "no policy 'coded'"),
        ({"targets": [{"policy": "equal_resources", "metric": "p50", "milliseconds": [1]}]}, "1 'milliseconds' for 2"),
        ({"targets": [{"policy": "equal_resources", "metric": "p99", "milliseconds": [1, 1]}]}, "no tolerance for p99"),
        ({"search": [{"queries": 9, "points": [2]}]}, "go from 0 to 1"),
        (
            {"profile": {"name": "a", "device": "b", "network": "c", "roles": {"deployed": "cluster.instances"}}},
            "'cluster.instances' is no distribution",
        ),
    ],
)
def test_a_calibration_that_does_not_fit_together_is_refused(changes: dict[str, Any], sentence: str) -> None:
    Calibration.model_validate(described())
    with pytest.raises(ValidationError, match=sentence):
        Calibration.model_validate(described(**changes))


@pytest.mark.parametrize(
    "law",
    [
        Weibull(shape=14, scale=0.014),
        Gamma(shape=0.2, mean=0.002),
        Mixture(parts=(Exponential(mean=0.0076), Deterministic(value=0)), weights=(0.14, 1)),
    ],
)
def test_a_written_curve_is_the_law(law: Distribution) -> None:
    written = curve(law)
    p = np.concatenate([np.logspace(-8, -1, 200), np.linspace(0.1, 0.9, 200), 1 - np.logspace(-1, -8, 200)])
    exact = law.quantiles(p)
    mean = law.mean()
    assert exact is not None
    assert mean is not None
    assert written.probabilities[1] == pytest.approx(TAIL)
    np.testing.assert_allclose([written.at(one) for one in p], exact, rtol=1e-3, atol=1e-5 * mean)
    assert written.mean == pytest.approx(mean, rel=1e-3)


def command(*words: str) -> Any:
    app = typer.Typer()
    app.command()(calibrate)
    return CliRunner().invoke(app, list(words))


def test_the_command_fits_and_writes(tmp_path: Path) -> None:
    file, out = tmp_path / "tiny.yaml", tmp_path / "tiny.json"
    file.write_text(yaml.safe_dump(described(search=[{"queries": 500, "evaluations": 3}])))
    done = command(str(file), "--out", str(out), "--workers", "1")
    assert done.exit_code == 0, done.output
    assert "equal_resources" in done.output
    assert "400.00" in done.output
    assert "parm calibrate tiny.yaml" in ServiceProfile.read(out).how
    again = tmp_path / "again.json"
    command(str(file), "--out", str(again), "--workers", "1")
    assert again.read_bytes() == out.read_bytes()


def test_recorded_times_become_a_profile(tmp_path: Path) -> None:
    file, out = tmp_path / "times.csv", tmp_path / "mine.json"
    times = np.linspace(10, 30, 1001)
    file.write_text("n,took\n" + "".join(f"{n},{time}\n" for n, time in enumerate(times)))
    words = ("--column", "took", "--unit", "ms", "--machine", "a shelf", "--network", "lenet5", "--role", "parity")
    done = command(str(file), "--out", str(out), *words)
    assert done.exit_code == 0, done.output
    profile = ServiceProfile.read(out)
    assert profile.roles["parity"][1].at(0.5) == pytest.approx(0.020)
    assert (profile.device, profile.network) == ("a shelf", "lenet5")
    assert "1001 times in column 'took' (ms) of times.csv" in profile.how


@pytest.mark.parametrize(
    ("text", "words", "sentence"),
    [
        ("took\n1\n", ("--column", "tok"), "did you mean 'took'"),
        ("took\n0\n", ("--column", "took"), "must be above 0"),
        ("took\n1\n", ("--column", "took", "--unit", "h"), "--unit h: must be one of s, ms, us"),
        ("took\n1\n", ("--column", "took", "--role", "boss"), "--role boss: must be one of deployed"),
    ],
)
def test_times_that_are_none_are_refused(tmp_path: Path, text: str, words: tuple[str, ...], sentence: str) -> None:
    file = tmp_path / "times.csv"
    file.write_text(text)
    refused = command(str(file), *words).exception
    assert isinstance(refused, ParmError)
    assert sentence in str(refused)


def test_times_that_are_not_there_and_a_profile_that_cannot_be_written_are_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "times.csv"
    assert str(command(str(file)).exception) == f"{file}: there is no such file."
    file.write_text("took\n1\n")
    refused = command(str(file), "--column", "tok", "--out", str(file / "mine.json")).exception
    assert str(refused).startswith(f"{file / 'mine.json'} cannot be written: "), "before anything is read or fitted"


def test_a_calibration_s_mistakes_are_told_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(described(search=[{"queries": -1}])))
    with pytest.raises(ParmError, match=r"bad.yaml:\d+: search.0.queries: "):
        loader.load_as(Calibration, file)
