"""Small data that trains in a moment."""

from __future__ import annotations

import pytest
import torch

from parity.objectives import TrainingData


@pytest.fixture(scope="session")
def data() -> TrainingData:
    """Four classes of noisy 8x8 pictures, 400 to train and 120 to test."""
    generator = torch.Generator().manual_seed(7)
    centres = torch.randn(4, 1, 8, 8, generator=generator)

    def draw(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(n) % 4
        return centres[labels] + 1.5 * torch.randn(n, 1, 8, 8, generator=generator), labels

    (train, train_labels), (test, test_labels) = draw(400), draw(120)
    return TrainingData("blobs", "fingerprint-of-blobs", "synthetic", 4, train, train_labels, test, test_labels)
