"""Recipes: how models are trained, as YAML names it for a deployed model and for what a code needs."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from sim.kinds import Kind

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from parity.tasks import LearningTask


class Recipe(Kind):
    """How to train one model. A deployed model minimises cross-entropy, a parity model `parity_loss`."""

    family: ClassVar[str] = "recipe"
    augments_targets: ClassVar[bool] = True
    """Whether a parity model's targets are computed from the augmented images; the artifact uses the plain images."""

    epochs: int = Field(default=40, gt=0)
    """Passes over the training set; for a parity model each pass divides it into new random coding groups."""
    lr: float = Field(default=3e-3, gt=0)
    """Learning rate; the highest one where a schedule changes it."""
    weight_decay: float = Field(default=1e-2, ge=0)
    """Weight decay, as the recipe's optimiser defines it."""
    batch: int | None = Field(default=None, gt=1)
    """Images (deployed model) or coding groups (parity model) per step; by default 64, in `paper` 32 for k > 2."""
    holdout: int = Field(default=5000, gt=0)
    """Training images kept aside to choose the best epoch by; at most a tenth of the training set is taken."""
    shift: int = Field(default=0, ge=0)
    """Augmentation: move each training image by up to this many pixels both ways."""
    flip: bool = False
    """Augmentation: mirror each training image left to right with probability one half."""
    views: int | None = Field(default=None, gt=0)
    """Augmentation: this many moved copies of every image, a random one each epoch, so that targets are
    computed once per copy; None: images are moved, and targets computed, in every step."""
    smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Label smoothing of a deployed model; how hard sums of its outputs are to learn depends on it."""
    mixup: float | None = Field(default=None, gt=0)
    """Mix each image of a deployed model's step, and its label, with another one, in a share drawn from
    Beta(mixup, mixup) (Zhang et al. 2018), so that the model is closer to linear between images."""
    cutout: int | None = Field(default=None, gt=0)
    """Augmentation of a deployed model: in each training image a square with sides of this many pixels, or what of it
    is inside, becomes the mean colour (DeVries and Taylor 2017), so that no part of an image is relied on alone."""
    patience: int | None = Field(default=None, gt=0)
    """Stop early after this many epochs without a better validation score; the schedule stays that of `epochs`."""
    mixed: bool = False
    """Mixed precision: compute in bfloat16 where it is safe, keep weights and their updates in single precision."""

    compiled: bool | None = None
    """Compile the network before training: a minute or more at first, then faster steps; needs a C++ compiler."""
    graphed: bool | None = None
    """On CUDA, record a step as a CUDA graph and replay it: for small networks and batches, whose kernels take longer
    to launch than to run. Where that cannot be done, steps run as they are, and the model's card says why."""

    @property
    def augments(self) -> bool:
        """Whether training images are moved."""
        return bool(self.shift or self.flip)

    @property
    @abstractmethod
    def warm_start(self) -> bool:
        """Whether a parity model starts from the deployed model's weights instead of fresh ones."""

    def batch_size(self, k: int) -> int:
        """Rows per step: images for k = 1 (the deployed model), else coding groups."""
        return self.batch or 64

    def initialise(self, module: nn.Module) -> None:
        """Set fresh weights in place; the default keeps the ones that PyTorch's layers draw."""

    @abstractmethod
    def optimiser(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Make the optimiser."""

    @abstractmethod
    def rate(self, progress: float) -> float:
        """Learning rate when this fraction, 0 to 1, of all steps has been taken."""

    @abstractmethod
    def parity_loss(self, decoded: Tensor, outputs: Tensor, task: LearningTask) -> Tensor:
        """Loss of reconstructions `decoded` (g, k, c), each slot as a lost one, against the deployed model's own."""


class Paper(Recipe):
    """The paper artifact's: Adam at a constant rate, squared error on the sum, from scratch."""

    kind: Literal["paper"] = "paper"
    augments_targets: ClassVar[bool] = False
    epochs: int = Field(default=500, gt=0)
    """Passes over the training set: 500 for MNIST and Fashion-MNIST, 1000 for CIFAR in the paper."""
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate, constant."""
    weight_decay: float = Field(default=1e-5, ge=0)
    """Squared penalty added to the loss (Adam's weight decay)."""

    @property
    def warm_start(self) -> bool:
        """The artifact trains parity models from scratch."""
        return False

    def batch_size(self, k: int) -> int:
        """The artifact's for coding groups; it does not give the deployed model's."""
        return self.batch or (64 if k <= 2 else 32)

    def initialise(self, module: nn.Module) -> None:
        """See `parity.modules.initialise_as_paper`."""
        from parity.modules import initialise_as_paper

        initialise_as_paper(module)

    def optimiser(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Adam, with its coupled weight decay."""
        import torch

        return torch.optim.Adam(parameters, lr=self.lr, weight_decay=self.weight_decay, fused=True)

    def rate(self, progress: float) -> float:
        """Constant."""
        return self.lr

    def parity_loss(self, decoded: Tensor, outputs: Tensor, task: LearningTask) -> Tensor:
        """Mean squared error.

        For the plain sum each reconstruction errs by exactly the parity output's error, so this is the artifact's error
        on the sum of raw outputs; for weighted rows it differs from that by a constant factor.
        """
        from torch.nn import functional

        return functional.mse_loss(decoded, outputs)


class OneCycle(Recipe):
    """One-cycle learning rate, from the deployed weights, for decoded predictions; members differ in their steps."""

    warmup: float = Field(default=0.25, ge=0, lt=1)
    """Fraction of all steps during which the learning rate rises; it falls to zero in the rest."""
    mse: float = Field(default=0.1, ge=0)
    """Weight, in a parity model's loss, of the squared error of the reconstructed raw outputs."""
    kl: float = Field(default=1.0, ge=0)
    """Weight of the divergence KL(deployed model's softmax || reconstruction's softmax)."""
    warm: bool = True
    """Whether parity models start from the deployed model's weights."""

    @property
    def warm_start(self) -> bool:
        """See the option `warm`."""
        return self.warm

    def rate(self, progress: float) -> float:
        """One cycle: half a cosine up from lr / 25, half a cosine down to zero (Smith and Topin 2018)."""
        if progress < self.warmup:
            return self.lr * (1 - 0.48 * (1 + math.cos(math.pi * progress / self.warmup)))
        return self.lr * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup))) / 2

    def parity_loss(self, decoded: Tensor, outputs: Tensor, task: LearningTask) -> Tensor:
        """`mse` times the squared error plus `kl` times the task's divergence, both of the reconstructed predictions.

        For the plain sum each slot's reconstruction errs by exactly the parity output's error, so the first term is
        then the paper's; for weighted rows each slot's error is divided by its weight.
        """
        from torch.nn import functional

        return self.mse * functional.mse_loss(decoded, outputs) + self.kl * task.divergence(decoded, outputs)


class Best(OneCycle):
    """The best found here: AdamW with one-cycle learning rate, from the deployed weights, for decoded predictions."""

    kind: Literal["best"] = "best"

    def optimiser(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """AdamW."""
        import torch

        return torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay, fused=True)


class Muon(OneCycle):
    """As `best`, but convolutions take Muon's steps: fewer passes for networks with batch norm after each of them."""

    kind: Literal["muon"] = "muon"
    lr: float = Field(default=0.1, gt=0)
    """Highest learning rate: the share of a convolution's norm that one step changes."""
    momentum: float = Field(default=0.6, ge=0, lt=1)
    """Decay of the mean of gradients from step to step."""
    others: float = Field(default=0.05, gt=0)
    """Learning rate of the weights that are no convolutions, by AdamW, as a multiple of `lr`."""

    def optimiser(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Muon; see `parity.muon`."""
        from parity.muon import MuonOptimiser

        return MuonOptimiser(parameters, self.lr, self.momentum, self.others, self.weight_decay)
