"""Labelled images: the family `Dataset`, and `Data`, which one loads to.

Start reading at `base`. Importing this package makes every member known: `digits` (embedded), `npz`, `image_folder`,
and the public ones `mnist`, `fashion_mnist`, `cifar10`, `cifar100`.
"""

from workloads.datasets import digits, image_folder, npz, public

__all__ = ["digits", "image_folder", "npz", "public"]
