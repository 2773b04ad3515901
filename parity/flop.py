"""What a training costs: floating-point operations, counted in one small step and multiplied."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, nn
from torch.utils.flop_counter import FlopCounterMode

from parity.codes.base import Part
from parity.objectives import Objective, Reconstruction, Supervised, TrainingData
from parity.recipes import Recipe

ROWS = 8
"""Images, or coding groups, of the step that is counted."""


def classifier_flop(module: nn.Module, data: TrainingData, recipe: Recipe, epochs: int) -> float:
    """Return the FLOP of `epochs` of training a deployed model or a backup; a multiplication with its addition is two.

    What is counted are convolutions, matrix products and attention, forward and backward.
    """
    device, images = next(module.parameters()).device, len(data.split(recipe.holdout)[0])
    return epochs * images * _step(module, Supervised(_few(data, 1), _plain(recipe), device)) / ROWS


def part_flop(
    module: nn.Module, deployed: nn.Module, part: Part[Any], data: TrainingData, recipe: Recipe, epochs: int
) -> float:
    """Return the FLOP of training a part of a code, as `classifier_flop`, with the deployed model's outputs that it
    learns from."""
    device, images = next(module.parameters()).device, len(data.split(recipe.holdout)[0])
    objective = Reconstruction(_few(data, part.k), copy.deepcopy(deployed), part, _plain(recipe), device)
    sample = objective.images[:ROWS]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        deployed(sample)
    times = 1 if not (recipe.augments and recipe.augments_targets) else min(recipe.views or epochs, epochs)
    targets = times * images * float(counter.get_total_flops()) / len(sample)
    assert objective.outputs is not None  # computed before the step is counted
    return epochs * (images // part.k) * _step(module, objective) / ROWS + targets


def _step(module: nn.Module, objective: Objective) -> float:
    """Return the FLOP of a step with `ROWS` rows, forward and backward."""
    module = copy.deepcopy(module).requires_grad_(True).train()
    generator = Generator(next(module.parameters()).device).manual_seed(0)
    rows = objective.rows(generator)[:ROWS]
    with FlopCounterMode(display=False) as counter:
        objective.loss(module, rows, generator).backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops())


def _few(data: TrainingData, k: int) -> TrainingData:
    """Return as little data of the same shape as a step takes."""
    images = torch.zeros(2 * ROWS * max(k, 5), *data.shape)
    labels = data.train_labels[:1].expand(len(images), *data.train_labels.shape[1:]).clone()
    return replace(data, train=images, train_labels=labels, test=images[:1], test_labels=labels[:1])


def _plain(recipe: Recipe) -> Recipe:
    """Return the recipe without what moves images, which costs nothing that is counted."""
    return recipe.model_copy(update={"shift": 0, "flip": False, "views": None})
