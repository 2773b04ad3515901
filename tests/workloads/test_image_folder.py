import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from sim.errors import ParmError
from workloads.datasets.image_folder import ImageFolder


def colour_of(label, number):
    return (40 * label + 10, number, 200)


def write(folder, classes=("ant", "bee", "cat"), each=10, size=(6, 4)):
    """Write `each` one-coloured PNG files per class; size is (width, height)."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            Image.new("RGB", size, colour_of(label, number)).save(folder / name / f"{number}.png")


def load(path, **options):
    return ImageFolder.model_validate({"path": path.name, **options}, context={"paths": [path.parent]}).load(None)


def assert_labels_belong(images, labels):
    assert [tuple(image[:, 0, 0]) for image in images] == [
        colour_of(label, image[1, 0, 0]) for label, image in zip(labels, images, strict=True)
    ]


def test_one_level_is_split_by_class(tmp_path):
    write(tmp_path / "zoo")
    (tmp_path / "zoo" / "ant" / "notes.txt").write_text("not an image")
    (tmp_path / "zoo" / ".cache").mkdir()
    data = load(tmp_path / "zoo", test_fraction=0.3)
    assert (data.name, data.shape, data.classes) == ("zoo", (3, 4, 6), 3)
    assert np.bincount(data.y_test).tolist() == [3, 3, 3]
    assert np.bincount(data.y_train).tolist() == [7, 7, 7]
    assert_labels_belong(data.x_train, data.y_train)
    assert_labels_belong(data.x_test, data.y_test)
    rows = {image.tobytes() for image in (*data.x_train, *data.x_test)}
    assert len(rows) == 30
    assert data.fingerprint == load(tmp_path / "zoo", test_fraction=0.3).fingerprint


def test_train_and_test_folders_are_kept_apart(tmp_path):
    write(tmp_path / "zoo" / "train", each=8)
    write(tmp_path / "zoo" / "test", classes=("ant", "bee"), each=3)
    data = load(tmp_path / "zoo")
    assert (len(data.x_train), len(data.x_test), data.classes) == (24, 6, 3)
    assert np.bincount(data.y_test).tolist() == [3, 3]
    assert_labels_belong(data.x_train, data.y_train)
    assert_labels_belong(data.x_test, data.y_test)
    assert (np.diff(data.y_train) < 0).any(), "queries in order would meet one class after the other"


def test_images_are_resized_and_turned_grey(tmp_path):
    write(tmp_path / "zoo", classes=("ant", "bee"))
    Image.new("L", (50, 70), 77).save(tmp_path / "zoo" / "ant" / "odd.png")
    data = load(tmp_path / "zoo", size=[7, 9], grey=True)
    assert data.shape == (1, 7, 9)
    assert (np.concatenate([data.x_train, data.x_test]) == 77).all(axis=(1, 2, 3)).sum() == 1


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
@pytest.mark.parametrize("options", [{"grey": True}, {}, {"grey": True, "size": [3, 5]}])
def test_grey_levels_of_16_bits_are_those_of_8_bits(tmp_path, suffix, options):
    generator = np.random.default_rng(0)
    for number in range(10):
        levels = generator.integers(0, 256, (6, 4)).astype(np.uint8)
        for name, image in (("eight", levels), ("sixteen", levels.astype(np.uint16) * 257)):
            folder = tmp_path / name / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number}.{suffix}")
    eight, sixteen = load(tmp_path / "eight", **options), load(tmp_path / "sixteen", **options)
    assert (eight.x_train.dtype, sixteen.x_train.dtype) == (np.uint8, np.float32)
    assert eight.shape == sixteen.shape
    for ours, theirs in ((eight.x_train, sixteen.x_train), (eight.x_test, sixteen.x_test)):
        np.testing.assert_allclose(ours, theirs, atol=1.01 if "size" in options else 0)
    assert not sixteen.note
    Image.fromarray(levels).save(tmp_path / "sixteen" / "a" / "0.png")  # the depths may be mixed
    assert load(tmp_path / "sixteen", **options).x_train.max() <= 255


def test_16_bits_keep_what_8_bits_would_lose(tmp_path):
    for number in range(8):
        (tmp_path / "dark" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        dark = np.arange(24, dtype=np.uint16).reshape(6, 4) + 10 * number
        Image.fromarray(dark).save(tmp_path / "dark" / "ab"[number % 2] / f"{number}.png")
    data = load(tmp_path / "dark", grey=True)
    assert all(len(np.unique(image)) == 24 for image in data.x_train)


@pytest.mark.parametrize(("kind", "what"), [(np.float32, "fractions"), (np.int32, "whole numbers of 32 bits")])
def test_pixels_whose_range_nothing_says_are_refused(tmp_path, kind, what):
    write(tmp_path / "zoo")
    Image.fromarray(np.ones((4, 6), dtype=kind)).save(tmp_path / "zoo" / "bee" / "odd.tiff")
    with pytest.raises(ParmError, match=rf"odd\.tiff has {what} as pixels.*save it with 8 or 16 bits"):
        load(tmp_path / "zoo")


def test_images_of_different_sizes_need_a_size(tmp_path):
    write(tmp_path / "zoo")
    Image.new("RGB", (5, 5)).save(tmp_path / "zoo" / "bee" / "odd.png")
    with pytest.raises(ParmError, match=r"odd\.png is 5 x 5 but .*0\.png is 4 x 6; give 'size'"):
        load(tmp_path / "zoo")


def test_a_damaged_image_is_named(tmp_path):
    write(tmp_path / "zoo")
    (tmp_path / "zoo" / "bee" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing more")
    with pytest.raises(ParmError, match=r"broken\.jpg cannot be read as an image"):
        load(tmp_path / "zoo")


def test_a_class_folder_without_images_is_refused(tmp_path):
    write(tmp_path / "zoo")
    (tmp_path / "zoo" / "dog").mkdir()
    with pytest.raises(ParmError, match=r"dog has no image file"):
        load(tmp_path / "zoo")


def test_one_class_is_too_few(tmp_path):
    write(tmp_path / "zoo", classes=("ant",))
    with pytest.raises(ParmError, match="has 1 folders of images; it needs one for each class"):
        load(tmp_path / "zoo")


def test_a_class_that_is_only_tested_is_refused(tmp_path):
    write(tmp_path / "zoo" / "train")
    write(tmp_path / "zoo" / "test", classes=("ant", "dog"))
    with pytest.raises(ParmError, match=r"has the class dog, which .*train lacks"):
        load(tmp_path / "zoo")


def test_too_few_images_to_split(tmp_path):
    write(tmp_path / "zoo", each=1)
    with pytest.raises(ParmError, match=r"too few images \(3\) to test 1% of them"):
        load(tmp_path / "zoo", test_fraction=0.01)


def test_options_are_checked_when_the_yaml_is_read(tmp_path):
    with pytest.raises(ValidationError, match=f"no folder '{tmp_path / 'absent'}'"):
        ImageFolder(path=tmp_path / "absent")
    (tmp_path / "zoo").mkdir()
    with pytest.raises(ValidationError, match="greater than 0"):
        load(tmp_path / "zoo", size=[0, 4])


def test_cats_and_dogs_of_every_size_from_the_data_folder(tmp_path):
    """JPEGs as they come: two folders, all sizes, one grey; the folder is below `--data`, not beside the YAML file."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(("Cat", "Dog")):
        (tmp_path / "data" / "pets" / name).mkdir(parents=True)
        for number in range(20):
            size = tuple(generator.integers(20, 90, 2).tolist())
            image = Image.new("RGB", size, colour_of(label, 100)).convert("L" if number == 7 else "RGB")
            image.save(tmp_path / "data" / "pets" / name / f"{number}.jpg", quality=95)
    (tmp_path / "data" / "pets" / "Cat" / "Thumbs.db").write_bytes(b"no picture")
    dataset = ImageFolder.model_validate({"path": "pets", "size": [24, 32]}, context={"paths": [tmp_path]})
    data = dataset.load(tmp_path / "data")
    assert (data.name, data.shape, data.classes) == ("pets", (3, 24, 32), 2)
    assert np.bincount(data.y_test).tolist() == [4, 4]
    blues = data.x_train[:, 0].astype(int).mean(axis=(1, 2))
    coloured = data.x_train[:, 2].mean(axis=(1, 2)) > 180
    assert coloured.sum() >= 28
    assert np.abs(blues - 10 - 40 * data.y_train)[coloured].max() < 4
    with pytest.raises(ParmError, match=r"no folder pets beside the YAML file, .*nowhere; .*--data"):
        dataset.load(tmp_path / "nowhere")
