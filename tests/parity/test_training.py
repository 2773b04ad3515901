from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Generator, Tensor, nn

from parity.codes import Addition
from parity.networks import Mlp, Network, ResNet18, Speedrun
from parity.objectives import Supervised, TrainingData
from parity.recipes import Best, Muon, Paper, Recipe
from parity.shape import Shape
from parity.store import ModelStore, TrainedModel
from parity.training import Fit, TrainingStatus, train
from sim.errors import ParmError

NETWORK = Mlp(hidden=(16,))


class Killed(BaseException):
    """Stands in for a signal: nothing of ours catches it."""


def run(
    store: ModelStore, data: TrainingData, recipe: Recipe, seed: int, network: Network, kill_at: dict[str, int]
) -> tuple[list[TrainedModel], list[tuple[str, int]]]:
    """Train a deployed and a parity model; `kill_at` names the epoch of each role after which to die."""
    epochs: list[tuple[str, int]] = []

    def progress(status: TrainingStatus) -> None:
        epochs.append((status.role, status.epoch))
        assert 0 <= status.score <= 1
        if kill_at.get(status.role) == status.epoch:
            raise Killed

    store.progress = progress
    deployed = store.classifier(network, data, recipe, seed)
    return [deployed, *store.parts(deployed, data, Addition(), 2, 1, recipe, seed)], epochs


def same(left: nn.Module, right: nn.Module) -> bool:
    a, b = left.state_dict(), right.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("recipe", "network"),
    [
        (Best(epochs=6, shift=1), NETWORK),
        (Paper(epochs=6), NETWORK),
        (Best(epochs=6), ResNet18(width=2)),
        (Muon(epochs=6), Speedrun(width=4)),
    ],
)
def test_a_killed_training_resumes_to_the_very_same_weights(
    data: TrainingData, recipe: Recipe, network: Network, tmp_path: Path
) -> None:
    whole, _ = run(ModelStore(tmp_path / "whole"), data, recipe, 3, network, {})
    broken = ModelStore(tmp_path / "broken", checkpoint_seconds=0)
    for role, at in (("deployed", 2), ("deployed", 4), ("parity", 3)):
        with pytest.raises(Killed):
            run(broken, data, recipe, 3, network, {role: at})
    resumed, epochs = run(broken, data, recipe, 3, network, {})
    # What was done is not done again: the parity model alone goes on, from the epoch after its last checkpoint.
    assert epochs == [("parity", 4), ("parity", 5), ("parity", 6)]
    assert all(same(a.module, b.module) for a, b in zip(whole, resumed, strict=True))
    assert [m.card["validation"] for m in whole] == [m.card["validation"] for m in resumed]
    assert not list((tmp_path / "broken").glob("*.part"))


def test_seed_decides_and_the_global_random_state_is_left_alone(data: TrainingData, tmp_path: Path) -> None:
    recipe = Best(epochs=2)
    before = torch.random.get_rng_state()
    first = ModelStore(tmp_path / "a").classifier(NETWORK, data, recipe, 1)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(99)
    assert same(first.module, ModelStore(tmp_path / "b").classifier(NETWORK, data, recipe, 1).module)
    assert not same(first.module, ModelStore(tmp_path / "a").classifier(NETWORK, data, recipe, 2).module)


class Scripted:
    """An objective whose validation scores are given; every step moves the one weight by the learning rate."""

    def __init__(self, scores: list[float]) -> None:
        self.scores = scores
        self.sizes: list[int] = []

    def rows(self, generator: Generator) -> Tensor:
        return torch.arange(21)

    def loss(self, module: nn.Module, rows: Tensor, generator: Generator) -> Tensor:
        self.sizes.append(len(rows))
        return module.weight.sum()  # type: ignore[operator]

    def score(self, module: nn.Module) -> float:
        self.kept = getattr(self, "kept", [])
        self.kept.append(module.get_parameter("weight").item())
        return self.scores[len(self.kept) - 1]


def test_the_best_epoch_is_kept_and_of_equals_the_last(tmp_path: Path) -> None:
    module, objective = nn.Linear(1, 1, bias=False), Scripted([0.1, 0.7, 0.3, 0.7, 0.2])
    seen: list[int] = []

    def report(fit: Fit, loss: float, score: float) -> None:
        seen.append(fit.best_epoch)

    fit = train(module, objective, Best(epochs=5), 10, 0, tmp_path / "state", report)
    assert seen == [1, 2, 2, 4, 4]
    assert (fit.best_epoch, fit.best_score, fit.epoch) == (4, 0.7, 5)
    assert float(module.weight.detach()) == objective.kept[3]
    assert not module.training
    # No step of a single row, which batch norm could not take: 21 rows in steps of up to 10 are 7 + 7 + 7.
    assert objective.sizes == [7] * 15


def test_a_loss_that_is_not_finite_is_one_clear_sentence(data: TrainingData, tmp_path: Path) -> None:
    objective = Supervised(data, Best(), torch.device("cpu"))
    module = NETWORK.build(data.shape, data.outputs)
    with pytest.raises(ParmError, match=r"diverged in epoch \d.* lr below 1e\+30"):
        train(module, objective, Best(lr=1e30), 64, 0, tmp_path / "state", lambda *_: None)


class Dropping(Network):
    """A user's network that draws random numbers of its own in training."""

    kind: Literal["dropping"] = "dropping"

    def build(self, shape: Shape, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.5), nn.Linear(16, outputs))


def test_layers_that_draw_are_seeded_and_leave_the_callers_random_state_alone(
    data: TrainingData, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    first = ModelStore(tmp_path / "a").classifier(Dropping(), data, Best(epochs=2), 0)
    after = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(3))
    torch.manual_seed(2)
    assert same(first.module, ModelStore(tmp_path / "b").classifier(Dropping(), data, Best(epochs=2), 0).module)


@pytest.mark.parametrize(("width", "expected"), [(8, False), (16, True)])
def test_only_wide_networks_are_trained_channels_last(
    data: TrainingData, tmp_path: Path, width: int, expected: bool
) -> None:
    # torch 2.14 crashes in the backward pass of narrow ones, for some odd batches on several threads.
    module = ResNet18(width=width).build(data.shape, data.outputs)
    recipe = Best(epochs=1)
    objective = Supervised(data, recipe, torch.device("cpu"))
    train(module, objective, recipe, 64, 0, tmp_path / "state", lambda *_: None)
    kernels = [one.weight for one in module.modules() if isinstance(one, nn.Conv2d) and one.kernel_size == (3, 3)]
    last = [one.is_contiguous(memory_format=torch.channels_last) for one in kernels if one.shape[1] > 1]
    assert set(last) == {expected}
