"""Ideas for parity models that no recipe has, at a recipe's cost: `python -m tests.benchmarks.ideas --data DIR`.

LeNet-5 on Fashion-MNIST as in `experiments/codes-lenet5.yaml`: a deployed model of eight epochs and parity models of
six, for each seed. The table has A_d of each idea and its difference to the recipe as it is, seed by seed;
docs/paper-accuracy.md has what came out. `mixed k` is one parity model for k = 2, 3 and 4; its steps take each image
once for every k, so that it costs what three parity models cost.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import torch
from pydantic import PrivateAttr
from scipy.stats import t
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.optim import AdamW, Optimizer

from experiments.run.models import load_data
from parity.codes import Addition, Thumbnails
from parity.codes.base import TensorCode
from parity.evaluation import degraded, predict, random_groups
from parity.networks import LeNet5
from parity.objectives import Reconstruction, TrainingData
from parity.recipes import Best
from parity.store import TEST_GROUPINGS, ModelStore
from parity.training import seed_of, train
from workloads.datasets.public import FashionMnist

CPU = torch.device("cpu")
DEPLOYED = Best(epochs=8, smoothing=0.1)
RECIPE = Best(epochs=6, lr=5e-3)
DECAY = 0.99
"""Of the mean of weights, from step to step."""
FEATURES = 0.1
"""Weight of the squared error of features."""
KS = (2, 3, 4)


class Averaged(AdamW):
    """AdamW that keeps a running mean of the weights."""

    def __init__(self, weights: list[nn.Parameter], **options: Any) -> None:
        super().__init__(weights, **options)
        self.weights, self.means = weights, [one.detach().clone() for one in weights]

    def step(self, closure: Any = None) -> Any:
        """See `Optimizer.step`."""
        found = super().step(closure)
        for kept, one in zip(self.means, self.weights, strict=True):
            kept.lerp_(one.detach(), 1 - DECAY)
        return found


class AveragedRecipe(Best):
    """The recipe, with that optimiser."""

    _made: Averaged = PrivateAttr()

    def optimiser(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """See `Recipe.optimiser`."""
        self._made = Averaged(list(parameters), lr=self.lr, weight_decay=self.weight_decay)
        return self._made


class HardGroups(Reconstruction):
    """Learns from the worse half of a step's groups."""

    def loss(self, module: nn.Module, rows: Tensor, generator: Generator) -> Tensor:
        """See `Objective.loss`."""
        outputs = self.outputs[rows]
        decoded = self.part.reconstruct(module, self.deployed, self.images[rows], outputs, generator)
        each = functional.kl_div(
            decoded.log_softmax(-1), outputs.log_softmax(-1), reduction="none", log_target=True
        ).sum((1, 2))
        worse = each.topk(math.ceil(len(each) / 2)).indices
        return self.recipe.parity_loss(decoded[worse], outputs[worse], self.task)


class Features(Reconstruction):
    """Learns the deployed model's last layer but one as well: its sum, or for thumbnails each query's."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        with _inputs_of_last_layer(self.deployed) as seen:
            predict(self.deployed, self.images)
        self.features = torch.cat(seen)

    def loss(self, module: nn.Module, rows: Tensor, generator: Generator) -> Tensor:
        """See `Objective.loss`."""
        outputs, wanted = self.outputs[rows], self.features[rows]
        with _inputs_of_last_layer(module) as seen:
            decoded = self.part.reconstruct(module, self.deployed, self.images[rows], outputs, generator)
        (own,) = seen
        target = wanted.sum(1) if len(own) == len(rows) else wanted.flatten(0, 1)
        return self.recipe.parity_loss(decoded, outputs, self.task) + FEATURES * functional.mse_loss(own, target)


class MixedK(Reconstruction):
    """One parity model for all of `KS`."""

    def rows(self, generator: Generator) -> Tensor:
        """See `Objective.rows`: of twelve images, which can be cut into groups of each k."""
        return random_groups(len(self.images), math.lcm(*KS), generator)

    def loss(self, module: nn.Module, rows: Tensor, generator: Generator) -> Tensor:
        """See `Objective.loss`."""
        losses = []
        for k in KS:
            groups = rows.reshape(-1, k)
            (part,) = Addition().parts(k, 1)
            outputs = self.outputs[groups]
            decoded = part.reconstruct(module, self.deployed, self.images[groups], outputs, generator)
            losses.append(self.recipe.parity_loss(decoded, outputs, self.task))
        return torch.stack(losses).mean()


@contextlib.contextmanager
def _inputs_of_last_layer(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what the last linear layer of a module is given while the block runs."""
    layer = [one for one in module.modules() if isinstance(one, nn.Linear)][-1]
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        yield seen
    finally:
        hook.remove()


