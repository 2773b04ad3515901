"""The models that an experiment needs: lists, finds or trains them, and computes their answers in a cell.

torch is imported only when a model is used: listing the models does without it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.corruption import StaleModel, TensorCorruption
from experiments.config.schema import Backup, Model
from experiments.run.cells import Cell
from experiments.run.progress import Reporter
from parity.codes import Addition, TensorCode
from parity.codes.base import Coder
from sim.errors import ParmError
from sim.kinds import Options
from sim.streams import Streams
from sim.trace import Ints, Role, Trace
from workloads.datasets.base import DEFAULT_FOLDER, Data, Dataset

if TYPE_CHECKING:
    from torch import nn

    from backends.answers import Predictor
    from backends.wrong import Causes
    from experiments.run.runner import Answered, Parcel, Unanswered
    from parity.objectives import TrainingData
    from parity.store import TrainedModel
    from parity.training import TrainingStatus
    from sim.simulation import Hardware


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A deployed model, the models trained for a code at k and r (`code` is set), a backup (`backup` is set), or one
    that answers in the deployed model's place (`stale` is set)."""

    model: Model
    code: TensorCode | None = None
    k: int = 0
    r: int = 0
    backup: Backup | None = None
    stale: StaleModel | None = None

    @property
    def key(self) -> str:
        """A text that is equal for equal specifications."""
        special = self.code or self.backup or self.stale
        return _key(self.model) + (f"{_key(special)}{self.k},{self.r}" if special else "")

    def __str__(self) -> str:
        if self.stale is not None:
            return f"stale {self.model.network.name_in_yaml()} on {self.model.dataset.name_in_yaml()}"
        if self.backup is not None:
            return f"backup {self.backup.network.name_in_yaml()} on {self.model.dataset.name_in_yaml()}"
        what = f"{self.model.network.name_in_yaml()} on {self.model.dataset.name_in_yaml()}"
        if self.code is None:
            return f"deployed {what}"
        code = f"code {self.code.name_in_yaml()}, k = {self.k}"
        parts = self.code.parts(self.k, self.r)
        if not parts:
            return f"no parity models for {code}, r = {self.r}"
        return f"{len(parts)} {parts[0].role} {what} for {code}"


def need(cell: Cell) -> list[ModelSpec]:
    """Return the models that the cell needs, the deployed model first; an empty list without 'model'."""
    model = cell.experiment.model
    if model is None:
        return []
    wanted = [ModelSpec(model)]
    k, r = cell.policy.group
    if k:
        code = cell.policy.erasure_code or Addition()
        if not isinstance(code, TensorCode):
            raise ParmError(f"code '{code.name_in_yaml()}' cannot compute answers: use it without a 'model'.")
        wanted.append(ModelSpec(model, code, k, r))
    if model.backup is not None and cell.policy.uses(Role.BACKUP, cell.experiment.machines):
        wanted.append(ModelSpec(model, backup=model.backup))
    stale = (one for one in cell.experiment.corruption if isinstance(one, StaleModel))
    return [*wanted, *(ModelSpec(model, stale=one) for one in stale)]


def needs(cells: Sequence[Cell]) -> list[ModelSpec]:
    """Return the models that the cells need, each once, in the order of first use."""
    return list({one.key: one for cell in cells for one in need(cell)}.values())


@dataclass(slots=True)
class _Loaded:
    """A deployed model in memory."""

    data: TrainingData
    labels: Ints
    trained: TrainedModel
    predictor: Predictor


@dataclass(frozen=True, slots=True)
class Deployment:
    """The models of a cell, and the samples that its queries carry."""

    predictor: Predictor
    labels: Ints
    """True classes of the test set, shape (samples of the test set,)."""
    samples: Ints
    """Row of the test set that each query carries, shape (queries,)."""
    code: Coder | None
    parities: list[nn.Module]
    backup: nn.Module | None
    causes: Causes | None
    """Of the wrong answers."""


