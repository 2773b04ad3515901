"""The interface of all codes, `TensorCode`, and of what is trained for a code, `Part`.

A user's own code is a class below `TensorCode` with `encode` and `decode`; `answered_by` says which model answers the
coded queries. A code that needs training returns a `Part` for each module from `parts`, and gets the trained modules in
`bind`. torch is imported inside methods only, so that YAML can name a code without loading it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sim.code import Code

if TYPE_CHECKING:
    import torch
    from torch import Generator, Tensor, nn

    from parity.networks import Network
    from parity.shape import Shape

ModelUsed = Literal["parity", "deployed", "oracle"]
"""Which model answers coded queries: parity models trained for it, the deployed model itself, or, as an upper bound, an
oracle: no model runs, and the answers are what the code's `targets` returns."""


class Coder(Protocol):
    """A code with its trained modules: all that encoding and decoding need of it."""

    @property
    def answered_by(self) -> ModelUsed:
        """Which model answers coded queries."""

    def encode(self, queries: Tensor, r: int) -> Tensor:
        """Make the coded queries: (g, k, *shape) -> (g, r, *shape), on the queries' device."""

    def targets(self, outputs: Tensor, r: int) -> Tensor:
        """Return an oracle's answers to them where the deployed model answers `outputs`: (g, k, c) -> (g, r, c)."""

    def decode(self, outputs: Tensor, parities: Tensor, returned: Tensor) -> Tensor:
        """Return all predictions of every group, shape (g, k, c).

        `outputs` (g, k, c) are the deployed model's own answers, `parities` (g, r, p) those to the coded queries, and
        `returned` int64 (g,) is a bit mask as in `Code.sufficient`, on the CPU whatever the answers are on, so that
        looking at it waits for nothing. Entries whose bit is not set are never read.
        """


class TensorCode(Code):
    """An erasure code that encodes queries and decodes predictions as tensors."""

    answered_by: ClassVar[ModelUsed] = "parity"
    """Which model answers coded queries."""

    @abstractmethod
    def encode(self, queries: Tensor, r: int) -> Tensor:
        """See `Coder.encode`."""

    @abstractmethod
    def decode(self, outputs: Tensor, parities: Tensor, returned: Tensor) -> Tensor:
        """See `Coder.decode`. Raises ValueError where a group's answers do not suffice."""

    def targets(self, outputs: Tensor, r: int) -> Tensor:
        """See `Coder.targets`; only a code whose answers come from an oracle has them."""
        raise TypeError(f"code '{self.name_in_yaml()}' has no oracle: models answer its coded queries")

    def parts(self, k: int, r: int) -> Sequence[Part[Any]]:
        """Return what has to be trained for k queries and r coded ones; nothing by default."""
        return ()

    def bind(self, k: int, r: int, trained: Sequence[nn.Module], deployed: nn.Module) -> tuple[Coder, list[nn.Module]]:
        """Return the code with its trained modules, and the model that answers each of the r coded queries."""
        if self.answered_by == "deployed":
            return self, [deployed] * r
        return self, list(trained)


class Locator(ABC):
    """A code that finds wrong answers among the coded ones, so that they are not decoded from."""

    errors: int
    """How many wrong answers of a group it is made for; 0: it does not look for any."""

    @abstractmethod
    def located(self, parities: Tensor, returned: Tensor, k: int) -> Tensor:
        """Return the bit mask of the answers that it takes for wrong, int64 (g,), on the CPU.

        `parities` (g, n, c) are the answers to n coded queries, and `returned`, int64 (g,) on the CPU, has those that
        are back, as `Code.sufficient` has it.
        """


def own_answers(k: int, pattern: int) -> tuple[list[int], list[int]]:
    """Return the slots 0 .. k-1 whose own answer is in the bit mask, and the other slots."""
    own = [slot for slot in range(k) if pattern >> slot & 1]
    return own, [slot for slot in range(k) if not pattern >> slot & 1]


def coded_answers(k: int, r: int, pattern: int) -> list[int]:
    """Return the rows 0 .. r-1 of the coded answers that are in the bit mask."""
    return [row for row in range(r) if pattern >> (k + row) & 1]


def by_pattern(returned: Tensor, device: torch.device) -> Iterator[tuple[int, Tensor | slice]]:
    """Yield each bit mask in `returned` int64 (g,), with an index on `device` of the groups that have it, in order.

    Nothing waits for the device where `returned` is on the CPU.
    """
    import torch

    masks, number = torch.unique(returned.cpu(), return_inverse=True)
    if len(masks) == 1:
        yield int(masks[0]), slice(None)
        return
    groups = torch.split(sent(number.argsort(stable=True), device), torch.bincount(number).tolist())
    yield from zip(masks.tolist(), groups, strict=True)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on `device`; on CUDA it goes there from pinned memory, and nothing waits for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def constant(matrix: NDArray[np.floating[Any]], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a matrix on `device`, to which equal ones are sent only once. It must not be written to."""
    return _constant(matrix.astype(np.float64).tobytes(), matrix.shape, dtype, device)


@lru_cache(maxsize=1024)
def _constant(content: bytes, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    import torch

    with torch.inference_mode(False):  # training may want it later
        return torch.from_numpy(np.frombuffer(content).reshape(shape).copy()).to(device, dtype)


AnyCode_co = TypeVar("AnyCode_co", bound=TensorCode, covariant=True)


@dataclass(frozen=True)
class Part(ABC, Generic[AnyCode_co]):
    """One module that is trained for a code at k and r."""

    code: AnyCode_co
    k: int
    r: int
    rows: tuple[int, ...]
    """The coded answers that it computes or decodes."""

    @property
    def role(self) -> str:
        """Its name in tables and folders."""
        return "parity"

    def describe(self) -> str:
        """Return what tells it from the other parts of the same code, for progress lines."""
        return f"k = {self.k}, row {self.rows[0]}"

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return everything of the code that its training depends on, as JSON values, for the model's key."""

    @abstractmethod
    def build(self, network: Network, shape: Shape, outputs: int, initialise: Callable[[nn.Module], None]) -> nn.Module:
        """Return the untrained module; `initialise` sets fresh weights."""

    def start_from(self, module: nn.Module, deployed: nn.Module) -> None:
        """Copy the deployed model's weights into the module, as far as it has that architecture."""
        module.load_state_dict(deployed.state_dict())

    @abstractmethod
    def reconstruct(
        self, module: nn.Module, deployed: nn.Module, queries: Tensor, outputs: Tensor, generator: Generator
    ) -> Tensor:
        """Reconstruct every slot as if it were lost, differentiably: (g, k, *shape) and (g, k, c) -> (g, k, c)."""
