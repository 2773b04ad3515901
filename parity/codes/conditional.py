"""A decoder that also uses the available predictions: the subtraction, corrected by a small network.

The parity model has some further outputs beside the k predictions' sum. A three-layer perceptron sees these, and the
mean softmax and mean raw outputs of the available predictions, and adds a correction to the subtraction's result. It
needs no further pass through a network of the deployed model's size. The paper has no such decoder;
docs/paper-accuracy.md measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from parity.codes.base import Coder, ModelUsed, Part, TensorCode, by_pattern, coded_answers, own_answers
from parity.codes.linear import Addition, LinearCode

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from parity.modules import ConditionalParity
    from parity.networks import Network
    from parity.shape import Shape


class Conditional(TensorCode):
    """Subtraction plus a trained correction that looks at the available predictions too; encodes like `base`."""

    kind: Literal["conditional"] = "conditional"
    base: LinearCode = Addition()
    """The code whose coded queries and subtraction it builds on: `addition` or `concatenation`."""
    features: int = Field(default=64, ge=1)
    """Further outputs of the parity model, for the decoder alone."""
    hidden: int = Field(default=128, ge=1)
    """Width of the decoder's two hidden layers."""

    def check(self, k: int, r: int) -> None:
        """Raise ValueError where the base cannot serve k and r, or has no parity models."""
        self.base.check(k, r)
        if self.base.answered_by != "parity":
            raise ValueError(f"base: '{self.base.name_in_yaml()}' has no parity models to add outputs to")

    def encode(self, queries: Tensor, r: int) -> Tensor:
        """See `LinearCode.encode`."""
        return self.base.encode(queries, r)

    def decode(self, outputs: Tensor, parities: Tensor, returned: Tensor) -> Tensor:
        """Decode by subtraction alone, without the trained correction."""
        return self.base.decode(outputs, parities[..., : outputs.shape[-1]], returned)

    def parts(self, k: int, r: int) -> list[Part[Any]]:
        """Return a parity model with its decoder for each row."""
        self.check(k, r)
        return [ConditionalRow(self, k, r, (row,)) for row in range(r)]

    def bind(self, k: int, r: int, trained: Sequence[nn.Module], deployed: nn.Module) -> tuple[Coder, list[nn.Module]]:
        """Return the code with its decoders, and the parity models."""
        from parity.modules import ConditionalParity

        rows = [module for module in trained if isinstance(module, ConditionalParity)]
        return _BoundConditional(self, rows), list(rows)


class _BoundConditional:
    """The code with its trained decoders, one for each row."""

    def __init__(self, code: Conditional, rows: Sequence[ConditionalParity]) -> None:
        self.code = code
        self.rows = rows
        self.answered_by: ModelUsed = "parity"
        self.encode = code.encode
        self.targets = code.targets

    def decode(self, outputs: Tensor, parities: Tensor, returned: Tensor) -> Tensor:
        """See `Coder.decode`: a single loss by the first row that returned; several by subtraction alone."""
        import torch

        k, r = outputs.shape[1], parities.shape[1]
        decoded = self.code.decode(outputs, parities, returned)
        for pattern, groups in by_pattern(returned, outputs.device):
            _, missing = own_answers(k, pattern)
            if len(missing) != 1:
                continue
            (slot,) = missing
            row = coded_answers(k, r, pattern)[0]
            decoder = self.rows[row].to(outputs.device)
            with torch.no_grad():
                correction = decoder.correction(outputs[groups], parities[groups, row], slot)
            decoded[groups, slot] += correction.to(decoded.dtype)
        return decoded


class ConditionalRow(Part[Conditional]):
    """The parity model of one row, with its decoder."""

    def identity(self) -> dict[str, Any]:
        """See `Part.identity`."""
        code = self.code
        base = code.base.identity(self.k, self.r, self.rows[0])
        return {"kind": code.name_in_yaml(), "base": base, "features": code.features, "hidden": code.hidden}

    def build(self, network: Network, shape: Shape, outputs: int, initialise: Callable[[nn.Module], None]) -> nn.Module:
        """See `Part.build`; it has more outputs than the deployed model, and a decoder that corrects nothing yet."""
        from parity.modules import ConditionalParity

        code = self.code
        wide = code.base.build(network, shape, outputs + code.features, self.k)
        module = ConditionalParity(wide, self.k, outputs, code.features, code.hidden)
        initialise(module)
        module.begin_with_subtraction()
        return module

    def start_from(self, module: nn.Module, deployed: nn.Module) -> None:
        """Copy the deployed model's weights; they are the first rows of the last layer, which is larger."""
        from parity.modules import ConditionalParity

        assert isinstance(module, ConditionalParity)
        self.code.base.adopt(module.network, deployed)

    def reconstruct(
        self, module: nn.Module, deployed: nn.Module, queries: Tensor, outputs: Tensor, generator: Generator
    ) -> Tensor:
        """See `Part.reconstruct`: by subtraction and correction."""
        import torch

        from parity.modules import ConditionalParity

        assert isinstance(module, ConditionalParity)
        (row,) = self.rows
        base = self.code.base
        answer = module(base.encode(queries, self.r)[:, row]).to(outputs.dtype)
        decoded = base.single_losses(outputs, answer[:, : outputs.shape[-1]], self.r, row)
        corrections = [module.correction(outputs, answer, slot) for slot in range(self.k)]
        return decoded + torch.stack(corrections, dim=1)
