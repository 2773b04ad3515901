"""All modules that are trained: the classifiers of `networks.py`, named as in the literature, and those of some codes.

Sources of the invertible classifier and its fusion network: Jacobsen, Smeulders, Oyallon, "i-RevNet: Deep Invertible
Networks", ICLR 2018; Dinh, Lee, "Coded-InvNet for Resilient Prediction Serving Systems", ICML 2021.
"""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle
from torch.nn.modules.dropout import _DropoutNd

from parity.shape import Shape
from sim.errors import ParmError


def mlp(shape: Shape, outputs: int, hidden: Sequence[int]) -> nn.Sequential:
    """Flatten the image, then linear layers with ReLU between them."""
    channels, height, width = shape
    sizes = [channels * height * width, *hidden]
    layers: list[tuple[str, nn.Module]] = [("flatten", nn.Flatten())]
    for number, (before, after) in enumerate(pairwise(sizes), start=1):
        layers += [(f"fc{number}", nn.Linear(before, after)), (f"relu{number}", nn.ReLU())]
    return nn.Sequential(OrderedDict([*layers, (f"fc{len(sizes)}", nn.Linear(sizes[-1], outputs))]))


def lenet5(shape: Shape, outputs: int) -> nn.Sequential:
    """LeNet-5 with ReLU and max pooling: 5x5 kernels (28x28 is padded to 32x32), 3x3 with padding under 20 pixels."""
    channels, height, width = shape
    smallest = min(height, width)
    kernel, padding = (3, (1, 1)) if smallest < 20 else (5, (2 if smallest < 32 else 0, 0))

    def after(side: int) -> int:
        for pad in padding:
            side = (side + 2 * pad - kernel + 1) // 2
        return side

    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 6, kernel, padding=padding[0]),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(6, 16, kernel, padding=padding[1]),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(16 * after(height) * after(width), 120),
            relu3=nn.ReLU(),
            fc2=nn.Linear(120, 84),
            relu4=nn.ReLU(),
            fc3=nn.Linear(84, outputs),
        )
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around a shortcut (He et al. 2016)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, h, w) -> (n, after, h / stride, w / stride)."""
        branch: Tensor = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu(branch + self.downsample(x))
        return out


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with batch norm around a shortcut; the last widens fourfold (He et al. 2016).

    The stride is the 3x3 convolution's, as in torchvision.
    """

    def __init__(self, before: int, middle: int, stride: int) -> None:
        super().__init__()
        after = 4 * middle
        self.conv1 = nn.Conv2d(before, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, after, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, h, w) -> (n, 4 middle, h / stride, w / stride)."""
        narrow: Tensor = self.relu(self.bn1(self.conv1(x)))
        branch: Tensor = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(narrow)))))
        out: Tensor = self.relu(branch + self.downsample(x))
        return out


class ResNet(nn.Sequential):
    """ResNet with this many blocks in each stage, weights named as in torchvision; (2, 2, 2, 2) make ResNet-18."""

    def __init__(
        self, shape: Shape, outputs: int, width: int, blocks: Sequence[int], bottleneck: bool, imagenet: bool
    ) -> None:
        kernel, stride = (7, 2) if imagenet else (3, 1)
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(shape[0], width, kernel, stride, padding=kernel // 2, bias=False),
            bn1=nn.BatchNorm2d(width),
            relu=nn.ReLU(inplace=True),
        )
        if imagenet:
            layers["maxpool"] = nn.MaxPool2d(3, stride=2, padding=1)
        block, expansion = (Bottleneck, 4) if bottleneck else (BasicBlock, 1)
        before = width
        for stage, count in enumerate(blocks):
            inner = width * 2**stage
            parts = []
            for number in range(count):
                parts.append(block(before, inner, stride=2 if stage and not number else 1))
                before = inner * expansion
            layers[f"layer{stage + 1}"] = nn.Sequential(*parts)
        layers.update(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(before, outputs))
        super().__init__(layers)


VGG11_STAGES = ((1,), (2,), (4, 4), (8, 8), (8, 8))
"""Channels of VGG-11's convolutions, in multiples of the first one's; a pooling follows each stage (Simonyan 2015)."""


class Vgg(nn.Sequential):
    """VGG-11 with batch norm, over any image: its last map is averaged down to 7x7 where it is larger.

    So a spectrogram of 161x101 keeps its map of 5x3 and 32x32 its single pixel. One hidden layer as wide as the last
    convolution follows, instead of two of 4096 with dropout, which are for a thousand classes.
    """

    def __init__(self, shape: Shape, outputs: int, width: int) -> None:
        before, *sides = shape
        features: list[nn.Module] = []
        for stage in VGG11_STAGES:
            for multiple in stage:
                after = width * multiple
                features += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
                before = after
            if min(sides) > 1:
                features.append(nn.MaxPool2d(2))
                sides = [side // 2 for side in sides]
        height, breadth = (min(side, 7) for side in sides)
        super().__init__(
            OrderedDict(
                features=nn.Sequential(*features),
                avgpool=nn.AdaptiveAvgPool2d((height, breadth)),
                flatten=nn.Flatten(),
                fc1=nn.Linear(before * height * breadth, before),
                relu=nn.ReLU(inplace=True),
                fc2=nn.Linear(before, outputs),
            )
        )


MOBILENET_STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
)  # fmt: skip
"""Expansion, channels, blocks and first stride of MobileNetV2's stages (Sandler et al. 2018, table 2)."""


