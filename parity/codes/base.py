"""What a code has to be able to do so that predictions can be computed with it: the interface of all codes.

A user's own code is one class below `TensorCode`: `encode` and `decode`, and `answered_by` to say whose answers to the
coded queries `decode` gets. Codes with something to train say what in `parts`, and bring it along in `bind`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from sim.code import Code

if TYPE_CHECKING:
    from torch import Tensor, nn

    from parity.parts import Part

ModelUsed = Literal["parity", "deployed", "oracle"]
"""Who answers coded queries: parity models trained for it, the deployed model itself, or, as an upper bound, nobody:
then the answers are by definition what the code's `targets` says."""


class Coder(Protocol):
    """A code at work: what computes with it sees no more of it."""

    @property
    def answered_by(self) -> ModelUsed:
        """Who answers coded queries."""

    def encode(self, queries: Tensor, r: int) -> Tensor:
        """Make the coded queries: (g, k, *shape) -> (g, r, *shape), on the queries' device."""

    def targets(self, outputs: Tensor, r: int) -> Tensor:
        """Say what an oracle answers to them where the deployed model answers `outputs`: (g, k, c) -> (g, r, c)."""

    def decode(self, outputs: Tensor, parities: Tensor, returned: Tensor) -> Tensor:
        """Give every group all its predictions, shape (g, k, c).

        `outputs` (g, k, c) are the deployed model's own answers, `parities` (g, r, p) those to the coded queries, and
        `returned` int64 (g,) is a bit mask as in `Code.sufficient`. Entries whose bit is not set are never read.
        """


class TensorCode(Code):
    """An erasure code that encodes queries and decodes predictions as tensors."""

    answered_by: ClassVar[ModelUsed] = "parity"
    """Who answers coded queries."""

    @abstractmethod
    def encode(self, queries: Tensor, r: int) -> Tensor:
        """See `Coder.encode`."""

    @abstractmethod
    def decode(self, outputs: Tensor, parities: Tensor, returned: Tensor) -> Tensor:
        """See `Coder.decode`. Raises ValueError where a group's answers do not suffice."""

    def targets(self, outputs: Tensor, r: int) -> Tensor:
        """See `Coder.targets`; only a code whose answers come from an oracle has them."""
        raise TypeError(f"code '{self.name_in_yaml()}' has no oracle: its coded queries are answered by models")

    def parts(self, k: int, r: int) -> Sequence[Part[Any]]:
        """Return what has to be trained for k queries and r coded ones; nothing by default."""
        del k, r
        return ()

    def bind(self, k: int, r: int, trained: Sequence[nn.Module], deployed: nn.Module) -> tuple[Coder, list[nn.Module]]:
        """Return the code with what was trained for its `parts`, and who answers each of the r coded queries."""
        del k
        if self.answered_by == "deployed":
            return self, [deployed] * r
        return self, list(trained)


def own_answers(k: int, pattern: int) -> tuple[list[int], list[int]]:
    """Split the slots 0 .. k-1 into those whose own answer is in the bit mask and those whose is not."""
    own = [slot for slot in range(k) if pattern >> slot & 1]
    return own, [slot for slot in range(k) if not pattern >> slot & 1]


def coded_answers(k: int, r: int, pattern: int) -> list[int]:
    """Return the rows 0 .. r-1 of the coded answers that are in the bit mask."""
    return [row for row in range(r) if pattern >> (k + row) & 1]
