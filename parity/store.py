"""The store of trained models: one folder per model, named by a hash of everything that determines the training.

    <role>-<network>-<dataset>-<key12>/weights.safetensors, card.json

The key is the SHA-256 of the canonical JSON of everything that determines the training, which for a parity model
includes the deployed model's key. The card holds that JSON as `identity`, what was measured on the test set, and the
weights' own hash. A model in training lives in `<folder>.part` and is renamed when it is complete, under a lock, so a
folder with the final name is always whole and two processes never train the same model side by side. Models that come
with parm (`parity/zoo`) are looked for as well, under the same names.
"""

from __future__ import annotations

import copy
import fcntl
import hashlib
import json
import platform
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from parity import zoo
from parity.codes.base import Part, TensorCode
from parity.evaluation import degraded, predict, quality
from parity.networks import Network
from parity.objectives import Objective, Reconstruction, Supervised, TrainingData, View
from parity.recipes import Recipe
from parity.training import Fit, Progress, TrainingStatus, seed_of, train
from sim.atomic import write as atomic_write
from sim.errors import ParmError
from sim.kinds import Kind

FORMAT = 2
"""Part of every key: raise it when the same options come to mean another training."""
DEPLOYED_ONLY = ("smoothing", "mixup", "cutout")
"""Options of a recipe that have no effect on parity models, and so are not part of their keys."""
VIEWED = ("shift", "flip", "holdout", "mixed", "augments_targets")
"""What of a recipe the views of training images depend on."""
TEST_GROUPINGS = 5
"""Random groupings of the test set behind a card's A_d."""


@dataclass(frozen=True)
class TrainedModel:
    """A trained model: the module in evaluation mode on the CPU, its card, its folder and its key."""

    module: nn.Module
    network: Network
    card: dict[str, Any]
    path: Path
    key: str


@dataclass(frozen=True)
class _Work:
    """A model to be found or trained."""

    role: str
    label: str
    identity: dict[str, Any]
    network: Network
    data: TrainingData
    recipe: Recipe
    seed: int
    batch: int
    build: Callable[[], nn.Module]
    """Returns the module with fresh weights."""
    start: Callable[[nn.Module], None] | None
    """Loads weights to start from, for a warm start."""
    objective: Callable[[], Objective]
    measure: Callable[[nn.Module], dict[str, float]]
    """Returns what is measured on the test set with the module, which is on the store's device."""

    @property
    def key(self) -> str:
        return hashlib.sha256(canonical(self.identity)).hexdigest()

    @property
    def folder(self) -> str:
        name = f"{self.role}-{self.network.name_in_yaml()}-{self.data.name}"
        return f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}-{self.key[:12]}"


def quiet(status: TrainingStatus) -> None:
    """Report nothing."""


