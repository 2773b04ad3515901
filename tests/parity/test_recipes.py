from __future__ import annotations

import pytest
import torch

from parity.codes import Addition
from parity.recipes import Best, Paper, Recipe
from parity.tasks import TASKS


def test_one_cycle_rises_to_its_rate_and_falls_to_zero() -> None:
    recipe = Best(lr=0.2, warmup=0.25)
    assert recipe.rate(0) == pytest.approx(0.2 / 25)
    assert recipe.rate(0.25) == pytest.approx(0.2)
    assert recipe.rate(0.625) == pytest.approx(0.1)
    assert recipe.rate(1) == pytest.approx(0)
    assert Best(lr=0.2, warmup=0).rate(0) == pytest.approx(0.2)


def test_paper_recipe_is_the_artifacts() -> None:
    recipe = Recipe.model_validate("paper")
    assert isinstance(recipe, Paper)
    assert (recipe.lr, recipe.weight_decay, recipe.epochs) == (1e-3, 1e-5, 500)
    assert [recipe.batch_size(k) for k in (2, 3, 4)] == [64, 32, 32]
    assert [recipe.rate(x) for x in (0, 0.5, 1)] == [1e-3] * 3
    assert not recipe.warm_start
    optimiser = recipe.optimiser([torch.nn.Parameter(torch.zeros(1))])
    assert type(optimiser) is torch.optim.Adam
    assert optimiser.defaults["weight_decay"] == 1e-5


def test_parity_losses_are_least_for_a_perfect_parity() -> None:
    outputs = torch.randn(8, 2, 5)
    for recipe in (Paper(), Best()):
        for task in TASKS.values():
            assert float(recipe.parity_loss(outputs, outputs, task)) == pytest.approx(0, abs=1e-6)
            assert float(recipe.parity_loss(outputs + torch.rand(5), outputs, task)) > 0.001


def test_the_papers_loss_is_the_error_on_the_sum() -> None:
    outputs, parity = torch.randn(8, 3, 5), torch.randn(8, 5)
    decoded = Addition().single_losses(outputs, parity, 1, 0)
    expected = ((parity - outputs.sum(1)) ** 2).mean()
    torch.testing.assert_close(Paper().parity_loss(decoded, outputs, TASKS["classification"]), expected)


def test_best_loss_is_mse_and_divergence_by_their_weights() -> None:
    outputs, decoded = torch.randn(8, 2, 5), torch.randn(8, 2, 5)
    mse = ((outputs - decoded) ** 2).mean()
    p, q = outputs.softmax(-1), decoded.softmax(-1)
    kl = (p * (p / q).log()).sum(-1).mean()
    found = Best(mse=0.5, kl=2).parity_loss(decoded, outputs, TASKS["classification"])
    torch.testing.assert_close(found, 0.5 * mse + 2 * kl)
