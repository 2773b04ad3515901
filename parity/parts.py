"""What is trained for a code: a parity model per row, one with its own decoder, an encoder with its decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Generator, Tensor, nn

from parity.coders import ConditionalParity, LearnedCoder
from parity.codes import Conditional, Learned, LinearCode, TensorCode
from parity.networks import Network, Shape

AnyCode_co = TypeVar("AnyCode_co", bound=TensorCode, covariant=True)


@dataclass(frozen=True)
class Part(ABC, Generic[AnyCode_co]):
    """One module that is trained for a code at k and r."""

    code: AnyCode_co
    k: int
    r: int
    rows: tuple[int, ...]
    """The coded answers that it makes or decodes."""

    @property
    def role(self) -> str:
        """What tables and folders call it."""
        return "parity"

    def describe(self) -> str:
        """Name it among the parts of the same code."""
        return f"k = {self.k}, row {self.rows[0]}"

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Everything of the code that its training depends on, ready for JSON."""

    @abstractmethod
    def build(self, network: Network, shape: Shape, outputs: int, initialise: Callable[[nn.Module], None]) -> nn.Module:
        """Make the module before training, where `initialise` sets fresh weights."""

    def start_from(self, module: nn.Module, deployed: nn.Module) -> None:
        """Give the module the deployed model's weights, as far as it has that architecture."""
        module.load_state_dict(deployed.state_dict())

    @abstractmethod
    def reconstruct(
        self, module: nn.Module, deployed: nn.Module, queries: Tensor, outputs: Tensor, generator: Generator
    ) -> Tensor:
        """Reconstruct every slot as a lost one, so that the module learns: (g, k, *shape), (g, k, c) -> (g, k, c)."""


class ParityRow(Part[LinearCode]):
    """The parity model of one row of a linear code."""

    def identity(self) -> dict[str, Any]:
        """See `Part.identity`: a row's model depends on that row alone, so row 0 of r = 2 is the model of r = 1."""
        return self.code.identity(self.k, self.r, self.rows[0])

    def build(self, network: Network, shape: Shape, outputs: int, initialise: Callable[[nn.Module], None]) -> nn.Module:
        """See `Part.build`: a network of the deployed model's architecture."""
        module = network.build(shape, outputs)
        initialise(module)
        return module

    def reconstruct(
        self, module: nn.Module, deployed: nn.Module, queries: Tensor, outputs: Tensor, generator: Generator
    ) -> Tensor:
        """See `Part.reconstruct`: by subtraction."""
        (row,) = self.rows
        answer = module(self.code.encode(queries, self.r)[:, row]).to(outputs.dtype)
        return self.code.single_losses(outputs, answer, self.r, row)


class ConditionalRow(Part[Conditional]):
    """The parity model of one row, with the decoder that looks at the available predictions."""

    def identity(self) -> dict[str, Any]:
        """See `Part.identity`."""
        code = self.code
        base = code.base.identity(self.k, self.r, self.rows[0])
        return {"kind": code.name_in_yaml(), "base": base, "features": code.features, "hidden": code.hidden}

    def build(self, network: Network, shape: Shape, outputs: int, initialise: Callable[[nn.Module], None]) -> nn.Module:
        """See `Part.build`: more outputs than the deployed model, and a decoder that corrects nothing yet."""
        code = self.code
        wide = network.build(shape, outputs + code.features)
        module = ConditionalParity(wide, self.k, outputs, code.features, code.hidden)
        initialise(module)
        module.begin_with_subtraction()
        return module

    def start_from(self, module: nn.Module, deployed: nn.Module) -> None:
        """Give the network the deployed model's weights; the last layer's, which is larger, as far as they go."""
        assert isinstance(module, ConditionalParity)
        own = module.network.state_dict()
        for name, value in deployed.state_dict().items():
            if own[name].shape == value.shape:
                own[name] = value
            else:
                own[name][: len(value)] = value
        module.network.load_state_dict(own)

    def reconstruct(
        self, module: nn.Module, deployed: nn.Module, queries: Tensor, outputs: Tensor, generator: Generator
    ) -> Tensor:
        """See `Part.reconstruct`: by subtraction and correction."""
        assert isinstance(module, ConditionalParity)
        (row,) = self.rows
        base = self.code.base
        answer = module(base.encode(queries, self.r)[:, row]).to(outputs.dtype)
        decoded = base.single_losses(outputs, answer[:, : outputs.shape[-1]], self.r, row)
        corrections = [module.correction(outputs, answer, slot) for slot in range(self.k)]
        return decoded + torch.stack(corrections, dim=1)


class EncoderDecoder(Part[Learned]):
    """The learned encoder and decoder, trained through the deployed model, which stays as it is."""

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
        module = LearnedCoder(shape, self.k, self.r, outputs, self.code.encoder, self.code.width)
        initialise(module)
        return module

    def start_from(self, module: nn.Module, deployed: nn.Module) -> None:
        """There is nothing in the deployed model that an encoder or a decoder could start from."""

    def reconstruct(
        self, module: nn.Module, deployed: nn.Module, queries: Tensor, outputs: Tensor, generator: Generator
    ) -> Tensor:
        """See `Part.reconstruct`: with r > 1, each slot is lost together with up to r - 1 others, at random."""
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
