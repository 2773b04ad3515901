"""The layers of `networks.Transformer`: attention over the places of an image, or over the words of a sentence."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from parity.shape import Shape


class Layer(nn.Module):
    """Self-attention and a perceptron, each on normalised input and added to it (Xiong et al. 2020)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(n, places, width), kept."""
        n, places, width = x.shape
        split = self.qkv(self.norm1(x)).view(n, places, 3, self.heads, width // self.heads)
        queries, keys, values = split.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(queries, keys, values)
        x = x + self.out(seen.transpose(1, 2).reshape(n, places, width))
        result: Tensor = x + self.perceptron(self.norm2(x))
        return result


class TransformerNetwork(nn.Module):
    """A linear map of each place's channels, a learned vector for the place, layers, the mean over places, linear."""

    def __init__(self, shape: Shape, outputs: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        channels, height, columns = shape
        self.embedding = nn.Linear(channels, width)
        self.places = nn.Parameter(0.1 * torch.randn(height * columns, width))
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, height, width) -> (n, outputs)."""
        seen = self.layers(self.embedding(x.flatten(2).transpose(1, 2)) + self.places)
        result: Tensor = self.fc(self.norm(seen).mean(1))
        return result
