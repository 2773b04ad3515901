"""Finds the queries of a trace that were reconstructed, and the queries whose answers were used.

The queries at one position of the k batches of a coding group make a word: they were encoded together, so every parity
row is computed once per word, however many of its slots were lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.trace import Ints, Route, Trace


@dataclass(frozen=True, slots=True)
class Words:
    """The words in which some query was reconstructed (w of them) and those queries (l of them), word after word."""

    members: Ints
    """Each word's query per slot, shape (w, k). A batch too short to have that position gives its last query, and a
    group that never filled repeats its last batch."""
    rows: Ints
    """Bit j is set where some reconstruction of the word used parity row j; shape (w,)."""
    query: Ints
    """The reconstructed queries, shape (l,)."""
    word: Ints
    """Row of `members` of each of them, never decreasing; shape (l,)."""
    slot: Ints
    """Which slot of its word each of them is, shape (l,)."""
    used: Ints
    """The answers from which each of them was decoded, as in the trace; shape (l,)."""

    def __len__(self) -> int:
        return len(self.members)

    def needing(self, row: int) -> NDArray[np.bool_]:
        """Return for each word whether parity row `row` was used, shape (w,)."""
        return np.asarray((self.rows >> row) & 1, dtype=np.bool_)

    def reused(self, k: int, r: int) -> int:
        """Count the parity answers that served a further loss of a word than the one that they were computed for."""
        return sum(int(((self.used >> (k + row)) & 1).sum() - self.needing(row).sum()) for row in range(r))


def reconstructed_words(trace: Trace) -> Words:
    """Find the words of `trace` in which some query was reconstructed.

    Raises ValueError where a reconstruction belongs to no coding group, or took the answer of a batch that its group
    lacks.
    """
    queries, batches = trace.queries, trace.batches
    lost = np.flatnonzero(queries.route == Route.RECONSTRUCTION)
    batch = queries.batch[lost]
    group, position = batches.group[batch].astype(np.int64), lost - batches.first[batch]
    if (group < 0).any():
        raise ValueError("the trace has a reconstruction outside any coding group")
    longest = int(batches.size.max(initial=1))
    keys, word = np.unique(group * longest + position, return_inverse=True)
    order = np.argsort(word, kind="stable")
    lost, batch, word = lost[order], batch[order], word[order]

    coded = np.flatnonzero(batches.group >= 0)
    seats = np.full((int(batches.group.max(initial=-1)) + 1, trace.k), -1, dtype=np.int64)
    seats[batches.group[coded], batches.slot[coded]] = coded
    seat = seats[keys // longest]
    used = queries.used[lost]
    taken = (used[:, None] >> np.arange(trace.k)) & 1 == 1
    if (seat[:, :1] < 0).any() or (taken & (seat[word] < 0)).any():
        raise ValueError("the trace has a reconstruction in a coding group that was never full")
    for slot in range(1, trace.k):
        seat[:, slot] = np.where(seat[:, slot] < 0, seat[:, slot - 1], seat[:, slot])
    last = batches.size[seat].astype(np.int64) - 1
    members = batches.first[seat] + np.minimum((keys % longest)[:, None], last)

    rows = np.zeros(len(keys), dtype=np.int64)
    np.bitwise_or.at(rows, word, used >> trace.k)
    return Words(members, rows, lost, word, batches.slot[batch].astype(np.int64), used)
