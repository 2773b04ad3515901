"""How fast models are trained, by precision, batch and whether steps are recorded.

`python -m tests.benchmarks.training [--device cuda] [--out DIR]` lets epochs over noise of CIFAR-10's shape take turns,
of a ResNet-18 as the deployed model and as a parity model of k = 2 whose images are views. The table has the median of
the rounds; it is written as `training.json` too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Generator

from backends.torch_backend import TorchBackend
from experiments.run.manifest import git_revision, versions
from parity.codes import Addition
from parity.networks import ResNet18
from parity.objectives import Objective, Reconstruction, Supervised, TrainingData
from parity.recipes import Best
from parity.steps import Steps, prepare
from tests.benchmarks.inference import Clock, take_turns

SEED = 1
SHAPE, CLASSES = (3, 32, 32), 10


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast one model is trained one way."""

    role: str
    options: str
    """Of its recipe."""
    batch: int
    """Images or, for a parity model, coding groups in a step."""
    rows: float
    """Of these per second, augmentation and optimiser included; seconds of a step are `batch / rows`."""
    refused: str
    """Why steps were not recorded, where they were to be."""


def recipes(compiled: bool, on_cuda: bool) -> dict[str, Best]:
    """Return the recipes to compare, by what is special in them."""
    found = {"single": Best(), "bfloat16": Best(mixed=True)}
    if on_cuda:
        found["bfloat16, recorded"] = Best(mixed=True, graphed=True)
    if compiled:
        found["bfloat16, compiled"] = Best(mixed=True, compiled=True)
        if on_cuda:
            found["bfloat16, compiled, recorded"] = Best(mixed=True, compiled=True, graphed=True)
    return {
        name: recipe.model_copy(update={"shift": 4, "flip": True, "views": 1, "smoothing": 0.1, "holdout": 2})
        for name, recipe in found.items()
    }


def noise(n: int) -> TrainingData:
    """Return a data set of noise."""
    images = torch.randn(n, *SHAPE, generator=Generator().manual_seed(SEED))
    labels = torch.randint(CLASSES, (n,), generator=Generator().manual_seed(SEED))
    return TrainingData("noise", "", "", CLASSES, images, labels, images[:1], labels[:1])


def measure(
    backend: TorchBackend,
    network: ResNet18,
    chosen: dict[str, Best],
    batches: dict[str, tuple[int, ...]],
    steps: int,
    rounds: int,
) -> list[Pace]:
    """Let epochs of `steps` steps take turns, for each role and each of its batches."""
    torch.manual_seed(SEED)
    device, paces = backend.device, []
    for role, sizes in batches.items():
        for batch in sizes:
            k = 2 if role == "parity" else 1
            data = noise(steps * batch * k + 2)
            works: dict[str, Callable[[], object]] = {}
            made: dict[str, Steps] = {}
            for name, recipe in chosen.items():
                module = network.build(SHAPE, CLASSES).to(device)
                objective: Objective
                if role == "parity":
                    deployed, (part,) = network.build(SHAPE, CLASSES).eval().to(device), Addition().parts(2, 1)
                    objective = Reconstruction(data, deployed, part, recipe, device)
                else:
                    objective = Supervised(data, recipe, device)
                prepare(module, recipe)
                made[name] = Steps(module, objective, recipe, recipe.optimiser(module.parameters()), batch)
                works[name] = lambda one=made[name]: one.epoch(0, Generator(device).manual_seed(SEED))  # type: ignore[misc]
            took = take_turns(works, Clock(backend), rounds)
            paces += [
                Pace(role, name, batch, steps * batch / seconds, made[name].refused) for name, seconds in took.items()
            ]
            for pace in paces[-len(took) :]:
                print(
                    f"{pace.role:<10}{pace.options:<30}batch {pace.batch:<6}{pace.rows:>10,.0f} rows/s"
                    f"{1e3 * pace.batch / pace.rows:>10.2f} ms/step  {pace.refused}",
                    flush=True,
                )
    return paces


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--width", type=int, default=64, help="of the ResNet-18")
    parser.add_argument("--batches", default="128,512,1024")
    parser.add_argument("--steps", type=int, default=60, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compiled", action="store_true", help="compiled networks too, which take minutes")
    parser.add_argument("--out", type=Path, help="folder for the results")
    given = parser.parse_args()
    backend, network = TorchBackend(given.device), ResNet18(width=given.width)
    batches = tuple(int(batch) for batch in given.batches.split(","))
    chosen = recipes(given.compiled, backend.device.type == "cuda")
    print(f"{backend.name}, torch {torch.__version__}, ResNet-18 width {given.width}, median of {given.rounds}")
    paces = measure(backend, network, chosen, {"deployed": batches, "parity": batches}, given.steps, given.rounds)
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        document = {
            "manifest": {
                "command": f"python -m tests.benchmarks.training --device {backend.device} --width {given.width} "
                f"--batches {given.batches} --steps {given.steps} --rounds {given.rounds}"
                + " --compiled"
                * given.compiled,
                "device": backend.name,
                "seed": SEED,
                "revision": git_revision(),
                "versions": versions(),
            },
            "paces": [asdict(pace) for pace in paces],
        }
        (given.out / "training.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
