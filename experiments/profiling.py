"""Measures the service times of a network on this machine, for `parm profile`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import ValidationError

from experiments.messages import sentences
from experiments.models import load_data
from experiments.schema import Model
from parity.networks import Network, Shape
from sim.errors import ParmError
from sim.kinds import Options

if TYPE_CHECKING:
    from backends.profile import ServiceProfile


class _Named(Options):
    network: Network


def parse_network(text: str) -> Network:
    """Read a network as YAML names it; raises ParmError, in one sentence, where it is none."""
    try:
        data = {"network": yaml.safe_load(text)}
        return _Named.model_validate(data).network
    except yaml.YAMLError as error:
        raise ParmError(f"--network {text}: is not YAML.") from error
    except ValidationError as error:
        key, says = sentences(error, data, _Named)[0]
        where = ".".join(str(part) for part in key[1:])
        raise ParmError(f"--network {text}: {where + ': ' if where else ''}{says}") from error


def measure_network(
    network: Network, shape: Shape, outputs: int, device: str, batches: Sequence[int], repeats: int
) -> ServiceProfile:
    """Measure an untrained network, whose speed is that of a trained one, as deployed and as parity model."""
    from backends.torch_backend import TorchBackend

    backend = TorchBackend(device)
    name = str(network.name_in_yaml())
    deployed, parity = (
        backend.measure(network.build(shape, outputs), shape, batches, repeats, role=role, network=name)
        for role in ("deployed", "parity")
    )
    return deployed.joined(parity)


def measure_model(model: Model, data: Path | None, device: str, batches: Sequence[int], repeats: int) -> ServiceProfile:
    """Measure an experiment's networks, the backup's too where there is one, on samples of its data set's shape."""
    training, _ = load_data(model.dataset, data)
    measured = measure_network(model.network, training.shape, training.outputs, device, batches, repeats)
    if model.backup is None:
        return measured
    from backends.torch_backend import TorchBackend

    network, name = model.backup.network, f"{measured.network}, backup {model.backup.network.name_in_yaml()}"
    module = network.build(training.shape, training.outputs)
    backup = TorchBackend(device).measure(module, training.shape, batches, repeats, role="backup", network=name)
    return measured.joined(backup).model_copy(update={"network": name})
