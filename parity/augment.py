"""Augmentation of training images, on whatever device they live."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Moves:
    """What is done to each of n images, drawn once, so that it can be done again."""

    shift: int
    """Pixels by which an image may move, either way."""
    down: Tensor
    """Rows, 0 .. 2 shift; `shift` is where the image was; int64 (n,)."""
    right: Tensor
    """Columns, likewise."""
    mirrored: Tensor
    """Whether left and right change places, bool (n,)."""

    @classmethod
    def draw(cls, n: int, shift: int, flip: bool, generator: Generator) -> Moves:
        """Draw moves by up to `shift` pixels both ways and, with `flip`, mirror every other image."""
        device = generator.device
        down, right = (torch.randint(2 * shift + 1, (n,), generator=generator, device=device) for _ in range(2))
        mirrored = torch.rand(n, generator=generator, device=device) < (0.5 if flip else 0.0)
        return cls(shift, down, right, mirrored)

    def of(self, rows: Tensor) -> Moves:
        """Return the moves of the images with these numbers, int64 (m,)."""
        return Moves(self.shift, self.down[rows], self.right[rows], self.mirrored[rows])

    def apply(self, images: Tensor) -> Tensor:
        """Move images (n, c, h, w). What moves in from outside is zero: the mean of normalised images."""
        _, _, height, width = images.shape
        device = images.device
        if self.shift:
            rows = self.down[:, None] + torch.arange(height, device=device)
            columns = self.right[:, None] + torch.arange(width, device=device)
            padded = functional.pad(images, (self.shift,) * 4).permute(0, 2, 3, 1)
            picture = torch.arange(len(images), device=device)[:, None, None]
            images = padded[picture, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        return torch.where(self.mirrored[:, None, None, None], images.flip(-1), images)