class Bench:
    """The data, the deployed model of a seed, and how parity models are trained and judged."""

    def __init__(self, data: TrainingData, models: Path, seed: int) -> None:
        self.data, self.seed = data, seed
        self.deployed = ModelStore(models).classifier(LeNet5(), data, DEPLOYED, seed).module
        self.outputs = predict(self.deployed, data.test)

    def trained(
        self,
        code: TensorCode,
        k: int,
        objective: Callable[..., Reconstruction] = Reconstruction,
        recipe: Best = RECIPE,
        batch: int = 64,
    ) -> nn.Module:
        """Train a parity model."""
        (part,) = code.parts(k, 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.seed, "weights"))
            module = part.build(LeNet5(), self.data.shape, self.data.outputs, lambda _: None)
        part.start_from(module, self.deployed)
        goal = objective(self.data, copy.deepcopy(self.deployed), part, recipe, CPU)
        with TemporaryDirectory() as folder:
            train(module, goal, recipe, batch, self.seed, Path(folder) / "part", lambda *_: None, 1e9)
        return module

    def judged(self, code: TensorCode, k: int, module: nn.Module) -> float:
        """Return A_d in percent."""
        task, images, labels = self.data.task, self.data.test, self.data.test_labels
        found = degraded(
            code, k, 1, [module], self.deployed, images, self.outputs, labels, task, groupings=TEST_GROUPINGS
        )
        return 100 * found.quality

    def tempered(self, k: int, module: nn.Module) -> float:
        """Return A_d of the sum whose parity answers are multiplied by what is best on held-out images."""
        _, held = self.data.split(RECIPE.holdout)
        images = self.data.train[held]
        own = predict(self.deployed, images)
        answers = self.data.task.answers(own)

        def agreement(factor: float) -> float:
            trained, task = [_Times(module, factor)], self.data.task
            return degraded(Addition(), k, 1, trained, self.deployed, images, own, answers, task, groupings=1).agreement

        best = max((0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2), key=agreement)
        return self.judged(Addition(), k, _Times(module, best))

    def results(self) -> Iterator[tuple[str, str, float]]:
        """Yield code, idea and A_d."""
        for code in (Addition(), Thumbnails(layout=(1, 1))):
            name = code.name_in_yaml()
            plain = self.trained(code, 2)
            yield f"{name} k=2", "", self.judged(code, 2, plain)
            if isinstance(code, Addition):
                yield f"{name} k=2", "a factor for parity answers", self.tempered(2, plain)
            recipe = AveragedRecipe(**RECIPE.model_dump())
            module = self.trained(code, 2, recipe=recipe)
            for one, kept in zip(module.parameters(), recipe._made.means, strict=True):
                one.data.copy_(kept)
            yield f"{name} k=2", "averaged weights", self.judged(code, 2, module)
            yield f"{name} k=2", "the worse half of groups", self.judged(code, 2, self.trained(code, 2, HardGroups))
            yield f"{name} k=2", "features", self.judged(code, 2, self.trained(code, 2, Features))
        for k in KS[1:]:
            yield f"addition k={k}", "", self.judged(Addition(), k, self.trained(Addition(), k))
        mixed = self.trained(Addition(), 2, MixedK, batch=64 * 2 // math.lcm(*KS))
        for k in KS:
            yield f"addition k={k}", "mixed k", self.judged(Addition(), k, mixed)


class _Times(nn.Module):
    """A module whose outputs are multiplied."""

    def __init__(self, module: nn.Module, factor: float) -> None:
        super().__init__()
        self.module, self.factor = module, factor

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the module's."""
        answer: Tensor = self.factor * self.module(x)
        return answer


def spread(values: list[float]) -> str:
    """Return the mean and half the 95% interval of Student's t."""
    if len(values) < 2:
        return f"{mean(values):+.1f}"
    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return f"{mean(values):.1f} +-{half:.1f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the data set, where it is not installed")
    parser.add_argument("--models", type=Path, default=Path("models"), help="where the deployed models are kept")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    data = load_data(FashionMnist(), arguments.data)[0]
    found: dict[tuple[str, str], list[float]] = {}
    for seed in range(arguments.seeds):
        for code, idea, value in Bench(data, arguments.models, seed).results():
            found.setdefault((code, idea), []).append(value)
            print(f"seed {seed}: {code} {idea or 'as it is'}: {value:.2f}", flush=True)
    for (code, idea), values in found.items():
        apart = [value - plain for value, plain in zip(values, found[code, ""], strict=True)]
        print(f"{code:<16} {idea or 'as it is':<28} {spread(values):<14} {spread(apart) if idea else ''}")


if __name__ == "__main__":
    main()
