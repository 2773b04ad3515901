"""Linear erasure codes over predictions: how parity queries are made, what parity models should answer, how to decode.

A coding group holds k queries X_i whose predictions are F_i = F(X_i). Parity row j of r has the weights a_j1 .. a_jk:

    parity query    P_j = sum_i a_ji X_i          (pixel by pixel, after normalisation)
    its target      T_j = sum_i a_ji F_i          (raw outputs, no softmax)
    decoding        solve for the missing F_i from any k of the k + r answers

The trap in sending the same P to several parity models (Kosaian et al., SOSP 2019, sketch r = 2 for k = 2 with the
targets F_1 + F_2 and F_1 + 2 F_2, both from P = X_1 + X_2): that P is symmetric in its queries, so F_1 + 2 F_2 is no
function of P. Among all functions of P the squared error is least for the mean over both orders, 1.5 (F_1 + F_2), which
is collinear with the first row; two losses then leave one equation for two unknowns. Hence each row here weights the
QUERIES as it weights the targets, every square submatrix of the weights is invertible, and each row has a parity model.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from parity.codes.base import ModelUsed, Part, TensorCode, by_pattern, coded_answers, constant, own_answers

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from parity.networks import Network
    from parity.shape import Shape

SINGULAR = 1e-9
"""A submatrix whose determinant is below this share of its Hadamard bound cannot be solved with in float64."""


class LinearCode(TensorCode):
    """A maximum distance separable linear code: any k of the k + r answers of a coding group suffice."""

    weights: tuple[tuple[float, ...], ...] | None = Field(default=None, min_length=1)
    """One row of k weights per parity; by default row j has (i + 1)^j for slot i, from 0: row 0 is the plain sum."""
    query_weights: tuple[tuple[float, ...], ...] | None = Field(default=None, min_length=1)
    """Other weights for the queries than for their predictions. [[1, 1], [1, 1]] beside weights [[1, 1], [1, 2]] is the
    paper's example of two parities for k = 2, whose second target is no function of its parity query."""

    @model_validator(mode="after")
    def _weights_decode(self) -> Self:
        if self.weights is not None:
            widths = {len(row) for row in self.weights}
            if len(widths) != 1 or widths == {0}:
                raise ValueError(
                    "weights: every row needs the same number of weights, one per slot, at least one weight"
                )
            found = singular_submatrix(np.array(self.weights))
            if self.query_weights is not None and [len(row) for row in self.query_weights] != [
                len(row) for row in self.weights
            ]:
                raise ValueError("query_weights: as many rows and columns are needed as in 'weights'")
            if found is not None:
                raise ValueError(
                    f"weights: the square submatrix of rows {found[0]} and columns {found[1]} (from 0) is singular, so "
                    f"the loss of those slots could not be decoded from those parities"
                )
        elif self.query_weights is not None:
            raise ValueError("query_weights: give 'weights' too, those of the predictions")
        return self

    def check(self, k: int, r: int) -> None:
        """Raise ValueError where the code has weights for another k or r."""
        given = (r, k) if self.weights is None else (len(self.weights), len(self.weights[0]))
        if given != (r, k):
            raise ValueError(
                f"weights: {given[0]} x {given[1]} given (parities x slots), but r = {r} and k = {k} need {r} x {k}"
            )

    def matrix(self, k: int, r: int) -> NDArray[np.float64]:
        """Return the weights a_ji, shape (r, k). Raises ValueError like `check`."""
        self.check(k, r)
        if self.weights is not None:
            return np.array(self.weights, dtype=np.float64)
        # Vandermonde on positive nodes: totally positive, so every square submatrix is invertible.
        return np.arange(1, k + 1, dtype=np.float64) ** np.arange(r, dtype=np.float64)[:, None]

    def identity(self, k: int, r: int, row: int) -> dict[str, Any]:
        """Return everything of the code that the training of one row's parity model depends on, as JSON values."""
        known = {"kind": self.name_in_yaml(), "k": k, "weights": self.matrix(k, r)[row].tolist()}
        return known if self.query_weights is None else known | {"query_weights": list(self.query_weights[row])}

    def encode(self, queries: Tensor, r: int) -> Tensor:
        """Make the parity queries: (g, k, *shape) -> (g, r, *shape), in the queries' dtype."""
        weights = self.matrix(queries.shape[1], r)
        return _weighted_sums(queries, weights if self.query_weights is None else np.array(self.query_weights))

    def targets(self, outputs: Tensor, r: int) -> Tensor:
        """Return the targets of the parity models: (g, k, c) -> (g, r, c), in float64 so that decoding is exact."""
        return _weighted_sums(outputs.double(), self.matrix(outputs.shape[1], r))

    def build(self, network: Network, shape: Shape, outputs: int, k: int) -> nn.Module:
        """Make the module that answers coded queries of k queries, of the deployed model's architecture."""
        return network.build(shape, outputs)

    def adopt(self, module: nn.Module, deployed: nn.Module) -> None:
        """Copy the deployed model's weights into what `build` made, which may have more outputs."""
        from parity.mosaic import adopt

        adopt(module, deployed)

    def parts(self, k: int, r: int) -> list[Part[Any]]:
        """Return a parity model for each row, none where an oracle answers. Raises ValueError like `check`."""
        self.check(k, r)
        return [ParityRow(self, k, r, (row,)) for row in range(r)] if self.answered_by == "parity" else []

    def single_losses(self, outputs: Tensor, parity: Tensor, r: int, row: int) -> Tensor:
        """Reconstruct every slot as if it were the only one lost, from one parity row and the others' own answers.

        `outputs` (g, k, c) and `parity` (g, c) give (g, k, c); differentiable in `parity`, as training needs it.
        """
        weights = constant(self.matrix(outputs.shape[1], r)[row], outputs.dtype, outputs.device)
        error = parity - (weights[:, None] * outputs).sum(1)
        # F^_i = (parity - sum_{j != i} a_j F_j) / a_i = F_i + error / a_i
        return outputs + error[:, None] / weights[:, None]

    def decode(self, outputs: Tensor, parities: Tensor, returned: Tensor) -> Tensor:
        """Return all predictions of every group: slots that returned unchanged, missing ones solved for in float64.

        `outputs` (g, k, c), `parities` (g, r, c) and the bit masks `returned` int64 (g,) as in `Code.sufficient` give
        (g, k, c) in the dtype of `outputs`. Entries whose bit is not set are never read. Where more than k answers
        returned, the own answers are used first, then the parity rows in order. Raises ValueError where a group's
        answers do not suffice.
        """
        import torch

        g, k, c = outputs.shape
        r = parities.shape[1]
        if parities.shape != (g, r, c) or returned.shape != (g,):
            raise ValueError(
                f"decode: outputs {tuple(outputs.shape)}, parities {tuple(parities.shape)} and returned "
                f"{tuple(returned.shape)} do not belong together; expected (g, k, c), (g, r, c) and (g,)"
            )
        decoded = outputs.clone()
        for pattern, groups in by_pattern(returned, outputs.device):
            own, missing, rows = self._roles(k, r, pattern)
            if not missing:
                continue
            # missing = inverse(A[rows, missing]) (parities[rows] - A[rows, own] outputs[own]), as one matrix
            matrix = self.matrix(k, r)[rows]
            solution = np.linalg.solve(matrix[:, missing], np.hstack([np.eye(len(rows)), -matrix[:, own]]))
            known = [*(parities[groups, row] for row in rows), *(outputs[groups, slot] for slot in own)]
            solved = constant(solution, torch.float64, outputs.device) @ torch.stack(known, dim=1).double()
            for number, slot in enumerate(missing):
                decoded[groups, slot] = solved[:, number].to(outputs.dtype)
        return decoded

    def _roles(self, k: int, r: int, pattern: int) -> tuple[list[int], list[int], list[int]]:
        """Return the own slots to use, the missing slots, and the parity rows to use."""
        if pattern >> (k + r) or not self.sufficient(k, r, pattern):
            raise ValueError(
                f"decode: the answers {pattern:0{k + r}b} (bits, slot 0 rightmost) do not suffice for k = {k}, r = {r}"
            )
        own, missing = own_answers(k, pattern)
        return own, missing, coded_answers(k, r, pattern)[: len(missing)]


