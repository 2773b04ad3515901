"""Measures the service times of a network on this machine, for `parm profile`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import ValidationError

from experiments.config.messages import sentences
from experiments.config.schema import Model
from experiments.run.manifest import command_line, git_revision
from experiments.run.models import load_data
from parity.codes import Addition, TensorCode
from parity.networks import Network
from parity.shape import Shape
from sim.errors import ParmError
from sim.kinds import Options
from sim.policies import Coded, Policy

if TYPE_CHECKING:
    from torch import nn

    from backends.measuring import TimedCode
    from backends.runner import Precision
    from sim.distributions.profile import RoleName, ServiceProfile

SEED = 0
"""Seed of the untrained weights and of the random inputs."""

DEFAULT_POLICIES = tuple(Coded(k=k) for k in (2, 3, 4))


class _Named(Options):
    network: Network


def parse_network(text: str) -> Network:
    """Read a network in YAML notation. Raises ParmError if it is invalid."""
    try:
        data = {"network": yaml.safe_load(text)}
        return _Named.model_validate(data).network
    except yaml.YAMLError as error:
        raise ParmError(f"--network {text}: is not YAML.") from error
    except ValidationError as error:
        key, says = sentences(error, data, _Named)[0]
        where = ".".join(str(part) for part in key[1:])
        raise ParmError(f"--network {text}: {where + ': ' if where else ''}{says}") from error


@dataclass(frozen=True, slots=True)
class Effort:
    """Extent of the measurement."""

    device: str
    batches: Sequence[int]
    repeats: int
    precision: Precision = "auto"
    contention: int = 0
    """Processes that load the device during the measurement."""


def measure_network(
    network: Network,
    shape: Shape,
    outputs: int,
    effort: Effort,
    policies: Sequence[Policy] = DEFAULT_POLICIES,
    backup: Network | None = None,
) -> ServiceProfile:
    """Measure untrained networks, which are as fast as trained ones, as deployed, parity and backup model.

    Encoding and decoding are measured for every code, k and r of `policies`; default: addition with k = 2, 3 and 4.
    """
    import torch

    from backends.measuring import measure
    from backends.torch_backend import TorchBackend

    torch.manual_seed(SEED)
    backend = TorchBackend(effort.device, precision=effort.precision)
    deployed = network.build(shape, outputs)
    codings = [_coding(code, k, r, network, shape, outputs, deployed) for code, k, r in _codes(policies)]
    modules: dict[RoleName, nn.Module] = {
        "deployed": deployed,
        "parity": next((coding.model for coding in codings if coding.model is not None), None)
        or network.build(shape, outputs),
    }
    name = str(network.name_in_yaml())
    if backup is not None:
        modules["backup"] = backup.build(shape, outputs)
        name += f", backup {backup.name_in_yaml()}"
    measured = measure(
        backend,
        modules,
        shape,
        effort.batches,
        effort.repeats,
        network=name,
        codings=codings,
        contention=effort.contention,
    )
    made = {"revision": git_revision() or "unknown", "seed": str(SEED), "command": command_line()}
    return measured.model_copy(update={"made": measured.made | made})


def measure_model(model: Model, policies: Sequence[Policy], data: Path | None, effort: Effort) -> ServiceProfile:
    """Measure an experiment's networks and codes on samples of its data set's shape."""
    training, _ = load_data(model.dataset, data)
    backup = model.backup.network if model.backup else None
    return measure_network(model.network, training.shape, training.outputs, effort, policies, backup)


def _codes(policies: Sequence[Policy]) -> list[tuple[TensorCode, int, int]]:
    """Return the distinct codes of the policies, each with its k and r."""
    found: dict[str, tuple[TensorCode, int, int]] = {}
    for policy in policies:
        k, r = policy.group
        code = policy.erasure_code or Addition()
        if k and isinstance(code, TensorCode):
            found.setdefault(f"{code.name_in_yaml()} {k} {r}", (code, k, r))
    return list(found.values())


def _coding(
    code: TensorCode, k: int, r: int, network: Network, shape: Shape, outputs: int, deployed: nn.Module
) -> TimedCode:
    """Return a code bound to untrained models."""
    from backends.measuring import TimedCode

    built = [part.build(network, shape, outputs, lambda _module: None).eval() for part in code.parts(k, r)]
    coder, models = code.bind(k, r, built, deployed)
    return TimedCode(coder, str(code.name_in_yaml()), k, r, models[0] if models else None)
