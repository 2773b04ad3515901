"""FLOP of trainings, against what is counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from parity.codes.linear import Addition, ParityRow
from parity.flop import classifier_flop, part_flop
from parity.networks import Mlp
from parity.objectives import TrainingData
from parity.recipes import Best, Paper

HIDDEN = 5
FIRST, SECOND = 64 * HIDDEN, HIDDEN * 10
"""Multiplications of the two layers."""
STEP = 2 * (2 * FIRST + 3 * SECOND)
"""An image forward and backward: the first layer passes nothing further back."""


@pytest.fixture(scope="module")
def data() -> TrainingData:
    images, labels = torch.rand(500, 1, 8, 8), torch.arange(500) % 10
    return TrainingData("some", "", "", 10, images, labels, images[:100], labels[:100])


def network(data: TrainingData) -> nn.Module:
    return Mlp(hidden=(HIDDEN,)).build(data.shape, data.outputs)


def test_a_classifiers_training_is_counted_exactly(data: TrainingData) -> None:
    recipe = Best(holdout=50, shift=1, flip=True, views=3, smoothing=0.1)
    assert classifier_flop(network(data), data, recipe, epochs=7) == 7 * 450 * STEP


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize(
    ("recipe", "targets"),
    [
        (Best(holdout=50), 1),
        (Best(holdout=50, shift=1), 7),
        (Best(holdout=50, shift=1, views=3), 3),
        (Best(holdout=50, flip=True, views=30), 7),
        (Paper(holdout=50, shift=1), 1),
    ],
)
def test_a_parity_models_training_takes_a_step_per_group_and_the_deployed_models_answers(
    data: TrainingData, recipe: Best | Paper, targets: int, k: int
) -> None:
    module, deployed, part = network(data), network(data), ParityRow(Addition(), k, 1, (0,))
    found = part_flop(module, deployed, part, data, recipe, epochs=7)
    encoding = 2 * k * 64
    assert found == 7 * (450 // k) * (STEP + encoding) + targets * 450 * 2 * (FIRST + SECOND)
    assert all(one.grad is None for model in (module, deployed) for one in model.parameters())
