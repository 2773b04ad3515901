"""The layers behind `networks.py`, in the literature's names, and the paper artifact's initialisation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from parity.networks import Shape


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


class ResNet(nn.Sequential):
    """ResNet of two basic blocks per stage with the CIFAR stem; 4 stages make ResNet-18."""

    def __init__(self, shape: Shape, outputs: int, width: int, stages: int) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(shape[0], width, 3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(width),
            relu=nn.ReLU(inplace=True),
        )
        before = width
        for stage in range(stages):
            after = width * 2**stage
            layers[f"layer{stage + 1}"] = nn.Sequential(
                BasicBlock(before, after, stride=1 if stage == 0 else 2), BasicBlock(after, after, stride=1)
            )
            before = after
        layers.update(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(before, outputs))
        super().__init__(layers)


def initialise_as_paper(module: nn.Module) -> None:
    """Reset weights as the artifact does: convolutions Xavier-uniform with ReLU's gain, linear N(0, 0.01), biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight, gain=nn.init.calculate_gain("relu"))
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
