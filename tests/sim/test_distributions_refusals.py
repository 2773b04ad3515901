"""What a user may write wrong about a distribution, and the sentence that comes back."""

import subprocess
import sys
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from sim.distributions import Distribution
from sim.kinds import about

EXPONENTIAL = {"kind": "exponential", "mean": 1}
LEFT_OUT = "Field required"


@pytest.mark.parametrize(
    ("yaml", "place", "says"),
    [
        (True, (), "a distribution is a mapping with 'kind', or the bare name of one"),
        ([1, 2], (), "a distribution is a mapping with 'kind', or the bare name of one"),
        ({"mean": 1}, (), "a distribution needs 'kind'"),
        ("exponental", (), "there is no distribution 'exponental' (did you mean 'exponential'?)"),
        ("20ms", (), "there is no distribution '20ms'"),
        ("deterministic", ("value",), LEFT_OUT),
        (-1, ("value",), "greater than or equal to 0"),
        ("inf", ("value",), "finite number"),
        ({"kind": "uniform", "low": 2, "high": 1}, (), "'low' (2) must be below 'high' (1)"),
        ({"kind": "uniform", "low": -1, "high": 1}, ("low",), "greater than or equal to 0"),
        ("exponential", (), "exactly one of 'mean' and 'rate'"),
        ({**EXPONENTIAL, "rate": 1}, (), "exactly one of 'mean' and 'rate'"),
        ({"kind": "exponential", "rate": 0}, ("rate",), "greater than 0"),
        ({"kind": "exponential", "mean": 1, "average": 1}, ("average",), "Extra inputs"),
        ({"kind": "shifted_exponential", "shift": -1, "mean": 1}, ("shift",), "greater than or equal to 0"),
        ({"kind": "gamma", "shape": 2}, ("mean",), LEFT_OUT),
        ({"kind": "gamma", "shape": 0, "mean": 1}, ("shape",), "greater than or equal to 0.01"),
        ({"kind": "erlang", "stages": 2.5, "mean": 1}, ("stages",), "integer"),
        ({"kind": "erlang", "stages": 0, "mean": 1}, ("stages",), "greater than or equal to 1"),
        ({"kind": "hyperexponential", "means": [], "weights": []}, ("means",), "at least 1 item"),
        ({"kind": "hyperexponential", "means": [1, 0], "weights": [1, 1]}, ("means", 1), "greater than 0"),
        (
            {"kind": "hyperexponential", "means": [1, 2], "weights": [1]},
            (),
            "one weight per mean, but there are 1 for 2",
        ),
        (
            {"kind": "hyperexponential", "means": [1], "weights": [0]},
            (),
            "at least one of the weights must be positive",
        ),
        ("lognormal", (), "either 'median' and 'sigma', or 'mean' and 'cv'"),
        ({"kind": "lognormal", "median": 1, "cv": 1}, (), "either 'median' and 'sigma', or 'mean' and 'cv'"),
        ({"kind": "lognormal", "median": 1, "sigma": 1, "mean": 1}, (), "either 'median' and 'sigma'"),
        ({"kind": "weibull", "shape": 0.01, "scale": 1}, ("shape",), "greater than or equal to 0.1"),
        ({"kind": "pareto", "shape": 2, "minimum": 0}, ("minimum",), "greater than 0"),
        ({"kind": "truncated", "of": EXPONENTIAL}, (), "needs 'low', 'high' or both"),
        ({"kind": "truncated", "of": EXPONENTIAL, "low": 2, "high": 2}, (), "'low' (2) must be below 'high' (2)"),
        (
            {"kind": "truncated", "of": EXPONENTIAL, "low": 50},
            (),
            "fewer than one value in 10,000 would lie above 50 s",
        ),
        ({"kind": "truncated", "of": 1, "high": 0.5}, (), "too few to draw from"),
        ({"kind": "truncated", "of": {**EXPONENTIAL, "mean": 0}, "high": 1}, ("of", "mean"), "greater than 0"),
        ({"kind": "bimodal", "low": 2, "high": 1, "probability": 0.5}, (), "'low' (2) must not be above 'high' (1)"),
        ({"kind": "bimodal", "low": 1, "high": 2, "probability": 1.5}, ("probability",), "less than or equal to 1"),
        ({"kind": "mixture", "parts": [1, 2], "weights": [1, 2, 3]}, (), "one weight per part, but there are 3 for 2"),
        ({"kind": "mixture", "parts": [1, 2], "weights": [1, -1]}, ("weights", 1), "greater than or equal to 0"),
        ({"kind": "mixture", "parts": [1, "x"], "weights": [1, 1]}, ("parts", 1), "there is no distribution 'x'"),
        ({"kind": "sum", "terms": []}, ("terms",), "at least 1 item"),
        ({"kind": "scaled", "of": 1, "factor": 0}, ("factor",), "greater than 0"),
        ({"kind": "scaled", "of": 1, "factor": 2, "offset": 1}, ("offset",), "Extra inputs"),
        ({"kind": "empirical", "file": "x.csv", "column": "t", "unit": "min"}, ("unit",), "'s', 'ms', 'us' or 'ns'"),
        ({"kind": "profile", "file": "x", "batch": 0}, ("batch",), "greater than or equal to 1"),
        (
            {"kind": "profile", "file": "x", "role": "frontend"},
            ("role",),
            "'backup', 'preprocess', 'backlog', 'encode', 'decode' or 'copy'",
        ),
    ],
)
def test_refuses(yaml: Any, place: tuple[str | int, ...], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Distribution).validate_python(yaml)
    found = {error["loc"]: error["msg"] for error in caught.value.errors()}
    assert says in found[place]


def test_all_members_are_there_and_documented() -> None:
    members = {name: kind for name, kind in Distribution.members().items() if kind.__module__.startswith("sim.")}
    assert list(members) == [
        "bimodal", "deterministic", "empirical", "erlang", "exponential", "gamma", "hyperexponential", "lognormal",
        "makespan", "mixture", "pareto", "profile", "scaled", "shifted_exponential", "stages", "sum", "truncated",
        "uniform", "weibull",
    ]  # fmt: skip
    for member in members.values():
        assert member.__doc__
        assert all(about(member, name) for name in member.model_fields if name != "kind")


def test_importing_them_imports_no_scipy_and_no_torch() -> None:
    code = "import sys, sim.distributions; print(*{'scipy', 'torch', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