def share_the_cores() -> None:
    """Have torch's threads sleep while they wait for each other; to be called before torch is imported.

    They would spin, on cores that the processes which simulate need. With small networks, whose threads wait often,
    predictions took 15 times as long that way. Where services are timed it should not be called: it slows them a bit.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


class Models:
    """Trains or finds the models of an experiment, and computes answers with them."""

    def __init__(
        self, data: Path | None, root: Path, device: str, reporter: Reporter, publish: Path | None = None
    ) -> None:
        """Read data sets from `data` and models from `root`; train and predict on `device`.

        Models are also written to `publish`, in half precision, if it is given.

        Raises ParmError if there is no such device.
        """
        from backends.torch_backend import TorchBackend
        from parity.store import ModelStore

        self.backend = TorchBackend(device, exports=root / "exports")
        self._asked = device
        self._folder = data
        self._store = ModelStore(root, self.device, self._report, publish=publish)
        self._reporter = reporter
        self._data: dict[str, tuple[TrainingData, Data]] = {}
        self._loaded: dict[str, _Loaded] = {}
        self._parts: dict[str, list[TrainedModel]] = {}
        self._bound: dict[str, tuple[Coder, list[nn.Module]]] = {}
        self._others: dict[str, TrainedModel] = {}

    @property
    def device(self) -> str:
        """The device that computes, as torch calls it."""
        return str(self.backend.device)

    @property
    def trained(self) -> list[TrainedModel]:
        """All models found or trained so far."""
        parts = [model for models in self._parts.values() for model in models]
        return [*(loaded.trained for loaded in self._loaded.values()), *parts, *self._others.values()]

    @property
    def notes(self) -> list[str]:
        """The data sets' caveats, each once."""
        return list(dict.fromkeys(data.note for data, _ in self._data.values() if data.note))

    def prepare(self, cells: Sequence[Cell]) -> None:
        """Find or train every model that the cells need. Raises ParmError for a missing data set or a damaged store."""
        for one in needs(cells):
            if one.code is not None:
                self._parts_of(one, one.code)
            elif one.backup is not None or one.stale is not None:
                self._other_model(one)
            else:
                self._deployed(one.model)

    def answer(self, cell: Cell, trace: Trace) -> Answered:
        """Compute the answer that each client in the cell's trace received."""
        from experiments.run.runner import Answered

        there = self._deployment(cell)
        models = there.code, there.parities, there.backup
        answers = there.predictor.answer(trace, there.samples, *models, there.causes)
        return Answered(there.samples, there.labels, answers)

    def in_the_loop(self, cell: Cell) -> tuple[Hardware, Callable[[Trace], Answered]]:
        """Return the hardware for the cell's simulation, and a function from its trace to the answers."""
        from backends.loop import HardwareInTheLoop
        from experiments.run.runner import Answered

        there = self._deployment(cell)
        predictor = there.predictor
        loop = HardwareInTheLoop(
            self.backend,
            predictor.deployed,
            predictor.images,
            there.labels,
            there.samples,
            default_answer=predictor.default_answer,
            code=there.code,
            parities=there.parities,
            backup=there.backup,
            contention=cell.experiment.contention,
        )
        return loop.modifier, lambda trace: Answered(there.samples, there.labels, loop.answers(trace))

    def elsewhere(self) -> ModelsElsewhere | None:
        """Return what computes the same answers on another machine's GPU; None where the CPU was asked for.

        The models that `prepare` found or trained go with it.
        """
        if self._asked == "cpu":
            return None
        folders = [model.path for model in self.trained if not _comes_with_parm(model.path)]
        files = {
            f"{folder.name}/{file.relative_to(folder).as_posix()}": file.read_bytes()
            for folder in folders
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }
        return ModelsElsewhere(files, (self._folder or DEFAULT_FOLDER).expanduser().absolute())

    def cards(self) -> list[dict[str, Any]]:
        """Return the manifest's entry for each model."""
        return [
            {
                "role": model.card["identity"]["role"],
                "key": model.key,
                "path": _place(model.path),
                "dataset": model.card["dataset"],
                "test": model.card["test"],
                "device": model.card["device"],
                "run": self.backend.how(model.module),
            }
            for model in self.trained
        ]

    def describe(self) -> list[str]:
        """Return a line per model with its path and its results on the test set."""
        lines = []
        for model in self.trained:
            measured = ", ".join(f"{name} {value:.4f}" for name, value in model.card["test"].items())
            lines.append(f"{model.path}: {measured}")
        return [*lines, *(f"note: {note}" for note in self.notes)]

    def _deployment(self, cell: Cell) -> Deployment:
        from experiments.run.runner import draw_samples

        deployed, *others = need(cell)
        loaded = self._deployed(deployed.model)
        samples = draw_samples(cell, len(loaded.labels))
        code: Coder | None = None
        parities: list[nn.Module] = []
        for one in others:
            if one.code is not None:
                if one.key not in self._bound:
                    trained = [model.module for model in self._parts_of(one, one.code)]
                    self._bound[one.key] = one.code.bind(one.k, one.r, trained, loaded.trained.module)
                code, parities = self._bound[one.key]
        backup = next((self._other_model(one).module for one in others if one.backup is not None), None)
        causes = self._causes(cell, deployed.model)
        return Deployment(loaded.predictor, loaded.labels, samples, code, parities, backup, causes)

    def _causes(self, cell: Cell, model: Model) -> Causes | None:
        from backends.wrong import Causes

        found = cell.experiment.corruption
        for one in found:
            if not isinstance(one, TensorCorruption):
                raise ParmError(f"corruption '{one.name_in_yaml()}' cannot compute answers: use it without a 'model'.")
        others = {
            number: self._other_model(ModelSpec(model, stale=one)).module
            for number, one in enumerate(found)
            if isinstance(one, StaleModel)
        }
        causes = [one for one in found if isinstance(one, TensorCorruption)]
        return Causes(causes, Streams(cell.experiment.seed, cell.trial), others) if found else None

    def _deployed(self, model: Model) -> _Loaded:
        key = _key(model)
        if key not in self._loaded:
            from backends.answers import Predictor

            training, data = self._training_data(model)
            if data.task != "classification":
                raise ParmError(f"data set {data.name} has boxes, not classes: use 'parm accuracy' for it.")
            trained = self._store.classifier(model.network, training, model.recipe, model.training_seed)
            self._loaded[key] = _Loaded(
                training,
                data.y_test,
                trained,
                Predictor(
                    self.backend,
                    trained.module,
                    training.test,
                    data.y_test,
                    default_answer=int(np.bincount(data.y_train).argmax()),
                ),
            )
        return self._loaded[key]

    def _parts_of(self, one: ModelSpec, code: TensorCode) -> list[TrainedModel]:
        if one.key not in self._parts:
            loaded = self._deployed(one.model)
            self._parts[one.key] = self._store.parts(
                loaded.trained,
                loaded.data,
                code,
                one.k,
                one.r,
                one.model.parity_recipe or one.model.recipe,
                one.model.training_seed,
            )
        return self._parts[one.key]

    def _other_model(self, one: ModelSpec) -> TrainedModel:
        """Find or train a backup or a stale model."""
        if one.key not in self._others:
            model, data = one.model, self._training_data(one.model)[0]
            if one.stale is not None:
                recipe, seed = one.stale.recipe or model.recipe, one.stale.training_seed
                self._others[one.key] = self._store.classifier(model.network, data, recipe, seed)
            else:
                assert one.backup is not None
                recipe, seed = one.backup.recipe or model.recipe, model.training_seed
                self._others[one.key] = self._store.classifier(one.backup.network, data, recipe, seed, role="backup")
        return self._others[one.key]

    def _training_data(self, model: Model) -> tuple[TrainingData, Data]:
        key = _key(model.dataset)
        if key not in self._data:
            self._data[key] = load_data(model.dataset, self._folder)
        return self._data[key]

    def _report(self, status: TrainingStatus) -> None:
        self._reporter.status(describe_training(status), last=status.epoch == status.epochs)