class ModelStore:
    """Finds models that are trained already, resumes half-trained ones, trains the others; never trains one twice."""

    def __init__(
        self,
        root: Path,
        device: str | torch.device = "cpu",
        progress: Progress = quiet,
        *,
        checkpoint_seconds: float = 5.0,
        zoo: Path = zoo.FOLDER,
        publish: Path | None = None,
    ) -> None:
        """Keep models in `root`; those that `zoo` has are taken from there. `progress` is called after every epoch.

        Models are trained and measured on `device`. Every model that is asked for is written to the folder `publish`
        too, in half precision, with a card that says what was measured with the rounded weights.
        """
        self.root = root
        self.device = torch.device(device)
        self.progress = progress
        self.zoo = zoo
        self.publish = publish
        self.checkpoint_seconds = checkpoint_seconds
        self._views: dict[bytes, dict[int, View]] = {}
        """The latest views of training images, by all that they depend on; parts of several codes learn from them."""

    def classifier(
        self,
        network: Network,
        data: TrainingData,
        recipe: Recipe,
        seed: int,
        role: Literal["deployed", "backup"] = "deployed",
    ) -> TrainedModel:
        """Return the classifier for a data set: the deployed model, or the cheaper one of approximate backups.

        Raises ParmError for a damaged store, a full disk or a diverging training.
        """
        identity = {
            "format": FORMAT,
            "role": role,
            "network": _options(network),
            "shape": list(data.shape),
            "outputs": data.outputs,
            "data": data.fingerprint,
            "recipe": _options(recipe),
            "seed": seed,
        }

        def build() -> nn.Module:
            module = network.build(data.shape, data.outputs)
            recipe.initialise(module)
            return module

        def measure(module: nn.Module) -> dict[str, float]:
            images, labels = data.test.to(self.device), data.test_labels.to(self.device)
            return {"accuracy": quality(module, images, labels, data.task)}

        work = _Work(
            role=role,
            label=f"{role} {network.name_in_yaml()} on {data.name}",
            identity=identity,
            network=network,
            data=data,
            recipe=recipe,
            seed=seed,
            batch=recipe.batch_size(1),
            objective=lambda: Supervised(data, recipe, self.device),
            build=build,
            start=None,
            measure=measure,
        )
        return self._obtain(work)

    def parts(
        self,
        deployed: TrainedModel,
        data: TrainingData,
        code: TensorCode,
        k: int,
        r: int,
        recipe: Recipe,
        seed: int,
    ) -> list[TrainedModel]:
        """Return what is trained for a code, such as the parity model of each row, in order; for some codes nothing.

        A row's model depends on that row's weights alone, so row 0 of an r = 2 code is the model of r = 1.
        Raises ValueError like `Code.check`, ParmError like `classifier`.
        """
        code.check(k, r)
        return [self._part(deployed, data, part, recipe, seed) for part in code.parts(k, r)]

    def _part(
        self,
        deployed: TrainedModel,
        data: TrainingData,
        part: Part[Any],
        recipe: Recipe,
        seed: int,
    ) -> TrainedModel:
        network = deployed.network
        identity = {
            "format": FORMAT,
            "role": part.role,
            "deployed": deployed.key,
            "code": part.identity(),
            "recipe": {name: value for name, value in _options(recipe).items() if name not in DEPLOYED_ONLY},
            "seed": seed,
        }

        def objective() -> Objective:
            module = copy.deepcopy(deployed.module).to(self.device)
            return Reconstruction(data, module, part, recipe, self.device, self._views_for(deployed, recipe))

        def measure(module: nn.Module) -> dict[str, float]:
            images, labels = data.test.to(self.device), data.test_labels.to(self.device)
            own = copy.deepcopy(deployed.module).to(self.device)
            modules = [module] * len(part.code.parts(part.k, part.r))
            found = degraded(
                part.code,
                part.k,
                part.r,
                modules,
                own,
                images,
                predict(own, images),
                labels,
                data.task,
                groupings=TEST_GROUPINGS,
                rows=part.rows,
            )
            return {"accuracy_degraded": found.quality, "agreement": found.agreement}

        def build() -> nn.Module:
            return part.build(network, data.shape, data.outputs, recipe.initialise)

        def start(module: nn.Module) -> None:
            part.start_from(module, deployed.module)

        work = _Work(
            role=part.role,
            label=f"{part.role} {network.name_in_yaml()} on {data.name}, {part.describe()}",
            identity=identity,
            network=network,
            data=data,
            recipe=recipe,
            seed=seed,
            batch=recipe.batch_size(part.k),
            build=build,
            start=start if recipe.warm_start else None,
            objective=objective,
            measure=measure,
        )
        return self._obtain(work)

    def _views_for(self, deployed: TrainedModel, recipe: Recipe) -> dict[int, View]:
        """Return where views are kept; those of another deployed model or recipe are dropped."""
        known = canonical([deployed.key, deployed.card["weights_sha256"], *(getattr(recipe, one) for one in VIEWED)])
        if known not in self._views:
            self._views = {known: {}}
        return self._views[known]

    def _obtain(self, work: _Work) -> TrainedModel:
        folder = next((one for one in (self.root / work.folder, self.zoo / work.folder) if one.exists()), None)
        if folder is None:
            folder = self.root / work.folder
            with _disk(folder), _lock(folder):
                # Another process may have trained it while this one waited for the lock.
                if not folder.exists():
                    self._train(work, folder)
        model = _read(work, folder)
        return model if self.publish is None else self._published(work, model, self.publish / work.folder)

    def _published(self, work: _Work, model: TrainedModel, folder: Path) -> TrainedModel:
        """Round the model's weights to half precision, measure what is left of it, and write both."""
        state = model.module.state_dict()
        weights = {}
        for name, value in state.items():
            weights[name] = value.half() if value.is_floating_point() else value
            value.copy_(weights[name])
        measured = work.measure(model.module.to(self.device))
        model.module.cpu()
        content = save({name: value.contiguous() for name, value in weights.items()})
        card = model.card | {
            "precision": "half",
            "test": measured,
            "weights_sha256": hashlib.sha256(content).hexdigest(),
        }
        with _disk(folder), _lock(folder):
            if not folder.exists():
                part = folder.with_name(f"{folder.name}.part")
                atomic_write(part / "weights.safetensors", content, durable=True)
                atomic_write(part / "card.json", json.dumps(card, indent=2), durable=True)
                part.rename(folder)
        return replace(model, card=card, path=folder)

    def _train(self, work: _Work, folder: Path) -> None:
        part = folder.with_name(f"{folder.name}.part")
        module = _fresh(work).to(self.device)
        epochs = work.recipe.epochs

        def report(fit: Fit, loss: float, score: float) -> None:
            self.progress(TrainingStatus(work.role, work.label, fit.epoch, epochs, loss, score, fit.seconds))

        state = part / "state.safetensors"
        objective = work.objective()
        fit = train(module, objective, work.recipe, work.batch, work.seed, state, report, self.checkpoint_seconds)
        weights = save({name: value.cpu().contiguous() for name, value in module.state_dict().items()})
        data = work.data
        card = {
            "key": work.key,
            "identity": work.identity,
            "network": work.network.model_dump(mode="json"),
            "dataset": {"name": data.name, "note": data.note, "fingerprint": data.fingerprint, "outputs": data.outputs},
            "test": work.measure(module),
            "validation": {"score": fit.best_score, "epoch": fit.best_epoch, "epochs": fit.epoch},
            "seconds": fit.seconds,
            **({"not_graphed": fit.refused} if fit.refused else {}),
            "device": _device_name(self.device),
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
        }
        atomic_write(part / "weights.safetensors", weights, durable=True)
        atomic_write(part / "card.json", json.dumps(card, indent=2), durable=True)
        for file in part.iterdir():  # the checkpoint, and what a kill in the middle of writing it left
            if file.name not in ("weights.safetensors", "card.json"):
                file.unlink()
        part.rename(folder)