class InvertedResidual(nn.Sequential):
    """Widen by 1x1, convolve each channel by 3x3, narrow by 1x1; around it a shortcut where the shapes are equal."""

    def __init__(self, before: int, after: int, stride: int, expansion: int) -> None:
        hidden = before * expansion
        layers = _convolution(before, hidden, 1) if expansion != 1 else []
        layers += _convolution(hidden, hidden, 3, stride, groups=hidden)
        super().__init__(*layers, *_convolution(hidden, after, 1)[:2])
        self.shortcut = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, h, w) -> (n, after, h / stride, w / stride)."""
        branch = x
        for layer in self:
            branch = layer(branch)
        return x + branch if self.shortcut else branch


class MobileNet(nn.Sequential):
    """MobileNetV2 without its dropout. The first strides are left out until the last map is at least 4x4.

    So 224x224 is halved five times as published, and 32x32 three times, as is usual for CIFAR.
    """

    def __init__(self, shape: Shape, outputs: int, width: float) -> None:
        left_out = sum(-(-min(shape[1:]) // 2**halved) < 4 for halved in range(1, 6))
        first, last = _eights(32 * width), _eights(1280 * max(1.0, width))
        stem = _convolution(shape[0], first, 3, stride=1 if left_out else 2)
        blocks: list[nn.Module] = []
        before, halvings = first, 1
        for expansion, channels, count, stride in MOBILENET_STAGES:
            after = _eights(channels * width)
            halvings += stride == 2
            for block in range(count):
                halves = stride == 2 and block == 0 and halvings > left_out
                blocks.append(InvertedResidual(before, after, 2 if halves else 1, expansion))
                before = after
        super().__init__(
            OrderedDict(
                stem=nn.Sequential(*stem),
                blocks=nn.Sequential(*blocks),
                head=nn.Sequential(*_convolution(before, last, 1)),
                avgpool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                fc=nn.Linear(last, outputs),
            )
        )


def _convolution(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Return a convolution that keeps the size (its stride aside), batch norm, and ReLU cut off at 6."""
    convolution = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(after), nn.ReLU6(inplace=True)]


def _eights(channels: float) -> int:
    """Round to a multiple of 8, at least 8 and no more than a tenth below, as the published network does."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


SMALLEST_SIDE = 4
"""Pixels are moved into channels while the larger side of the map exceeds this and both sides are even."""


class Coupling(nn.Module):
    """(a, b) -> (b, a + F(b)) for the halves a, b of the channels; F, two 3x3 convolutions, is never inverted."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels // 2, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, channels // 2, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) -> the same shape."""
        first, second = x.chunk(2, dim=1)
        return torch.cat([second, first + self.branch(second)], dim=1)

    def inverse(self, y: Tensor) -> Tensor:
        """Undo `forward`, in evaluation mode."""
        second, mixed = y.chunk(2, dim=1)
        return torch.cat([mixed - self.branch(second), second], dim=1)


