"""Runs a study: finds or trains the models of every case, and measures their accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backends import measuring
from backends.torch_backend import TorchBackend
from experiments.accuracy.options import Case, Study
from experiments.accuracy.table import Line
from experiments.analysis.statistics import wilson
from experiments.run.models import describe_training, load_data
from experiments.run.progress import Reporter
from parity.evaluation import degraded, predict, quality
from parity.flop import part_flop
from parity.objectives import TrainingData
from parity.store import TEST_GROUPINGS, ModelStore, TrainedModel
from parity.tasks import Classification, LearningTask
from sim.errors import ParmError


class StudyRunner:
    """Measures the cases of a study, one after the other."""

    def __init__(self, study: Study, data: Path | None, models: Path, device: str, reporter: Reporter) -> None:
        """Read data sets from `data` and models from `models`; train and predict on `device`."""
        self.study = study
        self.folder, self.root, self.asked = data, models, device
        self._backend = TorchBackend(device)
        self.device = self._backend.device
        self.skipped: dict[str, str] = {}
        """Models whose data set could not be loaded, with the reason."""
        self.models: dict[str, dict[str, Any]] = {}
        """Models used, by key, for the manifest."""
        self.notes: list[str] = []
        self._store = ModelStore(models, self.device, self._report)
        self._reporter = reporter
        self._subjects = {subject.title: subject for subject in study.models}
        self._data = lru_cache(maxsize=1)(self._load)
        """Caches by model title; they hold one entry, since data sets are large and cases are grouped by model."""
        self._outputs = lru_cache(maxsize=1)(self._predict)

    def lines(self) -> Iterator[Line]:
        """Yield a line per case; cases whose data set is missing are skipped and recorded in `skipped`."""
        return self.measured(self.study.cases())

    def measured(self, cases: Iterable[Case]) -> Iterator[Line]:
        """Yield the lines of some of the study's cases, as `lines` does."""
        for case in cases:
            name = case.subject.title
            if name in self.skipped:
                continue
            try:
                data = self._data(name)
            except ParmError as error:
                self.skipped[name] = str(error)
                self._reporter.say(f"skipped {name}: {error}")
                continue
            yield self._measure(case, data)

    def _load(self, title: str) -> TrainingData:
        data, _ = load_data(self._subjects[title].dataset, self.folder)
        if data.note and data.note not in self.notes:
            self.notes.append(data.note)
        return data

    def _predict(self, title: str, seed: int) -> tuple[TrainedModel, nn.Module, Tensor, Tensor, Tensor]:
        """Return the deployed model, its module on the device, and the test set's images, outputs and labels."""
        subject, data = self._subjects[title], self._data(title)
        model = self._store.classifier(subject.network, data, subject.recipe, seed)
        module = model.module.to(self.device)
        images, labels = data.test.to(self.device), data.test_labels.to(self.device)
        return model, module, images, predict(module, images), labels

    def _measure(self, case: Case, data: TrainingData) -> Line:
        subject, coding = case.subject, case.coding
        code, k, r = coding.code, coding.k, coding.r
        if data.task_name != "localisation" and subject.top >= data.outputs:
            raise ParmError(
                f"model {subject.title}: with 'top: {subject.top}' of {data.outputs} classes every answer is correct."
            )
        task = data.task if data.task_name == "localisation" else Classification(subject.top)
        model, deployed, images, outputs, labels = self._outputs(subject.title, case.seed)
        parts = self._store.parts(model, data, code, k, r, case.recipe, case.seed)
        for one in (model, *parts):
            self.models[one.key] = {"role": one.card["identity"]["role"], "test": one.card["test"]}
        trained = [one.module.to(self.device) for one in parts]
        found = degraded(
            code,
            k,
            r,
            trained,
            deployed,
            images,
            outputs,
            labels,
            task,
            groupings=TEST_GROUPINGS,
            losses=coding.losses,
        )
        coder, answering = code.bind(k, r, trained, deployed)
        timed = measuring.TimedCode(coder, str(code.name_in_yaml()), k, r, answering[0] if answering else None)
        encode, decode = measuring.coding_seconds(self._backend, timed, data.shape, data.outputs)
        interval = wilson(found.quality * len(images), len(images))
        return Line(
            dataset=data.name,
            network=str(subject.network.name_in_yaml()),
            width=str(getattr(subject.network, "width", "")),
            code=str(code.name_in_yaml()),
            k=k,
            r=r,
            recipe=case.recipe_name if parts else "",
            seed=case.seed,
            epochs=case.recipe.epochs if parts else "",
            device=parts[0].card["device"] if parts else model.card["device"],
            available=quality(deployed, images, labels, task),
            degraded=found.quality,
            degraded_lo=interval.lo,
            degraded_hi=interval.hi,
            default=_default(data, task),
            train_seconds=sum(float(one.card["seconds"]) for one in parts),
            train_flop=self._flop(case, data, parts, deployed),
            losses=coding.losses,
            agreement=found.agreement,
            encode_us=1e6 * encode,
            decode_us=1e6 * decode,
            model=subject.title,
            coding=coding.title,
            note=data.note,
        )

    def _flop(self, case: Case, data: TrainingData, parts: Sequence[TrainedModel], deployed: nn.Module) -> float:
        """Return what it takes to train the case's parts, in floating-point operations."""
        coding = case.coding
        return sum(
            part_flop(one.module, deployed, part, data, case.recipe, one.card["validation"]["epochs"])
            for one, part in zip(parts, coding.code.parts(coding.k, coding.r), strict=True)
        )

    def _report(self, status: Any) -> None:
        self._reporter.status(describe_training(status), last=status.epoch == status.epochs)


def _default(data: TrainingData, task: LearningTask) -> float:
    """Return the quality of the constant answer that is best on the training set."""
    if data.task_name == "localisation":
        constant = data.train_labels.mean(0).expand(len(data.test_labels), -1)
        return float(task.quality(constant, data.test_labels).mean())
    shares = torch.bincount(data.train_labels, minlength=data.outputs).double()
    return float(task.quality(shares.expand(len(data.test_labels), -1), data.test_labels).mean())
