"""What the simulator needs of a code: which sets of answers suffice. `parity` encodes and decodes."""

from __future__ import annotations

from typing import ClassVar

from sim.kinds import Kind


class Code(Kind):
    """An erasure code over the predictions of a coding group of k queries with r parities."""

    family: ClassVar[str] = "code"
    systematic: ClassVar[bool] = True
    """Whether the deployed model's answers are predictions; otherwise each reply has to be decoded."""

    def sufficient(self, k: int, r: int, returned: int) -> bool:
        """Return whether the answers in `returned` determine all k predictions; by default any k of them do.

        `returned` is a bit mask: bit i < k for the answer of slot i, bit k + j for that of parity row j.
        """
        return any_k_suffice(k, r, returned)

    def needs(self, k: int) -> int:
        """Return how many answers a non-systematic code awaits before it decodes k queries; k by default."""
        return k

    def check(self, k: int, r: int) -> None:
        """Raise ValueError, in one sentence, if the code does not support k queries with r parities."""
        del k, r


def any_k_suffice(k: int, r: int, returned: int) -> bool:
    """Return whether any k of the k + r answers are there, which suffices for maximum distance separable codes."""
    del r
    return returned.bit_count() >= k