def _weighted_sums(values: Tensor, weights: NDArray[np.float64]) -> Tensor:
    """(g, k, *shape) and weights (r, k) -> (g, r, *shape)."""
    g, k, *shape = values.shape
    matrix = constant(weights, values.dtype, values.device)
    return (matrix @ values.reshape(g, k, -1)).reshape(g, len(weights), *shape)


class Addition(LinearCode):
    """Weighted sums of queries, answered by trained parity models and decoded by subtraction (the paper's code)."""

    kind: Literal["addition"] = "addition"


class Exact(LinearCode):
    """An oracle whose parity outputs are the true weighted sums: the upper bound on accuracy of any linear code."""

    kind: Literal["exact"] = "exact"
    answered_by: ClassVar[ModelUsed] = "oracle"


def singular_submatrix(matrix: NDArray[np.float64]) -> tuple[list[int], list[int]] | None:
    """Return rows and columns of the smallest square submatrix that is singular in float64, or None."""
    r, k = matrix.shape
    for size in range(1, min(r, k) + 1):
        columns = np.array(list(combinations(range(k), size)))
        for rows in combinations(range(r), size):
            submatrices = matrix[np.array(rows)][:, columns].transpose(1, 0, 2)
            bound = np.linalg.norm(submatrices, axis=2).prod(axis=1)
            bad = np.abs(np.linalg.det(submatrices)) <= SINGULAR * bound
            if bad.any():
                return list(rows), columns[int(bad.argmax())].tolist()
    return None


class ParityRow(Part[LinearCode]):
    """The parity model of one row of a linear code."""

    def identity(self) -> dict[str, Any]:
        """See `Part.identity`; it depends on that row alone, so row 0 of r = 2 is the model of r = 1."""
        return self.code.identity(self.k, self.r, self.rows[0])

    def build(self, network: Network, shape: Shape, outputs: int, initialise: Callable[[nn.Module], None]) -> nn.Module:
        """See `Part.build`: a network of the deployed model's architecture."""
        module = self.code.build(network, shape, outputs, self.k)
        initialise(module)
        return module

    def start_from(self, module: nn.Module, deployed: nn.Module) -> None:
        """See `Part.start_from`."""
        self.code.adopt(module, deployed)

    def reconstruct(
        self, module: nn.Module, deployed: nn.Module, queries: Tensor, outputs: Tensor, generator: Generator
    ) -> Tensor:
        """See `Part.reconstruct`: by subtraction."""
        (row,) = self.rows
        answer = module(self.code.encode(queries, self.r)[:, row]).to(outputs.dtype)
        return self.code.single_losses(outputs, answer, self.r, row)
