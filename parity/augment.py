"""Augmentation of training images, on whatever device they live."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional


def augment(images: Tensor, shift: int, flip: bool, generator: Generator) -> Tensor:
    """Move each image (n, c, h, w) by up to `shift` pixels both ways and mirror every other one, at random.

    What moves in from outside is zero: the mean of normalised images.
    """
    n, _, height, width = images.shape
    device = images.device
    if shift:
        rows, columns = (
            torch.randint(2 * shift + 1, (n, 1), generator=generator, device=device) + torch.arange(side, device=device)
            for side in (height, width)
        )
        padded = functional.pad(images, (shift, shift, shift, shift)).permute(0, 2, 3, 1)
        picture = torch.arange(n, device=device)[:, None, None]
        images = padded[picture, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if flip:
        mirrored = torch.rand(n, 1, 1, 1, generator=generator, device=device) < 0.5
        images = torch.where(mirrored, images.flip(-1), images)
    return images