class ModelsElsewhere:
    """Computes answers on another machine, with the files of models that were found or trained on this one."""

    def __init__(self, files: Mapping[str, bytes], data: Path) -> None:
        """`data` is the folder of data sets, which the other machine must have at the same place."""
        self._files, self._data = files, data
        self._models: Models | None = None

    def __call__(self, cell: Cell, unanswered: Unanswered) -> Parcel:
        """Return the outcome and the files of a cell. Raises ParmError if a model or data set is missing."""
        from experiments.run.runner import packed, predict_and_keep

        if self._models is None:
            self._folder = TemporaryDirectory(prefix="parm-models-")  # lasts as long as this process
            for name, content in self._files.items():
                place = Path(self._folder.name) / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
            self._models = Models(self._data, Path(self._folder.name), "auto", _NoTraining())
        return packed(partial(predict_and_keep, cell, unanswered, answerer=self._models))


class _NoTraining(Reporter):
    """Refuses what would be trained a second time, and perhaps to another result."""

    def status(self, text: str, *, last: bool) -> None:
        """Raise ParmError."""
        raise ParmError(f"a model that was sent to a machine of the cluster is not found there ({text}).")


def describe_training(status: TrainingStatus) -> str:
    """Return a line with the progress of a training and its remaining time."""
    left = timedelta(seconds=round(status.left))
    done = f"epoch {status.epoch}/{status.epochs}, validation {status.score:.4f}"
    return f"training {status.label}: {done}" + (f", {left} left" if left else "")


def load_data(dataset: Dataset, folder: Path | None) -> tuple[TrainingData, Data]:
    """Return a data set prepared for training and as loaded. Raises ParmError if it is missing or invalid."""
    import torch

    from parity.objectives import TrainingData

    data = dataset.load(folder)
    training = TrainingData(
        name=data.name,
        fingerprint=data.fingerprint,
        note=data.note,
        outputs=data.outputs,
        train=torch.from_numpy(data.normalised(data.x_train[data.order])),
        train_labels=torch.from_numpy(data.y_train[data.order]),
        test=torch.from_numpy(data.normalised(data.x_test)),
        test_labels=torch.from_numpy(np.array(data.y_test)),
        task_name=data.task,
    )
    return training, data


def _key(options: Options) -> str:
    return json.dumps(options.model_dump(mode="json", serialize_as_any=True, by_alias=True), sort_keys=True)


def _place(path: Path) -> str:
    """Return a model's folder, relative for models that come with parm."""
    return f"parity/zoo/{path.name}" if _comes_with_parm(path) else str(path)


def _comes_with_parm(path: Path) -> bool:
    from parity import zoo

    return path.parent == zoo.FOLDER
