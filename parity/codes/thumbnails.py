"""Thumbnails: a coded query shows its k queries in small, and the parity model answers each of them by itself.

The picture is that of `concatenation` (Kosaian et al., SOSP 2019, section 4.2), of one query's size. There a network
looks at all of it and answers the sum of predictions. Here the same network looks at one place after the other, about
the same work, and answers k predictions: queries do not get in each other's way, nothing is subtracted, and whatever
is lost of the group is restored as soon as that one answer is back. docs/paper-accuracy.md measures it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from parity.codes.base import Part, by_pattern, own_answers
from parity.codes.picture import PictureCode

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from parity.networks import Network
    from parity.shape import Shape


class Thumbnails(PictureCode):
    """Smaller copies of the queries in one image; the parity model answers each, so no other answer is waited for."""

    kind: Literal["thumbnails"] = "thumbnails"

    def sufficient(self, k: int, r: int, returned: int) -> bool:
        """See `Code.sufficient`: the coded answer alone suffices."""
        del r
        return returned >> k > 0 or returned == (1 << k) - 1

    def decode(self, outputs: Tensor, parities: Tensor, returned: Tensor) -> Tensor:
        """See `Coder.decode`: slots that returned unchanged, the others as the parity model has them."""
        g, k, c = outputs.shape
        if parities.shape != (g, 1, k * c) or returned.shape != (g,):
            raise ValueError(
                f"decode: outputs {tuple(outputs.shape)}, parities {tuple(parities.shape)} and returned "
                f"{tuple(returned.shape)} do not belong together; expected (g, k, c), (g, 1, k c) and (g,)"
            )
        answers = parities.reshape(g, k, c)
        decoded = outputs.clone()
        for pattern, groups in by_pattern(returned, outputs.device):
            if not self.sufficient(k, 1, pattern):
                raise ValueError(
                    f"decode: the answers {pattern:0{k + 1}b} (bits, slot 0 rightmost) do not suffice for k = {k}"
                )
            for slot in own_answers(k, pattern)[1]:
                decoded[groups, slot] = answers[groups, slot].to(outputs.dtype)
        return decoded

    def parts(self, k: int, r: int) -> list[Part[Any]]:
        """Return the one parity model. Raises ValueError like `check`."""
        self.check(k, r)
        return [ThumbnailsModel(self, k, r, (0,))]


class ThumbnailsModel(Part[Thumbnails]):
    """The parity model: the deployed model's architecture, made for one place of the picture."""

    def identity(self) -> dict[str, Any]:
        """See `Part.identity`."""
        return {"kind": self.code.name_in_yaml(), "k": self.k} | self.code.drawn(self.k)

    def build(self, network: Network, shape: Shape, outputs: int, initialise: Callable[[nn.Module], None]) -> nn.Module:
        """See `Part.build`. Raises ParmError where a place is too small for the network."""
        from parity.mosaic import PlaceByPlace, largest, places

        layout, chroma = self.code.rows(self.k), self.code.chroma
        self.code.check_images(shape, self.k)
        channels = 4 if chroma else shape[0]
        one = network.build((channels, *largest(places(layout, *shape[1:]))), outputs)
        initialise(one)
        return PlaceByPlace(one, layout, *shape[1:], chroma)

    def start_from(self, module: nn.Module, deployed: nn.Module) -> None:
        """See `Part.start_from`: the layers whose weights do not depend on the image's size."""
        from parity.mosaic import PlaceByPlace, adopt

        assert isinstance(module, PlaceByPlace)
        adopt(module.network, deployed)

    def reconstruct(
        self, module: nn.Module, deployed: nn.Module, queries: Tensor, outputs: Tensor, generator: Generator
    ) -> Tensor:
        """See `Part.reconstruct`: the parity model's answers."""
        answer: Tensor = module(self.code.encode(queries, self.r)[:, 0])
        return answer.to(outputs.dtype).reshape(outputs.shape)
