from __future__ import annotations

import pytest
import torch
from torch import Generator, nn
from torch.nn import functional

from parity.codes import Addition
from parity.codes.linear import ParityRow
from parity.evaluation import degraded, predict, quality, random_groups
from parity.objectives import Moves, Reconstruction, Supervised, TrainingData, cut_out
from parity.recipes import Best, Paper, Recipe
from sim.errors import ParmError

CPU = torch.device("cpu")


def linear(data: TrainingData, seed: int = 0) -> nn.Module:
    """A linear model: its own parity model for every linear code."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, data.outputs, bias=False)).eval()


def test_held_out_images_are_the_same_for_both_roles_and_a_tenth_at_most(data: TrainingData) -> None:
    train, held = data.split(5000)
    assert (len(train), len(held)) == (360, 40)
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(400))
    parity = Reconstruction(data, linear(data), ParityRow(Addition(), 2, 1, (0,)), Best(), CPU)
    assert torch.equal(Supervised(data, Best(), CPU).held, parity.held)
    assert len(data.split(3)[1]) == 3


def test_groups_cover_the_images_once_and_change_with_the_generator() -> None:
    generator = Generator().manual_seed(1)
    first, second = random_groups(11, 3, generator), random_groups(11, 3, generator)
    assert first.shape == (3, 3)
    assert len(set(first.flatten().tolist())) == 9
    assert not torch.equal(first, second)


@pytest.mark.parametrize("row", [0, 1])
def test_degraded_accuracy_of_a_perfect_parity_model_is_the_available_one(data: TrainingData, row: int) -> None:
    module = linear(data)
    outputs = predict(module, data.test)
    both = [module, module]
    images, labels = data.test, data.test_labels
    found = degraded(Addition(), 3, 2, both, module, images, outputs, labels, data.task, groupings=4, rows=(row,))
    assert found.agreement == 1
    assert found.quality == pytest.approx(quality(module, data.test, data.test_labels, data.task))


def test_a_parity_model_that_knows_nothing_scores_low(data: TrainingData) -> None:
    parity = ParityRow(Addition(), 2, 1, (0,))
    objective = Reconstruction(data, linear(data), parity, Best(), CPU)
    assert objective.score(linear(data)) == 1
    assert objective.score(linear(data, seed=5)) < 0.8


@pytest.mark.parametrize("recipe", [Best(), Paper(), Best(shift=1, flip=True)])
@pytest.mark.parametrize("row", [0, 1])
def test_parity_loss_vanishes_for_a_perfect_parity_model(data: TrainingData, recipe: Recipe, row: int) -> None:
    # With augmentation this holds only if the targets are those of the augmented images.
    objective = Reconstruction(data, linear(data), ParityRow(Addition(), 3, 2, (row,)), recipe, CPU)
    generator = Generator().manual_seed(0)
    rows = objective.rows(generator)[:32]
    assert float(objective.loss(linear(data), rows, generator).detach()) == pytest.approx(0, abs=1e-5)
    assert float(objective.loss(linear(data, seed=5), rows, generator).detach()) > 0.01


def test_the_paper_keeps_the_targets_of_plain_images(data: TrainingData) -> None:
    objective = Reconstruction(data, linear(data), ParityRow(Addition(), 2, 1, (0,)), Paper(shift=2), CPU)
    generator = Generator().manual_seed(0)
    assert float(objective.loss(linear(data), objective.rows(generator), generator).detach()) > 0.01


def test_too_few_images_for_a_group_are_refused(data: TrainingData) -> None:
    few = TrainingData("few", "f", "", 4, data.train[:25], data.train_labels[:25], data.test, data.test_labels)
    with pytest.raises(ParmError, match=r"data set few holds out 2 of its 25 training images, too few .* k = 3"):
        Reconstruction(few, linear(few), ParityRow(Addition(), 3, 1, (0,)), Best(), CPU)


def test_augmentation_shifts_by_whole_pixels_and_mirrors() -> None:
    picture = torch.arange(1, 13.0).view(1, 1, 3, 4)
    images = picture.repeat(200, 2, 1, 1)
    padded = torch.nn.functional.pad(picture[0, 0], (1, 1, 1, 1))
    shifted = {tuple(padded[i : i + 3, j : j + 4].flatten().tolist()) for i in range(3) for j in range(3)}
    moves = Moves.draw(200, 1, False, Generator().manual_seed(0))
    found = moves.apply(images)
    assert {tuple(x.flatten().tolist()) for x in found[:, 1]} == shifted
    assert torch.equal(found[:, 0], found[:, 1])
    some = torch.tensor([5, 3, 190])
    assert torch.equal(moves.of(some).apply(images[some]), found[some])
    flipped = Moves.draw(200, 0, True, Generator().manual_seed(0)).apply(images)
    same = (flipped == images).all(-1).all(-1).all(-1)
    assert 60 < int(same.sum()) < 140
    assert torch.equal(flipped[~same], images[~same].flip(-1))
    assert torch.equal(Moves.draw(200, 0, False, Generator()).apply(images), images)


class Counted(nn.Module):
    """A module that counts its passes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.images = module, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.images += len(x)
        found: torch.Tensor = self.module(x)
        return found


