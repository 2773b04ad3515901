"""The two objectives that `training.train` minimises, one for classifiers and one for the parts of a code.

Both keep their data on the device and share one held-out part of the training set, so that a parity model is judged on
images that the deployed model has not been fitted to either.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from parity.codes.base import Part
from parity.evaluation import EVALUATION_BATCH, degraded, predict, quality, random_groups
from parity.recipes import Recipe
from parity.shape import Shape
from parity.tasks import TASKS, LearningTask, TaskName
from sim.errors import ParmError


@dataclass(frozen=True)
class TrainingData:
    """A data set as training needs it, on the CPU: images float32 (n, c, h, w), normalised, and labels.

    Labels are classes, int64 (n,), or boxes, float32 (n, 4).
    """

    name: str
    fingerprint: str
    """Identifies the content, so that models of other data are not taken for models of this."""
    note: str
    """A caveat that belongs beside every number measured on it, or empty."""
    outputs: int
    """Numbers that a model returns for an image: one per class, or the four of a box."""
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    task_name: TaskName = "classification"

    @property
    def task(self) -> LearningTask:
        """What the labels are, and how predictions are judged by them."""
        return TASKS[self.task_name]

    @property
    def shape(self) -> Shape:
        """Channels, height, width."""
        _, channels, height, width = self.train.shape
        return channels, height, width

    def split(self, holdout: int) -> tuple[Tensor, Tensor]:
        """Row numbers, int64, to train with (n - h,) and to hold out (h,), always the same for the same sizes."""
        n = len(self.train)
        order = torch.randperm(n, generator=Generator().manual_seed(0))
        held = max(1, min(holdout, n // 10))
        return order[held:], order[:held]


@dataclass(frozen=True)
class Moves:
    """Random shifts and flips of n images, which can be applied again."""

    shift: int
    """Pixels by which an image may move, either way."""
    down: Tensor
    """Rows, 0 .. 2 shift; `shift` is where the image was; int64 (n,)."""
    right: Tensor
    """Columns, likewise."""
    mirrored: Tensor
    """Whether the image is mirrored left to right, bool (n,)."""

    @classmethod
    def draw(cls, n: int, shift: int, flip: bool, generator: Generator) -> Moves:
        """Draw moves by up to `shift` pixels both ways and, with `flip`, mirror every other image."""
        device = generator.device
        down, right = (torch.randint(2 * shift + 1, (n,), generator=generator, device=device) for _ in range(2))
        mirrored = torch.rand(n, generator=generator, device=device) < (0.5 if flip else 0.0)
        return cls(shift, down, right, mirrored)

    def of(self, rows: Tensor) -> Moves:
        """Return the moves of the images with these numbers, int64 (m,)."""
        return Moves(self.shift, self.down[rows], self.right[rows], self.mirrored[rows])

    def apply(self, images: Tensor) -> Tensor:
        """Move images (n, c, h, w). Pixels from outside are zero, the mean of normalised images."""
        _, _, height, width = images.shape
        device = images.device
        if self.shift:
            rows = self.down[:, None] + torch.arange(height, device=device)
            columns = self.right[:, None] + torch.arange(width, device=device)
            padded = functional.pad(images, (self.shift,) * 4).permute(0, 2, 3, 1)
            picture = torch.arange(len(images), device=device)[:, None, None]
            images = padded[picture, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        return torch.where(self.mirrored[:, None, None, None], images.flip(-1), images)


def cut_out(images: Tensor, side: int, generator: Generator) -> Tensor:
    """Set a square with sides of `side` pixels in each image (n, c, h, w) to zero, the mean of normalised images.

    The square's centre is any pixel, so that part of it may be outside. Source: DeVries and Taylor, "Improved
    regularization of convolutional neural networks with cutout", 2017.
    """
    device = images.device

    def hidden(length: int) -> Tensor:
        """Whether a row or a column is hidden, bool (n, length)."""
        first = torch.randint(length, (len(images), 1), generator=generator, device=device) - side // 2
        place = torch.arange(length, device=device)
        return (place >= first) & (place < first + side)

    _, _, height, width = images.shape
    return images.masked_fill((hidden(height)[:, :, None] & hidden(width)[:, None, :])[:, None], 0.0)


class Objective(Protocol):
    """What `training.train` minimises."""

    def rows(self, generator: Generator) -> Tensor:
        """Row numbers of one epoch in random order: images (n,), or groups of k images (g, k); each step takes some."""

    def loss(self, module: nn.Module, rows: Tensor, generator: Generator) -> Tensor:
        """Training loss of one step, a scalar, on some of these rows."""

    def score(self, module: nn.Module) -> float:
        """Quality on the held-out images, higher is better; `module` is in evaluation mode."""


class Supervised:
    """The objective of deployed and backup models: the task's own loss, judged by mean quality."""

    def __init__(self, data: TrainingData, recipe: Recipe, device: torch.device) -> None:
        train, held = data.split(recipe.holdout)
        self.recipe, self.task = recipe, data.task
        self.images, self.labels = data.train[train].to(device), data.train_labels[train].to(device)
        self.held, self.held_labels = data.train[held].to(device), data.train_labels[held].to(device)
        _refuse_moved_boxes(data, recipe)
        if data.task_name == "localisation" and recipe.mixup is not None:
            raise ParmError(f"data set {data.name} has boxes, which 'mixup' cannot mix: leave it out")
        if data.task_name == "localisation" and recipe.cutout is not None:
            raise ParmError(f"data set {data.name} has boxes, whose object 'cutout' may hide: leave it out")

    def rows(self, generator: Generator) -> Tensor:
        """See `Objective.rows`; shape (n,)."""
        return torch.randperm(len(self.images), generator=generator, device=self.images.device)

    def loss(self, module: nn.Module, rows: Tensor, generator: Generator) -> Tensor:
        """See `Objective.loss`."""
        images = self.images[rows]
        if self.recipe.augments:
            images = Moves.draw(len(images), self.recipe.shift, self.recipe.flip, generator).apply(images)
        if self.recipe.cutout is not None:
            images = cut_out(images, self.recipe.cutout, generator)
        labels, smoothing, mixup = self.labels[rows], self.recipe.smoothing, self.recipe.mixup
        if mixup is None:
            return self.task.loss(module(images).float(), labels, smoothing)
        weight = torch.full((), mixup, device=images.device)
        share = torch.distributions.Beta(weight, weight).sample()
        # Rows are in random order, so that the next one is any other one.
        outputs = module(images.lerp(images.roll(1, 0), share)).float()
        first, second = (self.task.loss(outputs, one, smoothing) for one in (labels, labels.roll(1, 0)))
        return first.lerp(second, share)

    def score(self, module: nn.Module) -> float:
        """See `Objective.score`."""
        return quality(module, self.held, self.held_labels, self.task)


