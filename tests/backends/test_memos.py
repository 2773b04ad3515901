"""What is remembered of a parity model's outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backends import memos
from backends.memos import WordMemo


def outputs_of(words: np.ndarray) -> torch.Tensor:
    """A model that answers with the word's first sample, and with all of them."""
    return torch.from_numpy(np.stack([words[:, 0], (words * 7 ** np.arange(words.shape[1])).sum(1)], 1)).float()


@given(
    calls=st.lists(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12), min_size=1, max_size=8),
    samples=st.sampled_from([5, 2**40]),
    limit=st.sampled_from([0, 10, 2**22]),
)
def test_outputs_are_those_of_the_words_and_no_word_is_asked_for_twice(
    calls: list[list[tuple[int, int]]], samples: int, limit: int
) -> None:
    memo, seen = WordMemo(samples, 2), set[tuple[int, int]]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memos, "KEPT_VALUES", limit)
        for call in calls:
            words = np.array(call, np.int64).reshape(-1, 2)
            memo.want(words)  # of which nothing is learned, as after an interruption
            wanted = memo.want(words)
            if samples == 5:
                assert len({tuple(word) for word in wanted.new.tolist()}) == len(wanted.new)
                if limit == 2**22:
                    assert {tuple(word) for word in wanted.new.tolist()} == set(call) - seen
            else:  # words of so many samples have no number
                assert wanted.new.tolist() == words.tolist()
            if len(wanted.new):
                memo.learn(wanted, outputs_of(wanted.new))
            if call:
                assert torch.equal(memo.outputs[torch.from_numpy(wanted.row)], outputs_of(words))
            seen |= set(call)


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memos, "KEPT_VALUES", 100)
    memo, generator = WordMemo(1000, 2), np.random.default_rng(1)
    for _ in range(50):
        wanted = memo.want(generator.integers(1000, size=(30, 2)))
        memo.learn(wanted, outputs_of(wanted.new))
        assert memo.outputs.numel() <= 2 * (100 + 2 * 30)
