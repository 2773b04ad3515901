"""What a model predicts, a class or a box, and the losses and the quality that follow from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

TaskName = Literal["classification", "localisation"]


class LearningTask(ABC):
    """How outputs (n, c) are compared with labels, and predictions with each other."""

    @abstractmethod
    def loss(self, outputs: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        """Training loss, a scalar, of a model that serves the task itself: outputs (n, c) against labels.

        Labels are classes, int64 (n,), or boxes, float32 (n, 4); `smoothing` is that of classes.
        """

    @abstractmethod
    def divergence(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """Loss of reconstructed predictions (..., c) against the deployed model's own, a scalar."""

    @abstractmethod
    def answers(self, outputs: Tensor) -> Tensor:
        """Return the predictions of outputs (..., c) in the form of labels: classes (...) or boxes (..., 4)."""

    @abstractmethod
    def quality(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return how good each prediction is, 0 to 1: outputs (..., c) against labels; float64 (...)."""


class Classification(LearningTask):
    """Outputs are one number per class, labels the class; quality 1 or 0."""

    def __init__(self, top: int = 1) -> None:
        """A prediction is right where the label is among its `top` likeliest classes."""
        self.top = top

    def loss(self, outputs: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy, with label smoothing."""
        return functional.cross_entropy(outputs, labels, label_smoothing=smoothing)

    def divergence(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """KL(deployed model's softmax || reconstruction's softmax), the mean over predictions."""
        each = functional.kl_div(
            functional.log_softmax(outputs, dim=-1),
            functional.log_softmax(wanted, dim=-1),
            reduction="none",
            log_target=True,
        )
        return each.sum(-1).mean()

    def answers(self, outputs: Tensor) -> Tensor:
        """The likeliest class, int64."""
        return outputs.argmax(-1)

    def quality(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """1 where the label is among the likeliest classes."""
        if self.top == 1:
            return (outputs.argmax(-1) == labels).double()
        best = outputs.topk(min(self.top, outputs.shape[-1]), dim=-1).indices
        return (best == labels[..., None]).any(-1).double()


class Localisation(LearningTask):
    """Outputs and labels are boxes (x0, y0, x1, y1) in fractions of the image; quality is intersection over union."""

    def loss(self, outputs: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        """Absolute error of the corners; there is nothing to smooth."""
        return functional.l1_loss(outputs, labels)

    def divergence(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """Absolute error of the corners."""
        return functional.l1_loss(outputs, wanted)

    def answers(self, outputs: Tensor) -> Tensor:
        """The boxes as they are."""
        return outputs

    def quality(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Intersection over union; 0 where a box has no area."""
        a, b = outputs.double(), labels.double()
        inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp_min(0).prod(-1)
        areas = [(box[..., 2:] - box[..., :2]).clamp_min(0).prod(-1) for box in (a, b)]
        union = areas[0] + areas[1] - inner
        return torch.where(union > 0, inner / union.clamp_min(1e-12), 0.0)


TASKS: dict[TaskName, LearningTask] = {"classification": Classification(), "localisation": Localisation()}
