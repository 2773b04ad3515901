"""The networks that a user names in YAML. Their layers are in `modules.py`, which is imported when one is built."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PositiveInt

from sim.errors import ParmError
from sim.kinds import Kind

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, int, int]
"""Channels, height, width of one image."""


class Network(Kind):
    """A classifier's architecture; the deployed model and its parity models share one, a backup has its own."""

    family: ClassVar[str] = "network"

    @abstractmethod
    def build(self, shape: Shape, outputs: int) -> nn.Module:
        """Make an untrained module (n, *shape) -> (n, outputs), raw outputs. Raises ParmError for impossible shapes."""


class Mlp(Network):
    """A multilayer perceptron over the pixels, with ReLU between its layers."""

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[PositiveInt, ...] = Field(default=(200, 100), min_length=1)
    """Width of each hidden layer; the paper's has 200 and 100."""

    def build(self, shape: Shape, outputs: int) -> nn.Module:
        """See `Network.build`."""
        from parity.modules import mlp

        return mlp(shape, outputs, self.hidden)


class LeNet5(Network):
    """LeNet-5: two convolutions with pooling, then layers of 120 and 84; 5x5 kernels, 3x3 on images under 20 pixels."""

    kind: Literal["lenet5"] = "lenet5"

    def build(self, shape: Shape, outputs: int) -> nn.Module:
        """See `Network.build`."""
        if min(shape[1:]) < 4:
            raise ParmError(
                f"lenet5 needs images of at least 4x4 pixels, not {shape[1]}x{shape[2]}; mlp takes any size"
            )
        from parity.modules import lenet5

        return lenet5(shape, outputs)


class ResNet18(Network):
    """ResNet-18 with the CIFAR stem (3x3, stride 1), without its last stage on images up to 28x28, as in the paper."""

    kind: Literal["resnet18"] = "resnet18"
    width: int = Field(default=64, gt=0)
    """Channels of the first stage; each later stage doubles them. 64 is the usual network."""

    def build(self, shape: Shape, outputs: int) -> nn.Module:
        """See `Network.build`."""
        from parity.modules import ResNet

        return ResNet(shape, outputs, self.width, stages=3 if max(shape[1:]) <= 28 else 4)


class MobileNetV2(Network):
    """MobileNetV2: inverted residual blocks; its first strides are left out on images under 97 pixels."""

    kind: Literal["mobilenet_v2"] = "mobilenet_v2"
    width: float = Field(default=1.0, gt=0, le=4)
    """Multiplier of the channels; 1 is the usual network, 0.25 the paper's approximate backup."""

    def build(self, shape: Shape, outputs: int) -> nn.Module:
        """See `Network.build`."""
        from parity.modules import MobileNet

        return MobileNet(shape, outputs, self.width)
