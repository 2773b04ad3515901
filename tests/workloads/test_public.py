import gzip
import socket
import struct
import urllib.request
from urllib.error import URLError

import numpy as np
import pytest

from sim.errors import ParmError
from workloads.datasets.public import Cifar10, Cifar100, FashionMnist, Mnist

RNG = np.random.default_rng(0)
GREY = {"x_train": RNG.integers(0, 256, (40, 28, 28)).astype(np.uint8), "y_train": np.arange(40) % 10}
GREY |= {"x_test": RNG.integers(0, 256, (20, 28, 28)).astype(np.uint8), "y_test": np.arange(20) % 10}
COLOUR = {"x_train": RNG.integers(0, 256, (40, 32, 32, 3)).astype(np.uint8), "y_train": np.arange(40) % 10}
COLOUR |= {"x_test": RNG.integers(0, 256, (20, 32, 32, 3)).astype(np.uint8), "y_test": np.arange(20) % 10}


@pytest.fixture
def no_network(monkeypatch):
    """Refuse every connection and tell the patience that each was opened with."""
    patience = []

    def refuse(*args, **kwargs):
        patience.append(socket.getdefaulttimeout())
        raise URLError("no network here\nat all")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return patience


def write_idx(folder, zipped):
    """Write the four files of MNIST's own format."""
    folder.mkdir(parents=True)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        for array, name in ((GREY[f"x_{split}"], "images-idx3-ubyte"), (GREY[f"y_{split}"], "labels-idx1-ubyte")):
            blob = (
                struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
            )
            file = folder / f"{prefix}-{name}{'.gz' if zipped else ''}"
            file.write_bytes(gzip.compress(blob) if zipped else blob)


def assert_is_grey(data, name):
    assert (data.name, data.shape, data.classes, data.note) == (name, (1, 28, 28), 10, "")
    for split in ("train", "test"):
        np.testing.assert_array_equal(getattr(data, f"x_{split}")[:, 0], GREY[f"x_{split}"])
        np.testing.assert_array_equal(getattr(data, f"y_{split}"), GREY[f"y_{split}"])
    assert data.y_train.dtype == np.int64


@pytest.mark.parametrize(
    ("dataset", "file"),
    [
        (Mnist(), "mnist.npz"),
        (FashionMnist(), "fashion_mnist.npz"),
        (FashionMnist(), "fashion-mnist.npz"),
    ],
)
def test_an_npz_in_the_data_folder_is_taken_first(tmp_path, dataset, file):
    np.savez(tmp_path / file, **GREY)
    assert_is_grey(dataset.load(tmp_path), dataset.kind)


def test_without_a_folder_the_default_one_is_searched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".parm" / "data").mkdir(parents=True)
    np.savez(tmp_path / ".parm" / "data" / "cifar10.npz", **COLOUR)
    data = Cifar10(note="mine").load(None)
    assert (data.name, data.shape, data.note) == ("cifar10", (3, 32, 32), "mine")
    np.testing.assert_array_equal(data.x_test.transpose(0, 2, 3, 1), COLOUR["x_test"])


def test_torchvisions_files_are_read(tmp_path, no_network):
    write_idx(tmp_path / "MNIST" / "raw", zipped=False)
    assert_is_grey(Mnist().load(tmp_path), "mnist")
    assert no_network == []


def test_debians_fashion_mnist_is_read(tmp_path, monkeypatch):
    write_idx(tmp_path / "debian", zipped=True)
    monkeypatch.setattr(FashionMnist, "debian", tmp_path / "debian")
    assert_is_grey(FashionMnist().load(tmp_path), "fashion_mnist")
    (tmp_path / "debian" / "t10k-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(ParmError, match=r"damaged.*reinstall dataset-fashion-mnist"):
        FashionMnist().load(tmp_path)


@pytest.mark.parametrize(
    ("dataset", "places"),
    [
        (Mnist(), ["mnist.npz", "MNIST/raw"]),
        (FashionMnist(), ["fashion_mnist.npz", "fashion-mnist.npz", "FashionMNIST/raw", "dataset-fashion-mnist"]),
        (Cifar10(), ["cifar10.npz", "cifar-10-batches-py"]),
        (Cifar100(), ["cifar100.npz", "cifar-100-python"]),
    ],
)
def test_a_missing_data_set_says_where_it_was_looked_for_and_what_helps(
    tmp_path, monkeypatch, no_network, dataset, places
):
    monkeypatch.setattr(FashionMnist, "debian", tmp_path / "absent")
    with pytest.raises(ParmError) as caught:
        dataset.load(tmp_path)
    sentence = str(caught.value)
    for part in (dataset.title, *places, str(tmp_path), "no network here at all", "numpy.savez", "--data"):
        assert part in sentence
    assert "\n" not in sentence
    assert set(no_network) == {20.0}
    assert socket.getdefaulttimeout() is None


def test_damaged_torchvision_files_are_said_to_be_missing(tmp_path, no_network):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"not what it was")
    with pytest.raises(ParmError, match="CIFAR-10 is not there"):
        Cifar10().load(tmp_path)


def test_a_file_with_other_classes_is_refused(tmp_path):
    np.savez(tmp_path / "cifar100.npz", **COLOUR)
    with pytest.raises(ParmError, match=r"cifar100\.npz has 10 classes, but CIFAR-100 has 100"):
        Cifar100().load(tmp_path)


def test_cifar100_has_a_hundred_classes(tmp_path):
    many = {"x_train": np.repeat(COLOUR["x_train"], 5, axis=0), "y_train": np.arange(200)[:, None] % 100}
    many |= {"x_test": np.repeat(COLOUR["x_test"], 5, axis=0), "y_test": np.arange(100)[:, None]}
    np.savez(tmp_path / "cifar100.npz", **many)
    data = Cifar100().load(tmp_path)
    assert (data.name, data.shape, data.classes, data.outputs) == ("cifar100", (3, 32, 32), 100, 100)
    assert sorted(set(data.y_train.tolist())) == list(range(100))
    np.savez(tmp_path / "cifar100.npz", **(many | {"y_train": many["y_train"] % 20, "y_test": many["y_test"] % 20}))
    with pytest.raises(ParmError, match="has 20 classes, but CIFAR-100 has 100"):
        Cifar100().load(tmp_path)
