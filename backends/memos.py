"""What models have answered, so that no cell of an experiment has it computed again."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sim.trace import Ints

KEPT_VALUES = 2**22
"""Numbers that are kept of a parity model's outputs (16 MiB); then they are forgotten, but for those of one cell."""


@dataclass(slots=True)
class SampleMemo:
    """A model's outputs, per sample of the test set, as far as they have been needed; all but `known` on the device."""

    module: nn.Module
    name: str
    answer: Tensor
    top5: Tensor
    finite: Tensor
    """Whether all outputs so far are finite, one bool."""
    known: NDArray[np.bool_]
    outputs: Tensor = field(default_factory=lambda: torch.empty(0, 0))

    def unknown(self, samples: Ints) -> tuple[Ints, int]:
        """Return the distinct ones of `samples` whose outputs are not known yet, and how many are."""
        wanted = np.zeros(len(self.known), dtype=bool)
        wanted[samples] = True
        new = np.flatnonzero(wanted & ~self.known)
        return new, int(wanted.sum()) - len(new)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Words whose outputs are wanted, n of them."""

    row: Ints
    """Where the memo has each one's outputs, once it has learned those of `new`; shape (n,)."""
    new: Ints
    """The samples of the words that are to be computed, shape (m, k)."""
    keys: Ints
    """Numbers of these words, increasing; shape (m,)."""


class WordMemo:
    """A parity model's outputs, per word of k samples: policies, rates and machines of a trial have the same words."""

    def __init__(self, samples: int, k: int) -> None:
        """`samples` is the size of the test set. Where its words cannot be numbered, nothing is remembered."""
        self._powers = samples ** np.arange(k) if samples**k < 2**62 else None
        self._keys = np.empty(0, np.int64)
        """Numbers of the known words, increasing."""
        self._rows = np.empty(0, np.int64)
        """Row in `outputs` of each of them."""
        self.outputs = torch.empty(0, 0)
        """On the device, with room for more."""

    def want(self, members: Ints) -> Wanted:
        """Say where the outputs of these words will be, (n, k), and which are to be computed and learned."""
        if self._powers is None or len(self._keys) * self.outputs.shape[1] > KEPT_VALUES:
            self._keys, self._rows = self._keys[:0], self._rows[:0]
        numbers = np.arange(len(members)) if self._powers is None else members @ self._powers
        keys, first, which = np.unique(numbers, return_index=True, return_inverse=True)
        known = np.isin(keys, self._keys, assume_unique=True)
        rows = np.empty(len(keys), np.int64)
        rows[known] = self._rows[np.searchsorted(self._keys, keys[known])]
        rows[~known] = len(self._keys) + np.arange(np.count_nonzero(~known))
        return Wanted(rows[which.reshape(-1)], members[first[~known]], keys[~known])

    def learn(self, wanted: Wanted, outputs: Tensor) -> None:
        """Keep the outputs (m, p) of the new words."""
        before, after = len(self._keys), len(self._keys) + len(outputs)
        if after > len(self.outputs):
            wider = outputs.new_empty(max(after, 2 * before), outputs.shape[1])
            if before:
                wider[:before] = self.outputs[:before]
            self.outputs = wider
        self.outputs[before:after] = outputs
        place = np.searchsorted(self._keys, wanted.keys)
        self._keys = np.insert(self._keys, place, wanted.keys)
        self._rows = np.insert(self._rows, place, np.arange(before, after))
