"""A fused query whose prediction by the deployed model is the mean of the queries' predictions, as in Coded-InvNet.

Source: Dinh, Lee, "Coded-InvNet for Resilient Prediction Serving Systems", ICML 2021. There the deployed model is
z = f(x), invertible, and a head; the fused query imitates f^-1(mean f(X_i)) and z_j = k z_fused - sum_{i != j} z_i goes
through the head. With a linear head, F(x) = W f(x) + b, no z has to travel, since predictions obey the same equation:

    k F(fused) - sum_{i != j} F(X_i) = W (k z_fused - sum_{i != j} z_i) + (k - (k - 1)) b = W z_j + b = F(X_j)

So the fusion network is trained for what F answers, and any deployed network will do; an invertible one can be fused
exactly, which shows that nothing but the fusion is approximate. Pictures of f^-1(mean f(X_i)) are not trained for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from parity.codes.base import Coder, ModelUsed, Part, TensorCode
from parity.codes.linear import Addition
from sim.errors import ParmError

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from parity.modules import Fusion
    from parity.networks import Network
    from parity.shape import Shape


class InvNet(TensorCode):
    """A trained network fuses k queries into one for the deployed model; decoded by subtraction (Coded-InvNet)."""

    kind: Literal["invnet"] = "invnet"
    answered_by: ClassVar[ModelUsed] = "deployed"
    fusion: Literal["trained", "exact"] = "trained"
    """`exact` inverts the deployed network, which has to be `invertible`, at k passes through it for each coded query:
    an upper bound."""
    width: int = Field(default=32, ge=1)
    """Channels of the fusion network."""

    def check(self, k: int, r: int) -> None:
        """Raise ValueError where more than one coded query is asked for."""
        if r != 1:
            raise ValueError(f"invnet makes one coded query per group, not r = {r}")

    def encode(self, queries: Tensor, r: int) -> Tensor:
        """Raises TypeError: the fusion exists only in what `bind` returns."""
        raise TypeError("an invnet code encodes with its trained fusion network: see bind")

    def decode(self, outputs: Tensor, parities: Tensor, returned: Tensor) -> Tensor:
        """See `Coder.decode`: k times the coded answer is the sum of all predictions."""
        return Addition().decode(outputs, parities * outputs.shape[1], returned)

    def parts(self, k: int, r: int) -> list[Part[Any]]:
        """Return the fusion network, nothing where fusion is exact. Raises ValueError like `check`."""
        self.check(k, r)
        return [FusionPart(self, k, r, (0,))] if self.fusion == "trained" else []

    def bind(self, k: int, r: int, trained: Sequence[nn.Module], deployed: nn.Module) -> tuple[Coder, list[nn.Module]]:
        """Return the code with its fusion; the deployed model answers the coded query."""
        from parity.modules import Fusion

        self.check(k, r)
        networks = [module for module in trained if isinstance(module, Fusion)]
        return _BoundInvNet(self, networks[0] if networks else None, deployed), [deployed]


class _BoundInvNet:
    """The code with its fusion network, or with the deployed network to invert."""

    def __init__(self, code: InvNet, network: Fusion | None, deployed: nn.Module) -> None:
        self.network = network
        self.deployed = deployed
        self.answered_by: ModelUsed = "deployed"
        self.targets = code.targets
        self.decode = code.decode

    def encode(self, queries: Tensor, r: int) -> Tensor:
        """See `Coder.encode`. Raises ParmError where fusion is exact and the deployed network has no inverse."""
        import torch

        with torch.no_grad():
            if self.network is None:
                return fuse_exactly(self.deployed.to(queries.device), queries)[:, None]
            fused: Tensor = self.network.to(queries.device)(queries)
            return fused[:, None]


def fuse_exactly(deployed: nn.Module, queries: Tensor) -> Tensor:
    """f^-1(mean f(X_i)), (g, k, *shape) -> (g, *shape). Raises ParmError where the deployed network has no inverse."""
    from parity.modules import InvertibleNetwork

    if not isinstance(deployed, InvertibleNetwork):
        raise ParmError("code 'invnet' with fusion 'exact' needs the deployed network 'invertible'")
    z = deployed.features(queries.flatten(0, 1)).reshape(*queries.shape[:2], -1)
    return deployed.inverse(z.mean(1))


class FusionPart(Part[InvNet]):
    """The fusion network, trained through the deployed model, which is not changed."""

    @property
    def role(self) -> str:
        """See `Part.role`."""
        return "fusion"

    def describe(self) -> str:
        """See `Part.describe`."""
        return f"k = {self.k}"

    def identity(self) -> dict[str, Any]:
        """See `Part.identity`."""
        return {"kind": self.code.name_in_yaml(), "k": self.k, "width": self.code.width}

    def build(self, network: Network, shape: Shape, outputs: int, initialise: Callable[[nn.Module], None]) -> nn.Module:
        """See `Part.build`: layers of its own, whatever the network."""
        from parity.modules import Fusion

        module = Fusion(shape, self.k, self.code.width)
        initialise(module)
        module.begin_with_mean()
        return module

    def start_from(self, module: nn.Module, deployed: nn.Module) -> None:
        """Do nothing: the deployed model has no such layers."""

    def reconstruct(
        self, module: nn.Module, deployed: nn.Module, queries: Tensor, outputs: Tensor, generator: Generator
    ) -> Tensor:
        """See `Part.reconstruct`: k times the fused query's prediction, less the others'."""
        answer = deployed(module(queries)).to(outputs.dtype)
        return Addition().single_losses(outputs, self.k * answer, 1, 0)
