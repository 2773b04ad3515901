"""Codes that need no training: coded queries are points of a curve near the queries, answered by the deployed model.

A curve u is laid near k queries, X_j belonging to alpha_j = cos((2j + 1) pi / 2k), and read at n = k + s points z_i.
The deployed model F answers all n coded queries u(z_i). A second curve is laid near the answers that are back, any k of
them or more, and read at the alpha_j: that is the prediction of X_j. Both curves depend linearly on what they are laid
near, so both steps are a matrix. No answer is a prediction as it is: every reply is decoded, and approximate.

With `errors`, e, up to e wrong answers are located before decoding (`locating.py`). Then n = 2(k + e) + s, and 2(k + e)
answers are awaited: ApproxIFER's locator needs so many, and the spline gets as many.

Nothing here depends on the normalisation of images: the rows of both matrices sum to one.
"""

from __future__ import annotations

from abc import abstractmethod
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from parity.codes.base import Locator, ModelUsed, TensorCode, by_pattern, coded_answers, constant

if TYPE_CHECKING:
    from torch import Tensor

Matrix = NDArray[np.float64]
Angles = tuple[Fraction, ...]
"""Points cos(pi a) of the interval by their exact a, so that equal points are found to be equal."""


MOST_BITS = 62
"""Queries and coded queries of a group, of which each has a bit in masks of 64."""


class CurveCode(TensorCode, Locator):
    """Base of codes that fit a curve; a subclass defines how its values at some points follow from those at others."""

    systematic: ClassVar[bool] = False
    answered_by: ClassVar[ModelUsed] = "deployed"

    nodes: Literal["cifar_script", "latency_script"] = "cifar_script"
    """Points z_i of the n coded queries, named for scripts of ApproxIFER's authors: cos(i pi / n), i = 0 .. n - 1, from
    which their accuracies come, or cos(i pi / (n - 1)), both ends included, far worse where one answer may be lost."""
    errors: int = Field(default=0, ge=0, le=8)
    """Wrong answers of a group that are located and not decoded from (e): 2(k + e) answers are then awaited, not k."""

    @abstractmethod
    def encoder(self, at: Angles, read: Angles) -> Matrix:
        """Return the values at `read` (n points) of the curve near queries at `at` (k points): (n, k)."""

    @abstractmethod
    def decoder(self, at: Angles, read: Angles) -> Matrix:
        """Return the values at `read` (k points) of the curve near answers at `at` (k points or more): (k, answers)."""

    @abstractmethod
    def wrong(self, answers: Tensor, at: Angles) -> Tensor:
        """Return which `answers` (g, m, c) at m points are taken for wrong, bool (g, m): at most `errors` in each."""

    def needs(self, k: int) -> int:
        """Return how many coded answers are awaited: k, or 2(k + errors)."""
        return 2 * (k + self.errors) if self.errors else k

    def sufficient(self, k: int, r: int, returned: int) -> bool:
        """As many as `needs` of the r coded answers suffice; the queries' own bits are not read."""
        return (returned >> k).bit_count() >= self.needs(k)

    def check(self, k: int, r: int) -> None:
        """Raise ValueError where there would be fewer coded queries than are awaited, or too many."""
        if self.errors and not self.needs(k) <= r <= MOST_BITS - k:
            raise ValueError(
                f"code '{self.name_in_yaml()}' with 'errors: {self.errors}' has 2(k + errors) = {self.needs(k)} to "
                f"{MOST_BITS} - k = {MOST_BITS - k} coded queries for k = {k}, not {r}"
            )
        if r < k or k < 2:
            raise ValueError(
                f"code '{self.name_in_yaml()}' replaces k >= 2 queries by k or more coded ones, not k = {k} by {r}"
            )

    def angles(self, k: int, n: int) -> tuple[Angles, Angles]:
        """Return where k queries and n coded queries lie: a of cos(pi a), growing. Raises ValueError like `check`."""
        self.check(k, n)
        last = n - 1 if self.nodes == "latency_script" else n
        return tuple(Fraction(2 * j + 1, 2 * k) for j in range(k)), tuple(Fraction(i, last) for i in range(n))

    def encode(self, queries: Tensor, r: int) -> Tensor:
        """Make all r = n coded queries: (g, k, *shape) -> (g, n, *shape), in the queries' dtype."""
        g, k, *shape = queries.shape
        at, read = self.angles(k, r)
        matrix = constant(self.encoder(at, read), queries.dtype, queries.device)
        return (matrix @ queries.reshape(g, k, -1)).reshape(g, r, *shape)

    def decode(self, outputs: Tensor, parities: Tensor, returned: Tensor) -> Tensor:
        """Predict from coded answers alone: parities (g, n, c) -> (g, k, c), in their dtype, computed in float64.

        Of `outputs` (g, k, c) only the shape is used. Raises ValueError where fewer than k answers are back.
        """
        import torch

        g, k = outputs.shape[:2]
        n = parities.shape[1]
        read, at = self.angles(k, n)
        decoded = parities.new_empty(g, k, parities.shape[2])
        for pattern, groups in by_pattern(returned, parities.device):
            rows = coded_answers(k, n, pattern)
            if pattern >> (k + n) or len(rows) < k:
                raise ValueError(
                    f"decode: the answers {pattern:0{k + n}b} (bits, slot 0 rightmost) do not suffice: {k} of {n}"
                )
            back = torch.stack([parities[groups, row] for row in rows], dim=1).double()
            matrix = constant(self.decoder(tuple(at[row] for row in rows), read), torch.float64, parities.device)
            decoded[groups] = (matrix @ back).to(parities.dtype)
        return decoded

    def located(self, parities: Tensor, returned: Tensor, k: int) -> Tensor:
        """See `Locator.located`: it looks among the first `needs` answers of a group, all where no more are back."""
        import torch

        n = parities.shape[1]
        at = self.angles(k, n)[1]
        found = torch.zeros(len(returned), dtype=torch.int64)
        for pattern, groups in by_pattern(returned, torch.device("cpu")):
            rows = coded_answers(k, n, pattern)[: self.needs(k)]
            back = parities[groups][:, rows].cpu().double()
            wrong = self.wrong(back, tuple(at[row] for row in rows))
            found[groups] = (wrong * torch.tensor([1 << (k + row) for row in rows])).sum(1)
        return found


def points(angles: Angles) -> Matrix:
    """Return the points cos(pi a), shape (len(angles),)."""
    return np.cos(np.pi * np.array(angles, dtype=np.float64))