def test_views_are_few_and_ask_the_deployed_model_once_each(data: TrainingData) -> None:
    deployed = Counted(linear(data)).eval()
    recipe = Best(shift=1, flip=True, views=3)
    objective = Reconstruction(data, deployed, ParityRow(Addition(), 2, 1, (0,)), recipe, CPU)
    asked = deployed.images
    seen = set()
    for epoch in range(20):
        generator = Generator().manual_seed(epoch)
        rows = objective.rows(generator)
        # A model that is linear reconstructs exactly, if the targets are those of the moved images.
        assert float(objective.loss(linear(data), rows, generator).detach()) == pytest.approx(0, abs=1e-5)
        seen.add(float(objective.loss(linear(data, seed=5), torch.arange(40).view(20, 2), generator).detach()))
    assert len(seen) == 3
    assert deployed.images - asked == 3 * 360


def test_a_view_is_the_same_after_an_interruption(data: TrainingData) -> None:
    recipe, losses = Best(shift=1, flip=True, views=4), []
    for _ in range(2):
        objective = Reconstruction(data, linear(data), ParityRow(Addition(), 2, 1, (0,)), recipe, CPU)
        generator = Generator().manual_seed(7)
        rows = objective.rows(generator)
        losses.append(float(objective.loss(linear(data, seed=5), rows, generator).detach()))
    assert losses[0] == losses[1]


def test_label_smoothing_is_the_deployed_models_loss(data: TrainingData) -> None:
    module, generator = linear(data), Generator().manual_seed(0)
    rows = torch.arange(64)
    found = Supervised(data, Best(smoothing=0.2), CPU).loss(module, rows, generator)
    plain = Supervised(data, Best(smoothing=0.0), CPU)
    outputs = module(plain.images[rows])
    even = -outputs.log_softmax(-1).mean()
    torch.testing.assert_close(found, 0.8 * plain.loss(module, rows, generator) + 0.2 * even)


def test_mixup_mixes_images_and_labels_alike(data: TrainingData) -> None:
    """Of one image alone nothing changes; two are trained with at one point between them, each as much as its share."""
    module, rows, generator = linear(data), torch.arange(64), Generator().manual_seed(0)
    mixed, plain = Supervised(data, Best(mixup=0.4), CPU), Supervised(data, Best(), CPU)
    assert torch.equal(mixed.loss(module, rows[:1], generator), plain.loss(module, rows[:1], generator))
    torch.manual_seed(5)
    found = mixed.loss(module, rows, generator)
    torch.manual_seed(5)
    share = torch.distributions.Beta(torch.tensor(0.4), torch.tensor(0.4)).sample()
    images, labels = plain.images[rows], plain.labels[rows]
    logs = module(share * images.roll(1, 0) + (1 - share) * images).log_softmax(-1)
    wanted = -(share * logs[rows, labels.roll(1, 0)] + (1 - share) * logs[rows, labels]).mean()
    torch.testing.assert_close(found, wanted)
    assert not torch.equal(found, plain.loss(module, rows, generator))


@pytest.mark.parametrize("side", [1, 4, 5, 40])
def test_cutout_hides_one_square_of_each_image(side: int) -> None:
    images = torch.rand(300, 3, 9, 12) + 1
    found = cut_out(images, side, Generator().manual_seed(2))
    hidden = (found == 0).all(1)
    assert torch.equal(torch.where(hidden[:, None], 0.0, images), found)
    rows, columns = hidden.any(2), hidden.any(1)
    assert torch.equal(hidden, rows[:, :, None] & columns[:, None, :])
    for lines, length in ((rows, 9), (columns, 12)):
        count = lines.sum(1)
        assert int(count.max()) == min(side, length)
        assert int(count.min()) >= min(length, (side + 1) // 2)
        assert int(lines.diff(dim=1).sum(1).max()) <= 2, "in one piece"
        assert bool(lines.any(0).all()), "everywhere"


def test_cutout_is_the_deployed_models_alone(data: TrainingData) -> None:
    module, rows = linear(data), torch.arange(64)
    plain, cut = (Supervised(data, recipe, CPU) for recipe in (Best(), Best(cutout=4)))
    found = cut.loss(module, rows, Generator().manual_seed(3))
    hidden = cut_out(plain.images[rows], 4, Generator().manual_seed(3))
    torch.testing.assert_close(found, functional.cross_entropy(module(hidden), plain.labels[rows]))
    assert not torch.equal(found, plain.loss(module, rows, Generator().manual_seed(3)))