class InvertibleNetwork(nn.Module):
    """Couplings in stages, each after the sides were halved, then a linear head: (n, *shape) -> (n, outputs)."""

    def __init__(self, shape: Shape, outputs: int, width: int, blocks: int) -> None:
        super().__init__()
        channels, height, breadth = shape
        stages: list[nn.ModuleList] = []
        while height % 2 == 0 and breadth % 2 == 0 and max(height, breadth) > SMALLEST_SIDE:
            channels, height, breadth = 4 * channels, height // 2, breadth // 2
            stages.append(nn.ModuleList(Coupling(channels, width * 2 ** len(stages)) for _ in range(blocks)))
        if not stages:
            raise ParmError(
                f"invertible needs images with even sides, one over {SMALLEST_SIDE} pixels, not {shape[1]}x{shape[2]}"
            )
        self.stages = nn.ModuleList(stages)
        self.map = (channels, height, breadth)
        self.head = nn.Linear(channels * height * breadth, outputs)

    def features(self, x: Tensor) -> Tensor:
        """z = f(x): (n, *shape) -> (n, numbers of an image)."""
        for stage in self._couplings():
            x = pixel_unshuffle(x, 2)
            for block in stage:
                x = block(x)
        return x.flatten(1)

    def inverse(self, z: Tensor) -> Tensor:
        """x = f^-1(z), in evaluation mode: (n, numbers of an image) -> (n, *shape)."""
        x = z.reshape(-1, *self.map)
        for stage in reversed(self._couplings()):
            for block in reversed(stage):
                x = block.inverse(x)
            x = pixel_shuffle(x, 2)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """(n, *shape) -> (n, outputs)."""
        answer: Tensor = self.head(self.features(x))
        return answer

    def _couplings(self) -> list[list[Coupling]]:
        return [[block for block in stage.children() if isinstance(block, Coupling)] for stage in self.stages]


EXTRA_HEADS = {"googlenet", "inception_v3"}
"""These answer with further heads while they train, unless they are told not to."""


def classifier(name: str, shape: Shape, outputs: int) -> nn.Module:
    """Make torchvision's network `name`, (n, 3, h, w) -> (n, outputs).

    Raises ParmError for an unknown name, for images without three channels, and for a size that the network refuses.
    """
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(names)}"
        raise ParmError(f"torchvision has no classifier '{name}'; {hint}")
    channels, height, width = shape
    if channels != 3:
        raise ParmError(f"torchvision's {name} needs images of 3 channels, not {channels}")
    extra = {"aux_logits": False, "init_weights": True} if name in EXTRA_HEADS else {}
    module = cast(nn.Module, torchvision.models.get_model(name, weights=None, num_classes=outputs, **extra))
    for layer in module.modules():
        if isinstance(layer, _DropoutNd | torchvision.ops.StochasticDepth):
            layer.p = 0.0
    try:
        with torch.no_grad():
            module.eval()(torch.zeros(1, *shape))
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ParmError(f"torchvision's {name} does not take images of {height}x{width} ({reason})") from error
    return module.train()