@dataclass(frozen=True)
class View:
    """One augmented copy of the training images, and the deployed model's outputs for it."""

    moves: Moves
    outputs: Tensor
    """Shape (n, c)."""


class Reconstruction:
    """The objective of a code's part: the recipe's parity loss, judged by agreement with the deployed model.

    `deployed` is in evaluation mode on `device`; its outputs for images without augmentation are computed once.
    """

    def __init__(
        self,
        data: TrainingData,
        deployed: nn.Module,
        part: Part[Any],
        recipe: Recipe,
        device: torch.device,
        views: dict[int, View] | None = None,
    ) -> None:
        """`views` are those that another part's objective made of the same images, deployed model and recipe."""
        train, held = data.split(recipe.holdout)
        if len(held) < part.k:
            raise ParmError(
                f"data set {data.name} holds out {len(held)} of its {len(data.train)} training images, too few for one "
                f"coding group of k = {part.k}; more training images are needed"
            )
        self.deployed, self.part, self.recipe, self.task = deployed.requires_grad_(False), part, recipe, data.task
        self.images, self.held = data.train[train].to(device), data.train[held].to(device)
        self.held_outputs = predict(deployed, self.held)
        self._views = {} if views is None else views
        self._view: View | None = None
        """The one of this epoch, where the recipe has a fixed number of them."""
        _refuse_moved_boxes(data, recipe)

    @cached_property
    def outputs(self) -> Tensor:
        """What the deployed model answers to the images without augmentation, (n, c)."""
        return predict(self.deployed, self.images)

    def rows(self, generator: Generator) -> Tensor:
        """See `Objective.rows`; shape (groups, k)."""
        if self.recipe.augments and self.recipe.views is not None:
            number = int(torch.randint(self.recipe.views, (), generator=generator, device=generator.device))
            if number not in self._views:
                self._views[number] = self._make_view(number)
            self._view = self._views[number]
        return random_groups(len(self.images), self.part.k, generator)

    def loss(self, module: nn.Module, rows: Tensor, generator: Generator) -> Tensor:
        """See `Objective.loss`."""
        queries = self.images[rows]
        if self._view is not None:
            queries = self._view.moves.of(rows.flatten()).apply(queries.flatten(0, 1)).reshape(queries.shape)
            outputs = self._view.outputs[rows]
        elif self.recipe.augments:
            moves = Moves.draw(rows.numel(), self.recipe.shift, self.recipe.flip, generator)
            flat = moves.apply(queries.flatten(0, 1))
            queries = flat.reshape(queries.shape)
            if self.recipe.augments_targets:
                with torch.no_grad():
                    outputs = self.deployed(flat).float().reshape(*rows.shape, -1)
            else:
                outputs = self.outputs[rows]
        else:
            outputs = self.outputs[rows]
        decoded = self.part.reconstruct(module, self.deployed, queries, outputs, generator)
        return self.recipe.parity_loss(decoded, outputs, self.task)

    def _make_view(self, number: int) -> View:
        """Augment every image, always alike for the same number, and run the deployed model on the result."""
        device = self.images.device
        moves = Moves.draw(len(self.images), self.recipe.shift, self.recipe.flip, Generator(device).manual_seed(number))
        if not self.recipe.augments_targets:
            return View(moves, self.outputs)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=self.recipe.mixed):
            outputs = [
                self.deployed(moves.of(rows).apply(self.images[rows])).float()
                for rows in torch.split(torch.arange(len(self.images), device=device), EVALUATION_BATCH)
            ]
        return View(moves, torch.cat(outputs))

    def score(self, module: nn.Module) -> float:
        """See `Objective.score`."""
        # Few held-out images give a coarse score: group them several times, always alike.
        groupings = max(1, 2000 // len(self.held))
        part = self.part
        modules = [module] * len(part.code.parts(part.k, part.r))
        own = self.task.answers(self.held_outputs)
        return degraded(
            part.code,
            part.k,
            part.r,
            modules,
            self.deployed,
            self.held,
            self.held_outputs,
            own,
            self.task,
            groupings=groupings,
            rows=part.rows,
        ).agreement


def _refuse_moved_boxes(data: TrainingData, recipe: Recipe) -> None:
    if data.task_name == "localisation" and recipe.augments:
        raise ParmError(f"data set {data.name} has boxes, which 'shift' and 'flip' do not move: leave both out")
