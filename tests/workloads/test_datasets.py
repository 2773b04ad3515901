import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sim.kinds import about
from workloads.datasets.base import Data, Dataset, seeded_split
from workloads.datasets.digits import FILE, Digits


def test_importing_and_loading_digits_brings_no_torch():
    program = (
        "import sys, workloads.arrivals, workloads.sampling, workloads.datasets; "
        "from workloads.datasets.digits import Digits; Digits().load(None); "
        "sys.exit(bool({'torch', 'torchvision', 'pandas', 'scipy.stats'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, cwd=Path(__file__).parents[2]).returncode == 0


def test_digits_are_real_balanced_and_all_there():
    data = Digits().load(None)
    assert data.shape == (1, 8, 8)
    assert (len(data.x_train), len(data.x_test), data.classes, data.note) == (1297, 500, 10, "")
    assert (data.task, data.outputs) == ("classification", 10)
    assert data.x_train.dtype == data.x_test.dtype == np.uint8
    assert data.y_train.dtype == data.y_test.dtype == np.int64
    assert data.x_train.max() == 16
    assert set(np.bincount(data.y_test)) <= {48, 49, 50, 51}
    assert np.bincount(data.y_train).min() > 120
    with np.load(FILE) as stored:
        rows = {image.tobytes() + bytes([label]) for image, label in zip(*stored.values(), strict=True)}
    loaded = zip(np.concatenate([data.x_train, data.x_test]), [*data.y_train, *data.y_test], strict=True)
    assert {image.tobytes() + bytes([label]) for image, label in loaded} == rows


def test_digits_labels_belong_to_their_images():
    """Nearest class mean, fitted on the training part: far above chance only where images, labels and split agree."""
    data = Digits().load(None)
    train, test = data.normalised(data.x_train).reshape(1297, -1), data.normalised(data.x_test).reshape(500, -1)
    means = np.stack([train[data.y_train == label].mean(axis=0) for label in range(10)])
    nearest = ((test[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert np.mean(nearest == data.y_test) > 0.85


def test_the_same_digits_every_time():
    assert Digits().load(None).fingerprint == Digits().load(Path("elsewhere")).fingerprint
    assert Digits().load(None).fingerprint.startswith("71be2f57")


def example(rng, channels=3, dtype=np.uint8, n=300):
    x = (
        rng.integers(0, 200, (n + 40, channels, 5, 4)).astype(dtype)
        * np.arange(1, channels + 1, dtype=dtype)[:, None, None]
    )
    y = rng.integers(0, 4, n + 40)
    return Data("example", x[:n], y[:n], x[n:], y[n:], 4)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_normalised_training_images_have_mean_0_and_deviation_1_per_channel(dtype):
    data = example(np.random.default_rng(0), dtype=dtype, n=5000)  # more than one chunk
    x = data.normalised(data.x_train)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x.mean(axis=(0, 2, 3), dtype=float), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(axis=(0, 2, 3), dtype=float), 1, rtol=1e-5)
    np.testing.assert_allclose(data.mean, data.x_train.mean(axis=(0, 2, 3), dtype=float), rtol=1e-6)
    test = (data.x_test - data.mean[:, None, None]) / data.std[:, None, None]
    np.testing.assert_allclose(data.normalised(data.x_test), test, rtol=1e-5, atol=1e-6)


def test_a_constant_channel_is_normalised_to_zero():
    x = np.full((6, 1, 2, 2), 7, dtype=np.uint8)
    data = Data("flat", x, np.arange(6) % 2, x, np.arange(6) % 2, 2)
    assert (data.normalised(x) == 0).all()


def boxed_variants(data):
    """The same images with boxes, and with boxes that differ in less than a pixel."""
    boxes, test_boxes = np.full((300, 4), 0.25, np.float32), np.full((40, 4), 0.25, np.float32)
    moved = boxes.copy()
    moved[7, 3] += 0.001
    return [
        Data("n", data.x_train, y, data.x_test, test_boxes, 4, task="localisation")
        for y in (boxes, moved, np.zeros_like(boxes))
    ]


def test_the_fingerprint_sees_pixels_labels_types_and_classes():
    data = example(np.random.default_rng(0))
    x, y = data.x_train, data.y_train
    changed_x, changed_y = x.copy(), y.copy()
    changed_x[7, 0, 0, 0] += 1
    changed_y[7] = (y[7] + 1) % 4
    variants = [
        data,
        Data("n", changed_x, y, data.x_test, data.y_test, 4),
        Data("n", x, changed_y, data.x_test, data.y_test, 4),
        Data("n", x.astype(np.float32), y, data.x_test, data.y_test, 4),
        Data("n", x, y, data.x_test[:-1], data.y_test[:-1], 4),
        Data("n", x, y, data.x_test, data.y_test, 5),
        *boxed_variants(data),
    ]
    assert len({variant.fingerprint for variant in variants}) == len(variants)
    assert Data("other", x, y, data.x_test, data.y_test, 4, "note").fingerprint == data.fingerprint


def test_the_same_rows_in_another_order_are_the_same_data():
    data = example(np.random.default_rng(0))
    moved, tested = np.random.default_rng(1).permutation(300), np.arange(len(data.x_test))[::-1]
    other = Data("n", data.x_train[moved], data.y_train[moved], data.x_test[tested], data.y_test[tested], data.classes)
    assert other.fingerprint == data.fingerprint
    np.testing.assert_array_equal(other.x_train[other.order], data.x_train[data.order])
    np.testing.assert_array_equal(other.y_train[other.order], data.y_train[data.order])
    assert sorted(data.order) == list(range(300))
    swapped = data.y_train.copy()
    one, two = (int(np.flatnonzero(swapped == label)[0]) for label in (0, 1))
    swapped[[one, two]] = swapped[[two, one]]
    assert Data("n", data.x_train, swapped, data.x_test, data.y_test, 4).fingerprint != data.fingerprint


@given(st.lists(st.integers(0, 5), min_size=2, max_size=80), st.data())
@settings(max_examples=100, deadline=None)
def test_a_seeded_split_is_a_stratified_partition(labels, drawn):
    labels = np.array(labels)
    test_rows = drawn.draw(st.integers(1, len(labels) - 1))
    train, test = seeded_split(labels, test_rows)
    assert len(test) == test_rows
    assert sorted([*train, *test]) == list(range(len(labels)))
    exact = np.bincount(labels, minlength=6) * test_rows / len(labels)
    assert (np.abs(np.bincount(labels[test], minlength=6) - exact) < 1).all()


def test_a_bare_name_is_enough():
    assert Dataset.model_validate("digits") == Digits()
    assert Digits(note="only for trying out").load(None).note == "only for trying out"
    with pytest.raises(ValidationError, match="did you mean 'cifar10'"):
        Dataset.model_validate("cifar-10")


def test_every_data_set_is_described_for_the_list():
    members = Dataset.members()
    assert set(members) == {
        *("cifar10", "cifar100", "digits", "fashion_mnist", "image_folder", "mnist", "npz"),
        *("speech_commands", "cub200", "canvas", "sentences"),
    }
    for member in members.values():
        assert member.__doc__
        assert all(about(member, name) for name in member.model_fields if name != "kind")
