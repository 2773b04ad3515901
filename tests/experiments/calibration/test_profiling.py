"""`parm profile` of a network and its codes, and what a cluster draws from it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from experiments.calibration.profiling import Effort, measure_network
from experiments.commands.profile import profile
from parity.codes import Conditional, Exact
from parity.networks import LeNet5, Mlp
from sim.cluster import Cluster
from sim.distributions.profile import Profile
from sim.errors import ParmError
from sim.policies import Coded, Uncoded

ONCE = Effort("cpu", (1, 2), repeats=3)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_a_profile_says_what_made_it_and_measures_sums_of_two_three_and_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["parm", "profile", "--network", "mlp"])
    profile = measure_network(Mlp(hidden=(8,)), (1, 8, 8), 10, ONCE)
    assert {"torch", "python", "machine", "revision", "seed"} <= set(profile.made)
    assert profile.made["command"] == "parm profile --network mlp"
    coded = [f"{work} addition k={k} r=1" for k in (2, 3, 4) for work in ("encode", "decode")]
    assert list(profile.roles) == ["deployed", "parity", *coded]


def test_the_codes_of_an_experiments_policies_are_measured_with_their_own_parity_models(tmp_path: Path) -> None:
    policies = (Uncoded(), Coded(k=2, code=Conditional()), Coded(k=2, r=2, code=Exact()), Coded(k=2, r=2, code=Exact()))
    profile = measure_network(LeNet5(), (1, 28, 28), 10, ONCE, policies, Mlp(hidden=(8,)))
    assert profile.network == "lenet5, backup mlp"
    codes = ("conditional k=2 r=1", "exact k=2 r=2")
    coded = [f"{work} {code}" for code in codes for work in ("encode", "decode")]
    assert sorted(profile.roles) == sorted(["deployed", "parity", "backup", *coded])
    file = tmp_path / "p.json"
    profile.write(file)
    cluster = Cluster(
        instances=2,
        service=Profile(file=file),
        encode=Profile(file=file, role="encode", code=codes[0]),
        decode=Profile(file=file, role="decode", code=codes[1]),
    )
    assert cluster.encode.mean() == pytest.approx(profile.roles[f"encode {codes[0]}"][1].mean, rel=1e-6)
    assert cluster.decode.mean() == pytest.approx(profile.roles[f"decode {codes[1]}"][1].mean, rel=1e-6)


@pytest.mark.parametrize(("half", "precision"), [(False, "auto"), (True, "half")])
def test_the_command_leaves_precision_to_what_runs_settle_for(
    half: bool, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(network: object, shape: object, outputs: object, effort: Effort) -> None:
        assert effort.precision == precision
        raise ParmError("seen")

    monkeypatch.setattr("experiments.calibration.profiling.measure_network", measured)
    with pytest.raises(ParmError, match="seen"):
        profile(network="mlp", half=half, out=tmp_path / "profile.json")
