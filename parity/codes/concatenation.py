"""Concatenation: a coded query shows its k queries side by side, each made smaller, in an image of one query's size.

Source: Kosaian, Rashmi, Venkataraman, "Parity Models", SOSP 2019, section 4.2: halves for k = 2, quadrants for k = 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from parity.codes.linear import LinearCode
from parity.codes.picture import PictureCode

if TYPE_CHECKING:
    from torch import nn

    from parity.networks import Network
    from parity.shape import Shape


class Concatenation(PictureCode, LinearCode):
    """Smaller copies of the queries side by side in one image, answered by a parity model, decoded by subtraction."""

    kind: Literal["concatenation"] = "concatenation"
    weights: None = None
    """Predictions are always summed with weight 1."""
    query_weights: None = None
    """Queries are not weighted."""

    def identity(self, k: int, r: int, row: int) -> dict[str, Any]:
        """See `LinearCode.identity`; how the picture is made belongs to it."""
        return super().identity(k, r, row) | self.drawn(k)

    def build(self, network: Network, shape: Shape, outputs: int, k: int) -> nn.Module:
        """See `LinearCode.build`: with `chroma` it sees a channel more, the difference between rows."""
        self.check_images(shape, k)
        if not self.chroma:
            return super().build(network, shape, outputs, k)
        from parity.mosaic import Unpacking

        return Unpacking(network.build((4, *shape[1:]), outputs), self.rows(k), *shape[1:])

    def adopt(self, module: nn.Module, deployed: nn.Module) -> None:
        """See `LinearCode.adopt`."""
        super().adopt(module.get_submodule("network") if self.chroma else module, deployed)
