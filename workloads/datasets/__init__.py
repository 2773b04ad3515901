"""Labelled images: the family `Dataset`, and `Data`, which one loads to.

Start reading at `base`. Importing this package makes every member known: `digits` (embedded), `npz`, `image_folder`,
the public ones `mnist`, `fashion_mnist`, `cifar10`, `cifar100`, spoken words (`speech_commands`), texts made by rule
(`sentences`), and for localisation `cub200` and `canvas`.
"""

from workloads.datasets import canvas, cub200, digits, image_folder, npz, public, sentences, speech

__all__ = ["canvas", "cub200", "digits", "image_folder", "npz", "public", "sentences", "speech"]
