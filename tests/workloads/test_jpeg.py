import io

import numpy as np
import pytest
from PIL import Image

from workloads.datasets.jpeg import is_jpeg_copy
from workloads.datasets.public import Cifar10


def photographs(n=60, side=32, roughness=1.0):
    """Pictures with the spectrum of natural ones, amplitude 1/f, plus a sensor's noise; shape (n, side, side, 3)."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    frequency[0, 0] = 1 / side
    spectrum = np.fft.fft2(rng.normal(size=(n, 3, side, side))) / frequency
    pictures = np.fft.ifft2(spectrum).real
    pictures = 128 + 45 * pictures / pictures.std() + roughness * rng.normal(size=pictures.shape)
    return pictures.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def compressed(pictures, quality):
    copies = []
    for picture in pictures:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=quality)
        copies.append(np.asarray(Image.open(file)))
    return np.stack(copies)


def channels_first(pictures):
    return pictures.transpose(0, 3, 1, 2)


@pytest.mark.parametrize("roughness", [0.0, 1.0, 8.0])
def test_originals_are_not_taken_for_copies(roughness):
    assert not is_jpeg_copy(channels_first(photographs(roughness=roughness)))


@pytest.mark.parametrize("quality", [30, 75, 90])
def test_copies_are_told(quality):
    assert is_jpeg_copy(channels_first(compressed(photographs(), quality)))


def test_cutting_a_copy_off_its_grid_hides_it():
    """The grid is what is looked for, not smoothness."""
    larger = compressed(photographs(side=40), 75)
    assert not is_jpeg_copy(channels_first(larger[:, 4:36, 4:36]))


@pytest.mark.parametrize("images", [np.zeros((5, 1, 28, 28), np.uint8), np.zeros((5, 3, 8, 8), np.uint8)])
def test_pictures_that_cannot_tell_are_not_taken_for_copies(images):
    assert not is_jpeg_copy(images)


def test_blank_pictures_are_not_taken_for_copies():
    assert not is_jpeg_copy(np.zeros((5, 3, 32, 32), np.uint8))


def test_a_jpeg_copy_of_cifar_10_carries_its_caveat(tmp_path):
    original, labels = photographs(), np.arange(60) % 10
    for pictures, note in ((compressed(original, 75), "JPEG copy of CIFAR-10 (lossy)"), (original, "")):
        np.savez(tmp_path / "cifar10.npz", x_train=pictures, y_train=labels, x_test=pictures, y_test=labels)
        assert Cifar10().load(tmp_path).note == note
