"""A learned encoder and a learned decoder around the deployed model as it is.

Source: Kosaian, Rashmi, Venkataraman, "Learning a Code: Machine Learning for Approximate Non-Linear Coded Computation"
(2018), and its artifact for the layers: a perceptron or a dilated convolutional network that makes r coded queries of
k, and a perceptron that makes k predictions of k + r answers, the missing ones being zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from parity.codes.base import Coder, ModelUsed, Part, TensorCode, sent

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from parity.modules import LearnedCoder
    from parity.networks import Network
    from parity.shape import Shape


class Learned(TensorCode):
    """A trained encoder and decoder; the deployed model itself answers the coded queries. Slow to encode and decode."""

    kind: Literal["learned"] = "learned"
    answered_by: ClassVar[ModelUsed] = "deployed"
    encoder: Literal["mlp", "conv"] = "conv"
    """A perceptron over all pixels of all queries, or seven convolutions whose dilations grow."""
    width: int = Field(default=20, ge=1)
    """Channels of the convolutional encoder for each query of the group; the source has 20."""

    def encode(self, queries: Tensor, r: int) -> Tensor:
        """Raises TypeError: the encoder exists only in what `bind` returns."""
        raise TypeError("a learned code encodes with its trained encoder: see bind")

    def decode(self, outputs: Tensor, parities: Tensor, returned: Tensor) -> Tensor:
        """Raises TypeError: the decoder exists only in what `bind` returns."""
        raise TypeError("a learned code decodes with its trained decoder: see bind")

    def parts(self, k: int, r: int) -> list[Part[Any]]:
        """Return the one encoder and decoder."""
        return [EncoderDecoder(self, k, r, tuple(range(r)))]

    def bind(self, k: int, r: int, trained: Sequence[nn.Module], deployed: nn.Module) -> tuple[Coder, list[nn.Module]]:
        """Return the code with its encoder and decoder; the deployed model answers every coded query."""
        from parity.modules import LearnedCoder

        (coder,) = (module for module in trained if isinstance(module, LearnedCoder))
        return _BoundLearned(self, coder), [deployed] * r


class _BoundLearned:
    """The code with its trained encoder and decoder."""

    def __init__(self, code: Learned, coder: LearnedCoder) -> None:
        self.coder = coder
        self.answered_by: ModelUsed = "deployed"
        self.targets = code.targets

    def encode(self, queries: Tensor, r: int) -> Tensor:
        """See `Coder.encode`."""
        import torch

        with torch.no_grad():
            return self.coder.to(queries.device).encode(queries)

    def decode(self, outputs: Tensor, parities: Tensor, returned: Tensor) -> Tensor:
        """See `Coder.decode`: slots that returned unchanged, the others from the decoder."""
        import torch

        k, r = outputs.shape[1], parities.shape[1]
        bits = torch.arange(k + r)
        there = sent(((returned.cpu()[:, None] >> bits) & 1).bool(), outputs.device)
        with torch.no_grad():
            decoded = self.coder.to(outputs.device).decode(outputs, parities, there)
        return torch.where(there[:, :k, None], outputs, decoded.to(outputs.dtype))


class EncoderDecoder(Part[Learned]):
    """The learned encoder and decoder, trained through the deployed model, which is not changed."""

    @property
    def role(self) -> str:
        """See `Part.role`."""
        return "coder"

    def describe(self) -> str:
        """See `Part.describe`."""
        return f"k = {self.k}, r = {self.r}"

    def identity(self) -> dict[str, Any]:
        """See `Part.identity`."""
        return self.code.model_dump(mode="json") | {"k": self.k, "r": self.r}

    def build(self, network: Network, shape: Shape, outputs: int, initialise: Callable[[nn.Module], None]) -> nn.Module:
        """See `Part.build`: layers of its own, whatever the network."""
        from parity.modules import LearnedCoder

        module = LearnedCoder(shape, self.k, self.r, outputs, self.code.encoder, self.code.width)
        initialise(module)
        return module

    def start_from(self, module: nn.Module, deployed: nn.Module) -> None:
        """Do nothing: the deployed model has no such layers."""

    def reconstruct(
        self, module: nn.Module, deployed: nn.Module, queries: Tensor, outputs: Tensor, generator: Generator
    ) -> Tensor:
        """See `Part.reconstruct`: with r > 1, each slot is lost together with up to r - 1 others, at random."""
        import torch

        from parity.modules import LearnedCoder

        assert isinstance(module, LearnedCoder)
        g, k, c = outputs.shape
        coded = module.encode(queries)
        answers = deployed(coded.flatten(0, 1)).to(outputs.dtype).reshape(g, self.r, c)
        decoded = []
        for slot in range(k):
            there = torch.ones(g, k + self.r, dtype=torch.bool, device=outputs.device)
            for _ in range(self.r - 1):
                also = torch.randint(k, (g,), generator=generator, device=outputs.device)
                there[torch.arange(g, device=outputs.device), also] = False
            there[:, slot] = False
            decoded.append(module.decode(outputs, answers, there)[:, slot])
        return torch.stack(decoded, dim=1)
