"""Classification metrics, per query: what the top answer is, and whether the true label is among the top n."""

from __future__ import annotations

import torch
from torch import Tensor


def top_answer(outputs: Tensor) -> Tensor:
    """Return the class with the largest output, the lowest-numbered one among equals; (n, classes) -> int16 (n,)."""
    return outputs.argmax(dim=1).to(torch.int16)


def in_top(outputs: Tensor, labels: Tensor, n: int = 5) -> Tensor:
    """Say for each row whether its label is among the n classes with the largest outputs; (rows, classes) -> (rows,).

    Equal outputs rank by class number, so that `n=1` agrees with `top_answer`. With n classes or fewer all are in.
    """
    own = outputs.gather(1, labels[:, None])
    earlier = torch.arange(outputs.shape[1], device=outputs.device) < labels[:, None]
    ahead = (outputs > own) | ((outputs == own) & earlier)
    return ahead.sum(dim=1) < n
