"""Top-1 and top-5 against sorting row by row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backends.answers import in_top, top_answer


@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_in_top_agrees_with_a_stable_sort_even_where_outputs_are_equal(classes: int, n: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    outputs = generator.integers(0, 4, (20, classes)).astype(np.float32)
    labels = generator.integers(0, classes, 20)
    best = np.argsort(-outputs, axis=1, kind="stable")[:, :n]
    scores, true = torch.from_numpy(outputs), torch.from_numpy(labels)
    assert in_top(scores, true, n).tolist() == [label in row for label, row in zip(labels, best, strict=True)]
    assert in_top(scores, true, 1).tolist() == (top_answer(scores) == true).tolist()


@pytest.mark.parametrize("classes", [1, 2, 4, 5])
def test_with_five_classes_or_fewer_every_label_is_in_the_top_five(classes: int) -> None:
    outputs = np.random.default_rng(0).normal(size=(30, classes)).astype(np.float32)
    assert in_top(torch.from_numpy(outputs), torch.arange(30) % classes).all()


def test_a_sixth_place_is_not_in_the_top_five() -> None:
    outputs = torch.tensor([[6.0, 5, 4, 3, 2, 1]] * 6)
    assert in_top(outputs, torch.arange(6)).tolist() == [True] * 5 + [False]
    assert top_answer(outputs).dtype == torch.int16
