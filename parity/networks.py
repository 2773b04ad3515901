"""The networks that a user names in YAML. Their layers are in `modules.py`, which is imported when one is built."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, SerializerFunctionWrapHandler, model_serializer, model_validator

from parity.shape import Shape
from sim.errors import ParmError
from sim.kinds import Kind

if TYPE_CHECKING:
    from torch import nn


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


class Vgg11(Network):
    """VGG-11 with batch norm: eight 3x3 convolutions; a pooling is left out where a side is down to one pixel."""

    kind: Literal["vgg11"] = "vgg11"
    width: int = Field(default=64, gt=0)
    """Channels of the first stage; they double up to 8 times as many. 64 is the usual network."""

    def build(self, shape: Shape, outputs: int) -> nn.Module:
        """See `Network.build`."""
        from parity.modules import Vgg

        return Vgg(shape, outputs, self.width)


class ResidualNetwork(Network):
    """Residual blocks in four stages; a member says which blocks, and how many in each stage."""

    kind: str
    blocks: ClassVar[tuple[int, int, int, int]]
    """Residual blocks in each stage."""
    bottleneck: ClassVar[bool]
    """Whether a block narrows to a 3x3 convolution between two of 1x1, and widens to four times as many channels."""

    width: int = Field(default=64, gt=0)
    """Channels of the first stage; each later stage doubles them. 64 is the usual network."""
    stem: Literal["auto", "cifar", "imagenet"] = "auto"
    """First layers: `cifar` 3x3; `imagenet` 7x7 with stride 2, then max pooling; `auto` see above."""

    def build(self, shape: Shape, outputs: int) -> nn.Module:
        """See `Network.build`."""
        from parity.modules import ResNet

        blocks = self.blocks[:3] if self.stem == "auto" and max(shape[1:]) <= 28 else self.blocks
        return ResNet(shape, outputs, self.width, blocks, self.bottleneck, self.stem == "imagenet")

    @model_serializer(mode="wrap")
    def _without_the_default_stem(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The default stem is not part of a model's key, so that models older than the option are found."""
        options: dict[str, Any] = handler(self)
        return {name: value for name, value in options.items() if (name, value) != ("stem", "auto")}


class ResNet18(ResidualNetwork):
    """ResNet-18 with the CIFAR stem (3x3, stride 1), without its last stage on images up to 28x28, as in the paper."""

    kind: Literal["resnet18"] = "resnet18"
    blocks = (2, 2, 2, 2)
    bottleneck = False


class ResNet152(ResidualNetwork):
    """ResNet-152 with the CIFAR stem, without its last stage on images up to 28x28; bottleneck blocks."""

    kind: Literal["resnet152"] = "resnet152"
    blocks = (3, 8, 36, 3)
    bottleneck = True


class MobileNetV2(Network):
    """MobileNetV2: inverted residual blocks; its first strides are left out on images under 97 pixels."""

    kind: Literal["mobilenet_v2"] = "mobilenet_v2"
    width: float = Field(default=1.0, gt=0, le=4)
    """Multiplier of the channels; 1 is the usual network, 0.25 the paper's approximate backup."""

    def build(self, shape: Shape, outputs: int) -> nn.Module:
        """See `Network.build`."""
        from parity.modules import MobileNet

        return MobileNet(shape, outputs, self.width)


class Speedrun(Network):
    """A network that learns in few passes over small images: whitening filters, three blocks of two convolutions."""

    kind: Literal["speedrun"] = "speedrun"
    width: int = Field(default=64, gt=0)
    """Channels of the first block; the other two have 4 times as many. 64 is the source's network."""
    mirrored: bool | None = None
    """Once trained, answer with the mean for an image and its mirror image, as the source does: twice the work."""

    def build(self, shape: Shape, outputs: int) -> nn.Module:
        """See `Network.build`."""
        if min(shape[1:]) < 3:
            raise ParmError(
                f"speedrun needs images of at least 3x3 pixels, not {shape[1]}x{shape[2]}; mlp takes any size"
            )
        from parity.speedrun import SpeedrunNetwork

        return SpeedrunNetwork(shape, outputs, self.width, bool(self.mirrored))


class Transformer(Network):
    """A transformer whose words are the places of an image, each with its channels; for `sentences`."""

    kind: Literal["transformer"] = "transformer"
    width: int = Field(default=64, gt=0)
    """Numbers of a word inside the network, a multiple of `heads`."""
    heads: int = Field(default=4, gt=0)
    """Attention heads of a layer."""
    layers: int = Field(default=3, gt=0)
    """Layers of attention and a perceptron."""

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) is no multiple of heads ({self.heads})")
        return self

    def build(self, shape: Shape, outputs: int) -> nn.Module:
        """See `Network.build`."""
        from parity.transformer import TransformerNetwork

        return TransformerNetwork(shape, outputs, self.width, self.heads, self.layers)


class Invertible(Network):
    """i-RevNet in small: couplings that can be undone exactly, and a linear head; for images with even sides."""

    kind: Literal["invertible"] = "invertible"
    width: int = Field(default=32, gt=0)
    """Channels inside the couplings of the first stage; they double with each stage."""
    blocks: int = Field(default=4, ge=1)
    """Couplings in each stage."""

    def build(self, shape: Shape, outputs: int) -> nn.Module:
        """See `Network.build`."""
        from parity.modules import InvertibleNetwork

        return InvertibleNetwork(shape, outputs, self.width, self.blocks)


class Torchvision(Network):
    """Any classifier of torchvision by its name there, untrained, for images of three channels."""

    kind: Literal["torchvision"] = "torchvision"
    name: str = Field(min_length=1)
    """Such as resnet50, efficientnet_b0, convnext_tiny, vit_b_16: what torchvision.models.list_models() names."""

    def build(self, shape: Shape, outputs: int) -> nn.Module:
        """See `Network.build`. Raises ParmError for a name that torchvision does not have."""
        from parity.modules import classifier

        return classifier(self.name, shape, outputs)
