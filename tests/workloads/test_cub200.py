import numpy as np
import pytest
from PIL import Image

from sim.errors import ParmError
from workloads.datasets.base import Dataset

BOXES = {1: (10, 5, 20, 30), 2: (0, 0, 60, 40), 3: (30, 20, 40, 30), 5: (1, 1, 2, 2)}
"""x, y, width, height; number 3 reaches over its image's edge."""


def write(folder):
    """Four pictures of two birds, 60 wide and 40 high; inside its box a picture is white."""
    names, boxes, trains = [], [], []
    for number, (x, y, width, height) in BOXES.items():
        name = f"00{1 + number % 2}.Bird/Bird_{number}.png"
        pixels = np.zeros((40, 60, 3), np.uint8)
        pixels[y : y + height, x : x + width] = 255
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / "images" / name)
        names.append(f"{number} {name}")
        boxes.append(f"{number} {x}.0 {y}.0 {width}.0 {height}.0")
        trains.append(f"{number} {int(number != 2)}")
    for file, lines in (("images", names), ("bounding_boxes", boxes[::-1]), ("train_test_split", trains)):
        (folder / f"{file}.txt").write_text("\n".join(lines) + "\n")


def load(folder, **options):
    return Dataset.model_validate({"kind": "cub200", **options}, context={"paths": [folder / "absent"]}).load(folder)


def test_boxes_are_fractions_of_the_pictures_own_size(tmp_path):
    write(tmp_path / "CUB_200_2011")
    data = load(tmp_path, size=80)
    assert (data.name, data.shape, data.outputs, data.task) == ("CUB_200_2011", (3, 80, 80), 4, "localisation")
    assert data.x_train.dtype == np.uint8
    np.testing.assert_allclose(
        data.y_train, [[1 / 6, 1 / 8, 1 / 2, 7 / 8], [1 / 2, 1 / 2, 1, 1], [1 / 60, 1 / 40, 1 / 20, 3 / 40]], rtol=1e-6
    )
    np.testing.assert_allclose(data.y_test, [[0, 0, 1, 1]])
    for image, (left, top, right, bottom) in zip(data.x_train[:2], data.y_train * 80, strict=False):
        inside = image[:, round(top) : round(bottom), round(left) : round(right)]
        assert inside.astype(int).sum() > 0.95 * image.astype(int).sum()
        assert inside.mean() > 230


def test_the_usual_size_is_the_default(tmp_path):
    write(tmp_path / "CUB_200_2011")
    assert load(tmp_path).shape == (3, 224, 224)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ParmError, match=f"no folder CUB_200_2011 beside .* or in {tmp_path}; .*--data"):
        load(tmp_path)


def rewrite(name, before, after):
    def change(folder):
        text = (folder / name).read_text()
        assert before in text
        (folder / name).write_text(text.replace(before, after))

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda folder: (folder / "images.txt").unlink(), r"images\.txt cannot be read .*part of the CUB-200-2011"),
        (rewrite("images.txt", "Bird_3.png", "Bird_4.png"), r"Bird_4\.png cannot be read as an image"),
        (rewrite("bounding_boxes.txt", "3 30.0 20.0 40.0 30.0\n", ""), r"bounding_boxes\.txt has no line for image 3"),
        (rewrite("bounding_boxes.txt", "30.0 20.0", "30.0"), r"line 2 of .*bounding_boxes\.txt has 4 columns, not 5"),
        (rewrite("bounding_boxes.txt", "30.0 20.0", "30.0 x"), r"bounding_boxes\.txt holds something that is no num"),
        (rewrite("bounding_boxes.txt", "30.0 20.0", "30.0 nan"), r"image 3 .*bounding_boxes\.txt .* no area"),
        (rewrite("bounding_boxes.txt", "40.0 30.0", "0.0 30.0"), r"image 3 .*bounding_boxes\.txt .* no area"),
        (rewrite("train_test_split.txt", "2 0", "2 1"), r"train_test_split\.txt leaves nothing to test"),
        (lambda folder: (folder / "images.txt").write_text(""), r"images\.txt is empty"),
    ],
)
def test_unsound_folders_are_refused_in_one_sentence(tmp_path, change, sentence):
    write(tmp_path / "CUB_200_2011")
    change(tmp_path / "CUB_200_2011")
    with pytest.raises(ParmError, match=sentence) as caught:
        load(tmp_path, size=16)
    assert "\n" not in str(caught.value)
