"""What a model is trained for and judged by: the two objectives that `training.train` minimises.

Both keep their data on the device, hand out row numbers per step, and share one held-out part of the training set, so
that a parity model is judged on images that the deployed model has not been fitted to either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from parity.augment import augment
from parity.codes import LinearCode
from parity.networks import Shape
from parity.recipes import Recipe
from sim.errors import ParmError

EVALUATION_BATCH = 1024
"""Images per forward pass outside training."""


@dataclass(frozen=True)
class TrainingData:
    """A data set as training needs it: images float32 (n, c, h, w), normalised; labels int64 (n,); on the CPU."""

    name: str
    fingerprint: str
    """Identifies the content, so that models of other data are not taken for models of this."""
    note: str
    """A caveat that belongs beside every number measured on it, or empty."""
    classes: int
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor

    @property
    def shape(self) -> Shape:
        """Channels, height, width."""
        _, channels, height, width = self.train.shape
        return channels, height, width

    def split(self, holdout: int) -> tuple[Tensor, Tensor]:
        """Row numbers to train with and to hold out, always the same for the same sizes."""
        n = len(self.train)
        order = torch.randperm(n, generator=Generator().manual_seed(0))
        held = max(1, min(holdout, n // 10))
        return order[held:], order[:held]


@dataclass(frozen=True)
class ParityRow:
    """One parity row of a code: what one parity model stands for."""

    code: LinearCode
    k: int
    r: int
    row: int

    def encode(self, queries: Tensor) -> Tensor:
        """(g, k, *shape) -> (g, *shape)."""
        return self.code.encode(queries, self.r)[:, self.row]

    def target(self, outputs: Tensor) -> Tensor:
        """(g, k, c) -> (g, c) in the outputs' dtype."""
        return self.code.targets(outputs, self.r)[:, self.row].to(outputs.dtype)

    def reconstruct(self, outputs: Tensor, parity: Tensor) -> Tensor:
        """Each slot as the only lost one: (g, k, c), (g, c) -> (g, k, c)."""
        return self.code.single_losses(outputs, parity, self.r, self.row)


class Objective(Protocol):
    """What `training.train` minimises."""

    def rows(self, generator: Generator) -> Tensor:
        """Row numbers of one epoch in random order; a step takes some of them."""

    def loss(self, module: nn.Module, rows: Tensor, generator: Generator) -> Tensor:
        """Training loss of one step."""

    def score(self, module: nn.Module) -> float:
        """Quality on the held-out images, higher is better; `module` is in evaluation mode."""


def predict(module: nn.Module, images: Tensor) -> Tensor:
    """Raw outputs of a module in evaluation mode, in batches, without gradients: (n, *shape) -> (n, c)."""
    with torch.no_grad():
        return torch.cat([module(part) for part in torch.split(images, EVALUATION_BATCH)])


class Classification:
    """The deployed model's: cross-entropy, judged by top-1 accuracy."""

    def __init__(self, data: TrainingData, recipe: Recipe, device: torch.device) -> None:
        train, held = data.split(recipe.holdout)
        self.recipe = recipe
        self.images, self.labels = data.train[train].to(device), data.train_labels[train].to(device)
        self.held, self.held_labels = data.train[held].to(device), data.train_labels[held].to(device)

    def rows(self, generator: Generator) -> Tensor:
        """See `Objective.rows`; shape (n,)."""
        return torch.randperm(len(self.images), generator=generator, device=self.images.device)

    def loss(self, module: nn.Module, rows: Tensor, generator: Generator) -> Tensor:
        """See `Objective.loss`."""
        images = augment(self.images[rows], self.recipe.shift, self.recipe.flip, generator)
        return functional.cross_entropy(module(images), self.labels[rows])

    def score(self, module: nn.Module) -> float:
        """See `Objective.score`."""
        return accuracy(module, self.held, self.held_labels)


class Reconstruction:
    """A parity model's: the recipe's parity loss, judged by how often reconstructions agree with the deployed model.

    `deployed` is in evaluation mode on `device`; its outputs are computed once.
    """

    def __init__(
        self, data: TrainingData, deployed: nn.Module, parity: ParityRow, recipe: Recipe, device: torch.device
    ) -> None:
        train, held = data.split(recipe.holdout)
        if len(held) < parity.k:
            raise ParmError(
                f"data set {data.name} holds out {len(held)} of its {len(data.train)} training images, too few for one "
                f"coding group of k = {parity.k}; more training images are needed"
            )
        self.deployed, self.parity, self.recipe = deployed, parity, recipe
        self.images, self.held = data.train[train].to(device), data.train[held].to(device)
        self.outputs, self.held_outputs = predict(deployed, self.images), predict(deployed, self.held)
        self.augments = bool(recipe.shift or recipe.flip)

    def rows(self, generator: Generator) -> Tensor:
        """See `Objective.rows`; shape (groups, k)."""
        return random_groups(len(self.images), self.parity.k, generator)

    def loss(self, module: nn.Module, rows: Tensor, generator: Generator) -> Tensor:
        """See `Objective.loss`."""
        queries, outputs = self.images[rows], self.outputs[rows]
        if self.augments:
            flat = augment(queries.flatten(0, 1), self.recipe.shift, self.recipe.flip, generator)
            queries = flat.reshape(queries.shape)
            if self.recipe.augments_targets:
                with torch.no_grad():
                    outputs = self.deployed(flat).reshape(outputs.shape)
        answer = module(self.parity.encode(queries))
        decoded = self.parity.reconstruct(outputs, answer)
        return self.recipe.parity_loss(answer, self.parity.target(outputs), decoded, outputs)

    def score(self, module: nn.Module) -> float:
        """See `Objective.score`."""
        # Few held-out images give a coarse score: group them several times, always alike.
        groupings = max(1, 2000 // len(self.held))
        own = self.held_outputs.argmax(-1)
        return degraded(module, self.parity, self.held, self.held_outputs, own, groupings)[0]


def random_groups(n: int, k: int, generator: Generator) -> Tensor:
    """Cut 0 .. n-1 in random order into groups, (n // k, k); the remainder is left out."""
    return torch.randperm(n, generator=generator, device=generator.device)[: n // k * k].view(-1, k)


def accuracy(module: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy of a module in evaluation mode."""
    return float((predict(module, images).argmax(-1) == labels).double().mean())


def degraded(
    module: nn.Module, parity: ParityRow, images: Tensor, outputs: Tensor, labels: Tensor, groupings: int
) -> tuple[float, float]:
    """How often reconstructions are right, over random groupings (always the same) and every single-loss slot.

    `outputs` are the deployed model's for `images`. Returns the fraction equal to `labels` (with true labels this is
    the paper's A_d) and the fraction equal to the deployed model's own answer.
    """
    generator = Generator(images.device).manual_seed(0)
    groups = torch.cat([random_groups(len(images), parity.k, generator) for _ in range(groupings)])
    decoded = []
    with torch.no_grad():
        for rows in torch.split(groups, EVALUATION_BATCH):
            answer = module(parity.encode(images[rows]))
            decoded.append(parity.reconstruct(outputs[rows], answer).argmax(-1))
    answers = torch.cat(decoded)
    right, agrees = answers == labels[groups], answers == outputs.argmax(-1)[groups]
    return float(right.double().mean()), float(agrees.double().mean())
