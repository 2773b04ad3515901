"""The one trainer, for deployed and parity models alike: seeded, resumable, keeps the best epoch.

Everything random in an epoch comes from a generator seeded by (seed, epoch) and the learning rate is a function of the
step alone, so weights and optimiser state are all that a checkpoint needs: on the CPU, a run that was killed and
resumed ends with the same bits as one that was not. On CUDA some kernels add in no fixed order, and two runs differ in
rounding.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from parity.objectives import Objective
from parity.recipes import Recipe
from parity.steps import Steps, prepare
from sim.atomic import write as atomic_write
from sim.errors import ParmError


@dataclass(frozen=True)
class TrainingStatus:
    """The progress of a training, reported after every epoch."""

    role: str
    """`deployed`, `parity` or `backup`."""
    label: str
    """What is being trained, for a progress line."""
    epoch: int
    """Epochs done, 1 .. `epochs`."""
    epochs: int
    loss: float
    """Mean training loss of this epoch."""
    score: float
    """Validation score after this epoch, 0 to 1: accuracy, or agreement of reconstructions (parity)."""
    seconds: float
    """Spent on this training so far, before interruptions too."""

    @property
    def left(self) -> float:
        """Seconds that the epochs still to come will take at this pace."""
        return self.seconds / self.epoch * (self.epochs - self.epoch)


Progress = Callable[[TrainingStatus], None]


@dataclass
class Fit:
    """A training's progress and, at its end, its result."""

    epoch: int = 0
    """Epochs done."""
    best_epoch: int = 0
    """The epoch whose weights are kept; of equally good ones the last."""
    best_score: float = -1.0
    seconds: float = 0.0
    refused: str = ""
    """Why steps were not recorded although the recipe asks for it."""


def seed_of(*parts: object) -> int:
    """Hash anything printable to a seed of 63 bits."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def train(
    module: nn.Module,
    objective: Objective,
    recipe: Recipe,
    batch: int,
    seed: int,
    checkpoint: Path,
    report: Callable[[Fit, float, float], None],
    checkpoint_seconds: float = 5.0,
) -> Fit:
    """Train `module` in place on its device; leave it in evaluation mode with its best epoch's weights.

    Resumes from the file `checkpoint` where it exists, and writes it after an epoch when `checkpoint_seconds` have
    passed since it was last written. `report` is told the fit, the epoch's mean loss and its validation score.
    Raises ParmError where the checkpoint is damaged or the loss stops being finite.
    """
    device = next(module.parameters()).device
    prepare(module, recipe)
    optimiser = recipe.optimiser(module.parameters())
    fit, best = Fit(), _copy(module.state_dict())
    if checkpoint.exists():
        fit, best = load_checkpoint(checkpoint, module, optimiser)
    steps = Steps(module, objective, recipe, optimiser, batch)
    before, started = fit.seconds, time.perf_counter()
    written = started
    while fit.epoch < recipe.epochs and not _stale(fit, recipe):
        chance = seed_of(seed, fit.epoch)
        generator = Generator(device).manual_seed(chance)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(chance)  # for random layers of a user's own network, such as dropout
            loss = steps.epoch(fit.epoch, generator)
        if not math.isfinite(loss):
            raise ParmError(
                f"training diverged in epoch {fit.epoch + 1} (loss {loss}): set the recipe's lr below {recipe.lr}"
            )
        module.eval()
        score = objective.score(module)
        fit.epoch += 1
        if score >= fit.best_score:
            fit.best_score, fit.best_epoch, best = score, fit.epoch, _copy(module.state_dict())
        now = time.perf_counter()
        fit.seconds = before + now - started
        if now - written >= checkpoint_seconds and fit.epoch < recipe.epochs:
            save_checkpoint(checkpoint, module, optimiser, best, fit)
            written = now
        report(fit, loss, score)
    module.load_state_dict(best)
    module.eval()
    fit.refused = steps.refused
    return fit


def _stale(fit: Fit, recipe: Recipe) -> bool:
    return recipe.patience is not None and fit.epoch - fit.best_epoch >= recipe.patience


def save_checkpoint(path: Path, module: nn.Module, optimiser: Optimizer, best: dict[str, Tensor], fit: Fit) -> None:
    """Write everything that `load_checkpoint` needs, atomically."""
    tensors = {f"module/{name}": value for name, value in module.state_dict().items()}
    tensors |= {f"best/{name}": value for name, value in best.items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{number}/{name}": value for name, value in state.items()}
    tensors = {name: value.detach().contiguous() for name, value in tensors.items()}
    atomic_write(path, save(tensors, metadata={"fit": json.dumps(asdict(fit))}), durable=True)


def load_checkpoint(path: Path, module: nn.Module, optimiser: Optimizer) -> tuple[Fit, dict[str, Tensor]]:
    """Restore module and optimiser as `save_checkpoint` wrote them; return the fit and the best weights so far.

    Raises ParmError for a file that is not whole or belongs to another model.
    """
    parts: dict[str, dict[str, Tensor]] = {"module": {}, "best": {}, "optimiser": {}}
    try:
        with safe_open(path, framework="pt") as file:
            fit = Fit(**json.loads(file.metadata()["fit"]))
            for key in file.keys():  # noqa: SIM118 - not a mapping
                part, name = key.split("/", 1)
                parts[part][name] = file.get_tensor(key)
        module.load_state_dict(parts["module"])
        state: dict[int, dict[str, Any]] = {}
        parameters = list(module.parameters())
        for key, value in parts["optimiser"].items():
            number, name = key.split("/")
            # In the parameter's own memory format: the fused optimisers need the same one.
            at = parameters[int(number)]
            state.setdefault(int(number), {})[name] = torch.empty_like(at).copy_(value) if value.dim() else value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ParmError(
            f"the half-trained model in {path} is damaged ({type(error).__name__}): delete the folder {path.parent} to "
            f"have it trained anew"
        ) from error
    return fit, parts["best"]


def _copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}