def _options(kind: Kind) -> dict[str, Any]:
    """Return the options that are not None: an option that was added later changes no key where it is not used."""
    return kind.model_dump(mode="json", exclude_none=True)


def canonical(value: Any) -> bytes:
    """Return JSON with one spelling per value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _fresh(work: _Work) -> nn.Module:
    """Return the module before training, which depends on the seed alone; the global random state is not changed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(work.seed, "weights"))
        module = work.build()
    if work.start is not None:
        work.start(module)
    return module


def _read(work: _Work, folder: Path) -> TrainedModel:
    """Read a complete model from its folder. Raises ParmError where the files are not what was written."""

    def damaged(file: Path, why: str) -> ParmError:
        return ParmError(f"the trained model's file {file} {why}: delete the folder {folder} to have it trained anew")

    card_file, weights_file = folder / "card.json", folder / "weights.safetensors"
    try:
        card = json.loads(card_file.read_bytes())
        stated = (card["key"], hashlib.sha256(canonical(card["identity"])).hexdigest())
        expected = card["weights_sha256"]
    except OSError as error:
        raise damaged(card_file, f"cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(card_file, "is damaged (not a whole card)") from error
    if stated != (work.key, work.key):
        raise damaged(card_file, "does not describe the model that its folder is named for")
    try:
        content = weights_file.read_bytes()
    except OSError as error:
        raise damaged(weights_file, f"cannot be read ({error.strerror})") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise damaged(weights_file, "is damaged (its hash is not the card's)")
    module = _fresh(work)
    try:
        module.load_state_dict(load(content))
    except (SafetensorError, RuntimeError) as error:
        raise damaged(weights_file, "does not fit the network") from error
    return TrainedModel(module.eval(), work.network, card, folder, work.key)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ParmError(
            f"cannot write the model {folder} ({error.strerror or error}): make room there or name another folder"
        ) from error


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Wait until no other process trains this model. The system releases the lock of a killed process."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = folder.with_name(f".{folder.name}.lock")
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
