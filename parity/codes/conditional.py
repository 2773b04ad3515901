"""A decoder that also looks at the answers that are there: the subtraction, corrected by a small network.

The parity model has some further outputs beside the k predictions' sum. A three-layer perceptron sees these, and the
mean softmax and mean raw outputs of the available predictions, and adds a correction to what the subtraction gives. It
takes no further pass through a network of the deployed model's size. It is not the paper's decoder; a lead of our own,
measured in docs/paper-accuracy.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from parity.codes.base import Coder, ModelUsed, TensorCode, coded_answers, own_answers
from parity.codes.linear import Addition, LinearCode

if TYPE_CHECKING:
    from torch import Tensor, nn

    from parity.coders import ConditionalParity
    from parity.parts import Part


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
        """Decode by subtraction alone, without the trained correction that `bind` brings."""
        return self.base.decode(outputs, parities[..., : outputs.shape[-1]], returned)

    def parts(self, k: int, r: int) -> list[Part[Any]]:
        """Return a parity model with its decoder for each row."""
        from parity.parts import ConditionalRow

        self.check(k, r)
        return [ConditionalRow(self, k, r, (row,)) for row in range(r)]

    def bind(self, k: int, r: int, trained: Sequence[nn.Module], deployed: nn.Module) -> tuple[Coder, list[nn.Module]]:
        """Return the code with its decoders, and the parity models."""
        from parity.coders import ConditionalParity

        del k, r, deployed
        rows = [module for module in trained if isinstance(module, ConditionalParity)]
        return _AtWork(self, rows), list(rows)


class _AtWork:
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
        patterns, group_pattern = torch.unique(returned, return_inverse=True)
        for number, pattern in enumerate(patterns.tolist()):
            _, missing = own_answers(k, pattern)
            if len(missing) != 1:
                continue
            (slot,) = missing
            row = coded_answers(k, r, pattern)[0]
            groups = (group_pattern == number).nonzero().squeeze(1)
            decoder = self.rows[row].to(outputs.device)
            with torch.no_grad():
                correction = decoder.correction(outputs[groups], parities[groups, row], slot)
            decoded[groups, slot] += correction.to(decoded.dtype)
        return decoded
