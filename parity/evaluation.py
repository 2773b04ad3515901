"""Accuracy of models and codes on images that they have not seen, without any serving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random

import torch
from torch import Generator, Tensor, nn

from parity.codes.base import TensorCode, sent
from parity.tasks import LearningTask

EVALUATION_BATCH = 1024
"""Images per forward pass outside training."""
PATTERNS = 32
"""At most this many patterns of losses are tried; of more, a random choice that is always the same."""


def predict(module: nn.Module, images: Tensor) -> Tensor:
    """Raw outputs of a module in evaluation mode, in batches, without gradients: (n, *shape) -> (n, c)."""
    with torch.no_grad():
        return torch.cat([module(part) for part in torch.split(images, EVALUATION_BATCH)])


def quality(module: nn.Module, images: Tensor, labels: Tensor, task: LearningTask) -> float:
    """Mean quality, 0 to 1, of a module in evaluation mode on images (n, *shape); for classification the accuracy."""
    return float(task.quality(predict(module, images), labels).mean())


def random_groups(n: int, k: int, generator: Generator) -> Tensor:
    """Cut 0 .. n-1 in random order into groups, (n // k, k); the remainder is left out."""
    return torch.randperm(n, generator=generator, device=generator.device)[: n // k * k].view(-1, k)


@dataclass(frozen=True)
class Degraded:
    """Quality of predictions in degraded mode."""

    quality: float
    """Against the labels: for classification the paper's A_d."""
    agreement: float
    """Against the deployed model's own answers."""


def degraded(
    code: TensorCode,
    k: int,
    r: int,
    trained: Sequence[nn.Module],
    deployed: nn.Module,
    images: Tensor,
    outputs: Tensor,
    labels: Tensor,
    task: LearningTask,
    *,
    groupings: int,
    rows: Sequence[int] | None = None,
    losses: int = 1,
) -> Degraded:
    """Lose `losses` answers of each group in every way, reconstruct, and judge the predictions that were lost.

    `trained` are the modules of the code's parts, `outputs` the deployed model's own for `images` (n, ...). Groups are
    random, `groupings` times all the images, always the same. Only the coded answers `rows` are used (default: all).
    With a code that is not systematic the losses are coded answers, and every prediction of a group is judged.
    """
    generator = Generator(images.device).manual_seed(0)
    groups = torch.cat([random_groups(len(images), k, generator) for _ in range(groupings)])
    coder, answering = code.bind(k, r, trained, deployed)
    answers = task.answers(outputs)
    there = tuple(range(r)) if rows is None else tuple(rows)
    at = [k + row for row in there]
    lost = list(combinations(range(k) if code.systematic else at, losses))
    if len(lost) > PATTERNS:
        lost = sorted(Random(0).sample(lost, PATTERNS))
    # Which slots are judged, sent to the device once.
    judged_slots = [sent(torch.tensor(pattern if code.systematic else range(k)), outputs.device) for pattern in lost]
    right = agrees = torch.zeros((), dtype=torch.float64, device=outputs.device)
    judged = 0
    with torch.no_grad():
        for members in torch.split(groups, EVALUATION_BATCH):
            own = outputs[members]
            if coder.answered_by == "oracle":
                parities = coder.targets(own, r).to(own.dtype)
            else:
                coded = coder.encode(images[members], r)
                first = answering[there[0]](coded[:, there[0]])
                parities = first.new_zeros(len(members), r, first.shape[-1])
                parities[:, there[0]] = first
                for row in there[1:]:
                    parities[:, row] = answering[row](coded[:, row])
            for pattern, slots in zip(lost, judged_slots, strict=True):
                base = (1 << k) - 1 if code.systematic else 0
                returned = (base | sum(1 << bit for bit in at)) & ~sum(1 << bit for bit in pattern)
                masks = torch.full((len(members),), returned, dtype=torch.int64)
                decoded = coder.decode(own, parities, masks)[:, slots]
                wanted = members[:, slots]
                right = right + task.quality(decoded, labels[wanted]).sum().double()
                agrees = agrees + task.quality(decoded, answers[wanted]).sum().double()
                judged += wanted.numel()
    rights, agreements = torch.stack([right, agrees]).tolist()
    return Degraded(rights / judged, agreements / judged)
