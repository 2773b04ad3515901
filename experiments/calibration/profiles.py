"""Writes fitted or recorded service times as a profile that documents its origin."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from experiments.calibration.fitting import Residual, Values, describe, summary
from experiments.calibration.options import Calibration, at_key
from sim.distributions import Distribution
from sim.distributions.profile import Quantiles, RoleName, ServiceProfile
from sim.errors import ParmError
from sim.trace import Floats

TAIL = 1e-9
"""A written curve covers the quantiles from this probability to one minus it."""
CLOSE = 5e-4
"""Largest error of interpolation: this fraction of the value, or 1% of this fraction of the mean."""


def curve(distribution: Distribution) -> Quantiles:
    """Return a distribution's inverse CDF on a grid such that linear interpolation is accurate to `CLOSE`.

    Intervals are halved in log(p / (1 - p)), which resolves both tails, until they are short enough. Raises ParmError
    if the distribution has no quantiles in closed form.
    """
    mean = distribution.mean()
    edge = math.log(1 / TAIL - 1)
    logits = np.linspace(-edge, edge, 33)
    if mean is None or _quantiles(distribution, logits) is None:
        raise ParmError(f"a distribution of kind '{distribution.name_in_yaml()}' has no quantiles to write.")
    while True:
        middles = (logits[1:] + logits[:-1]) / 2
        seconds, exact = _quantiles(distribution, logits), _quantiles(distribution, middles)
        assert seconds is not None and exact is not None
        off = np.abs(np.interp(_probability(middles), _probability(logits), seconds) - exact)
        bad = (off > CLOSE * np.maximum(exact, 0.01 * mean)) & (np.diff(logits) > 1e-6)
        if not bad.any():
            break
        logits = np.sort(np.concatenate([logits, middles[bad]]))
    times = [float(f"{max(value, 1e-12):.6g}") for value in seconds]
    probabilities = (0.0, *(float(f"{p:.12g}") for p in _probability(logits)), 1.0)
    return Quantiles(probabilities=probabilities, seconds=(times[0], *times, times[-1]))


def _probability(logits: Floats) -> Floats:
    found: Floats = 1 / (1 + np.exp(-logits))
    return found


def _quantiles(distribution: Distribution, logits: Floats) -> Floats | None:
    return distribution.quantiles(_probability(logits))


def profile_of(calibration: Calibration, values: Values, found: Sequence[Residual], how: str) -> ServiceProfile:
    """Return the fitted distributions as a profile whose `how` documents their origin."""
    fitted = calibration.at(values)
    written = calibration.profile
    experiment = calibration.experiment
    laws: dict[RoleName, Distribution] = {role: at_key(fitted, key) for role, key in written.roles.items()}
    spelt = [f"{role} {law.model_dump_json(by_alias=True, serialize_as_any=True)}" for role, law in laws.items()]
    return ServiceProfile(
        device=written.device,
        network=written.network,
        how=f"calibrated, not measured: {how}; seed {experiment.seed}; targets: the {len(found)} of that file; "
        f"fit: {describe(values)}; laws: {', '.join(spelt)}; residuals at {experiment.trials} trials of "
        f"{experiment.workload.queries} queries: {summary(found)}",
        roles={role: {1: curve(law)} for role, law in laws.items()},
    )


def profile_from_times(file: Path, column: str, unit: str, role: RoleName, device: str, network: str) -> ServiceProfile:
    """Return the profile of recorded service times, a column of a CSV file. Raises ParmError for invalid files."""
    from sim.files import read_times

    if not file.is_file():
        raise ParmError(f"{file}: there is no such file.")
    try:
        seconds = read_times(file, column, unit)
        curve_of = Quantiles.of(seconds)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    except ValidationError as error:
        raise ParmError(f"{file}: the times in '{column}' must be above 0.") from error
    except (ValueError, OSError) as error:
        raise ParmError(f"{error}.") from error
    how = f"measured: {len(seconds)} times in column '{column}' ({unit}) of {file.name}, sha256 {digest}"
    return ServiceProfile(device=device, network=network, how=how, roles={role: {1: curve_of}})
