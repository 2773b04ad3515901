"""What corrupt instances answer: the kinds of `corruption`. Which instances that are, and when: `sim.corruption`.

Every kind changes an answer's outputs, so that a comparison of all outputs always notices a wrong one, while the class
may stay right by chance. torch is imported inside methods only, so that YAML can name a kind without loading it.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveFloat

from parity.recipes import Recipe
from sim.corruption import Corruption
from sim.errors import ParmError
from sim.trace import Floats

if TYPE_CHECKING:
    from torch import Tensor

Keys = NDArray[np.uint64]

LARGEST = 1e30
"""Outputs that a flipped bit makes larger are cut to this, so that sums of them are still finite."""


@dataclass(frozen=True, slots=True)
class Draws:
    """Random numbers for n wrong answers: each depends on its key and on nothing else."""

    answers: Keys
    """A key for each answer, (n,): of the trial, the cause, the instance and the query."""
    instances: Keys
    """A key for each answer's instance, (n,)."""

    def of_answers(self, count: int) -> Floats:
        """Return `count` numbers in [0, 1) for each answer, (n, count)."""
        return uniforms(self.answers, count)

    def of_instances(self, count: int) -> Floats:
        """Return `count` numbers in [0, 1) for each answer's instance, (n, count), equal for equal instances."""
        return uniforms(self.instances, count)


def uniforms(keys: Keys, count: int) -> Floats:
    """Return numbers in [0, 1) for each key, (n, count), by SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    step = np.uint64(0x9E3779B97F4A7C15)
    return mixed(keys[:, None] + step * np.arange(1, count + 1, dtype=np.uint64)) / 2.0**64 * (1 - 2.0**-53)


def mixed(keys: Keys) -> Keys:
    """Return SplitMix64's output function of each key; same shape."""
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


class TensorCorruption(Corruption):
    """A cause of wrong answers that computes them from the right ones."""

    @abstractmethod
    def corrupt(self, outputs: Tensor, draws: Draws) -> Tensor:
        """Return n wrong answers in place of the right ones, (n, c); both on the same device.

        Raises ParmError where the model has no such class.
        """


class RandomClass(TensorCorruption):
    """Each wrong answer names another class, drawn anew: its output and the largest one are exchanged."""

    kind: Literal["random_class"] = "random_class"

    @property
    def alike(self) -> bool:
        """Two instances draw for themselves."""
        return False

    def corrupt(self, outputs: Tensor, draws: Draws) -> Tensor:
        """Exchange the largest output with that of a random other class."""
        import torch

        n, c = outputs.shape
        top = outputs.argmax(1)
        further = torch.from_numpy((draws.of_answers(1)[:, 0] * (c - 1)).astype(np.int64)).to(outputs.device)
        other = (top + 1 + further) % c
        rows = torch.arange(n, device=outputs.device)
        wrong = outputs.clone()
        wrong[rows, top], wrong[rows, other] = outputs[rows, other], outputs[rows, top]
        return wrong


class ConstantClass(TensorCorruption):
    """All wrong answers are the same, as of a process that is stuck: one class, whatever the query."""

    kind: Literal["constant_class"] = "constant_class"
    answer: NonNegativeInt | None = None
    """The class, from 0; drawn for each instance where not given."""
    score: PositiveFloat = 10.0
    """Its output; those of all other classes are 0."""

    @property
    def alike(self) -> bool:
        """Instances are alike where the class is given."""
        return self.answer is not None

    def corrupt(self, outputs: Tensor, draws: Draws) -> Tensor:
        """Answer the class."""
        import torch

        n, c = outputs.shape
        if self.answer is None:
            classes = (draws.of_instances(1)[:, 0] * c).astype(np.int64)
        else:
            classes = np.full(n, known(self.answer, c))
        wrong = torch.zeros_like(outputs)
        wrong[torch.arange(n), torch.from_numpy(classes)] = self.score
        return wrong


class Adversarial(TensorCorruption):
    """Wrong answers favour one class, and are otherwise those of the model: corrupt instances work together."""

    kind: Literal["adversarial"] = "adversarial"
    towards: NonNegativeInt = 0
    """The class, from 0."""
    margin: PositiveFloat = 1.0
    """By how much its output exceeds the largest one of the model's answer."""

    @property
    def alike(self) -> bool:
        """All do the same."""
        return True

    def corrupt(self, outputs: Tensor, draws: Draws) -> Tensor:
        """Raise the class's output above all others."""
        wrong = outputs.clone()
        wrong[:, known(self.towards, outputs.shape[1])] = outputs.amax(1) + self.margin
        return wrong


class BitFlips(TensorCorruption):
    """A fault of memory: bits of the answer's 32-bit outputs are flipped, drawn anew for each answer."""

    kind: Literal["bit_flips"] = "bit_flips"
    flips: int = Field(default=1, ge=1, le=64)
    """Bits that are flipped in each answer. A number that is not finite then becomes 0."""

    @property
    def alike(self) -> bool:
        """Two instances are damaged each in its own way."""
        return False

    def corrupt(self, outputs: Tensor, draws: Draws) -> Tensor:
        """Flip bits of the outputs."""
        import torch

        n, c = outputs.shape
        bits = outputs.cpu().float().numpy().view(np.uint32).copy()
        for place in (draws.of_answers(self.flips) * 32 * c).astype(np.int64).T:
            bits[np.arange(n), place // 32] ^= np.uint32(1) << (place % 32).astype(np.uint32)
        numbers = bits.view(np.float32)
        numbers = np.where(np.isfinite(numbers), numbers, np.float32(0)).clip(-LARGEST, LARGEST)
        return torch.from_numpy(numbers).to(outputs.device, outputs.dtype)


class Noise(TensorCorruption):
    """Gaussian noise is added to the outputs, drawn anew for each answer, as in the experiments of ApproxIFER."""

    kind: Literal["noise"] = "noise"
    deviation: PositiveFloat = 10.0
    """Its standard deviation, in the unit of the outputs."""

    @property
    def alike(self) -> bool:
        """Two instances are damaged each in its own way."""
        return False

    def corrupt(self, outputs: Tensor, draws: Draws) -> Tensor:
        """Add the noise."""
        import torch

        one, other = np.split(draws.of_answers(2 * outputs.shape[1]), 2, axis=1)
        normal = np.sqrt(-2 * np.log1p(-one)) * np.cos(2 * np.pi * other)  # Box and Muller 1958
        return outputs + torch.from_numpy(self.deviation * normal).to(outputs.device, outputs.dtype)


class StaleModel(TensorCorruption):
    """Another trained model of the same architecture answers: of an earlier training, or one with another seed."""

    kind: Literal["stale_model"] = "stale_model"
    recipe: Recipe | None = None
    """How the other model was trained; by default as the deployed one."""
    training_seed: int = Field(default=1, ge=0)
    """Seed of its initial weights and of the order of its training samples."""

    @property
    def alike(self) -> bool:
        """The same old model answers everywhere."""
        return True

    def corrupt(self, outputs: Tensor, draws: Draws) -> Tensor:
        """Return the outputs, which are the other model's already."""
        return outputs


def known(answer: int, classes: int) -> int:
    """Return the class; raises ParmError where there are not so many."""
    if answer >= classes:
        raise ParmError(f"there is no class {answer} to answer wrongly with: the model has {classes}, from 0 on")
    return answer