def initialise_as_paper(module: nn.Module) -> None:
    """Reset weights as the artifact: convolutions Xavier-uniform with ReLU's gain, linear N(0, 0.01), biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight, gain=nn.init.calculate_gain("relu"))
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)


LOGITS_SCALE = 0.3
"""Raw outputs are of the order of one, after training with smoothed labels, to ten; decoders see them nearer to one."""
ENCODER_DILATIONS = (1, 1, 2, 4, 8, 1)
"""Of the 3x3 convolutions of the convolutional encoder; a 1x1 convolution follows."""
FUSION_DILATIONS = (1, 2, 4, 2, 1)
"""Of the fusion network's inner convolutions: each of its pixels sees all of a 28x28 image's."""


class ConditionalParity(nn.Module):
    """A parity model with `features` outputs more than classes, and the decoder that corrects the subtraction.

    As a module it answers parity queries: (n, *shape) -> (n, classes + features).
    """

    def __init__(self, network: nn.Module, k: int, classes: int, features: int, hidden: int) -> None:
        super().__init__()
        self.network = network
        self.k = k
        self.decoder = nn.Sequential(
            nn.Linear(3 * classes + features + k, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        )

    def begin_with_subtraction(self) -> None:
        """Make the untrained decoder correct nothing."""
        last = self.decoder[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(n, *shape) -> (n, classes + features)."""
        answer: Tensor = self.network(x)
        return answer

    def correction(self, outputs: Tensor, parity: Tensor, slot: int) -> Tensor:
        """Return what to add to the subtraction's prediction of the one lost slot.

        `outputs` (g, k, c), of which that slot is not read, and `parity` (g, c + features) give (g, c).
        """
        others = torch.cat([outputs[:, :slot], outputs[:, slot + 1 :]], dim=1)
        place = torch.zeros(len(outputs), self.k, device=outputs.device, dtype=outputs.dtype)
        place[:, slot] = 1
        seen = (parity * LOGITS_SCALE, others.softmax(-1).mean(1), others.mean(1) * LOGITS_SCALE, place)
        result: Tensor = self.decoder(torch.cat([one.to(outputs.dtype) for one in seen], dim=-1))
        return result


class LearnedCoder(nn.Module):
    """An encoder of k queries into r coded ones, and a decoder of k + r answers into k predictions."""

    def __init__(
        self, shape: Sequence[int], k: int, r: int, classes: int, encoder: Literal["mlp", "conv"], width: int
    ) -> None:
        super().__init__()
        self.k, self.r = k, r
        self.shape = tuple(shape)
        channels, height, width_pixels = self.shape
        if encoder == "mlp":
            pixels = channels * height * width_pixels
            self.encoder: nn.Module = nn.Sequential(
                nn.Flatten(), nn.Linear(k * pixels, k * pixels), nn.ReLU(), nn.Linear(k * pixels, r * pixels)
            )
        else:
            layers: list[nn.Module] = []
            before = k * channels
            for dilation in ENCODER_DILATIONS:
                layers += [nn.Conv2d(before, width * k, 3, padding=dilation, dilation=dilation), nn.ReLU()]
                before = width * k
            self.encoder = nn.Sequential(*layers, nn.Conv2d(before, r * channels, 1))
        n, m = (k + r) * classes, k * classes
        self.decoder = nn.Sequential(nn.Linear(n, n), nn.ReLU(), nn.Linear(n, m), nn.ReLU(), nn.Linear(m, m))

    def encode(self, queries: Tensor) -> Tensor:
        """(g, k, *shape) -> (g, r, *shape)."""
        coded: Tensor = self.encoder(queries.flatten(1, 2))
        return coded.reshape(len(queries), self.r, *self.shape)

    def decode(self, outputs: Tensor, parities: Tensor, there: Tensor) -> Tensor:
        """(g, k, c), (g, r, c) and which of them are there, bool (g, k + r), -> (g, k, c). Others are not read."""
        answers = torch.cat([outputs, parities], dim=1)
        seen = torch.where(there[..., None], answers, 0.0) * LOGITS_SCALE
        decoded: Tensor = self.decoder(seen.flatten(1))
        return decoded.reshape(outputs.shape) / LOGITS_SCALE


class Fusion(nn.Module):
    """The queries' mean plus what convolutions over all of them add to it: (g, k, *shape) -> (g, *shape)."""

    def __init__(self, shape: Shape, k: int, width: int) -> None:
        super().__init__()
        self.step = 1 if shape[1] % 2 or shape[2] % 2 else 2
        channels = shape[0] * self.step**2
        layers: list[nn.Module] = []
        before = k * channels
        for dilation in FUSION_DILATIONS:
            layers += [nn.Conv2d(before, width, 3, padding=dilation, dilation=dilation, bias=False)]
            layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            before = width
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, channels, 3, padding=1))

    def begin_with_mean(self) -> None:
        """Make the untrained network add nothing."""
        last = self.layers[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, queries: Tensor) -> Tensor:
        """(g, k, *shape) -> (g, *shape)."""
        change = self.layers(pixel_unshuffle(queries.flatten(1, 2), self.step))
        return queries.mean(1) + pixel_shuffle(change, self.step)
