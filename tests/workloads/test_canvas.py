import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sim.errors import ParmError
from workloads.datasets.base import Data, Dataset
from workloads.datasets.canvas import Canvas
from workloads.datasets.digits import Digits

SMALL = {"train": 60, "test": 20}


def edges(boxes, side):
    """Boxes as whole numbers of pixels: left, top, right, bottom."""
    pixels = boxes.astype(float) * side
    np.testing.assert_allclose(pixels, np.rint(pixels), atol=1e-4)
    return np.rint(pixels).astype(int)


@given(
    st.integers(8, 60),
    st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)).map(sorted),
    st.integers(0, 5),
)
@settings(max_examples=25)
def test_a_box_encloses_exactly_the_lit_pixels(side, lengths, seed):
    smallest, largest = lengths
    data = Canvas(side=side, smallest=smallest, largest=largest, seed=seed, train=12, test=4).load(None)
    assert (data.shape, data.outputs, data.task) == ((1, side, side), 4, "localisation")
    assert data.y_train.dtype == data.y_test.dtype == np.float32
    for images, boxes in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        for (image,), (left, top, right, bottom) in zip(images, edges(boxes, side), strict=True):
            inside = image[top:bottom, left:right]
            assert inside.astype(int).sum() == image.astype(int).sum() > 0
            assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
            assert max(bottom - top, right - left) <= max(1, round(side * largest))


def test_places_and_scales_fill_their_ranges():
    data = Canvas(train=1500, test=20).load(None)
    left, top, right, bottom = edges(data.y_train, 32).T
    assert (left.min(), top.min(), right.max(), bottom.max()) == (0, 0, 32, 32)
    heights = bottom - top  # digits fill their 8 rows, and are narrower
    assert (heights.min(), heights.max()) == (8, 24)
    assert 13 <= heights.mean() <= 17
    for start, end in ((left, right), (top, bottom)):
        assert abs((start + end).mean() / 2 - 16) < 0.7


def test_the_digits_are_real_ones_and_the_parts_stay_apart():
    """At the digits' own size a crop of the canvas is one of them, brighter, of the same part; none is used twice."""
    digits = Digits().load(None)
    data = Canvas(side=32, smallest=0.25, largest=0.25, train=1297, test=500).load(None)
    assert data.name == "digits-on-canvas"
    for canvases, images in ((data.x_train, digits.x_train), (data.x_test, digits.x_test)):
        scaled = np.rint(images.astype(float) * 255 / 16).astype(np.uint8)
        known = sorted(tight(image) for (image,) in scaled)
        assert sorted(tight(canvas) for (canvas,) in canvases) == known


def tight(image):
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    crop = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return crop.shape, crop.tobytes()


def test_noise_lies_everywhere_and_moves_no_box():
    plain, noisy = Canvas(**SMALL).load(None), Canvas(noise=0.1, **SMALL).load(None)
    np.testing.assert_array_equal(plain.y_train, noisy.y_train)
    dark = plain.x_train == 0
    lifted = noisy.x_train[dark]  # half of a normal distribution of deviation 25.5; the other half is cut off at 0
    assert np.mean(lifted == 0) == pytest.approx(0.5, abs=0.02)
    assert lifted[lifted > 0].mean() == pytest.approx(25.5 * (2 / np.pi) ** 0.5, rel=0.05)
    assert noisy.fingerprint != plain.fingerprint


def test_the_seed_decides():
    first, again, other = (Canvas(seed=seed, **SMALL).load(None) for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_other_data_sets_on_a_canvas(tmp_path):
    """Colour, fractions, oblong images: kept in their proportions; the caveats come along."""
    images = np.zeros((6, 3, 10, 5), np.float32)
    images[:, 1] = 0.5
    images[:, 0, 0, 0] = 1
    np.savez(tmp_path / "mine.npz", x_train=images, y_train=np.arange(6) % 2, x_test=images, y_test=np.arange(6) % 2)
    options = {"of": {"kind": "npz", "file": "mine.npz", "note": "made up"}, "side": 40, "note": "mine"}
    options |= {"smallest": 0.5, "largest": 0.5, **SMALL}
    dataset = Dataset.model_validate({"kind": "canvas", **options}, context={"paths": [tmp_path]})
    data = dataset.load(None)
    assert (data.shape, data.note) == ((3, 40, 40), "mine; made up")
    left, top, right, bottom = edges(data.y_train, 40).T
    assert set(right - left) == {10}
    assert set(bottom - top) == {20}
    assert data.x_train[:, 1].max() == 128


def test_canvases_are_named_in_yaml_by_what_is_on_them():
    assert Dataset.model_validate("canvas") == Canvas()
    assert Canvas.model_validate({"of": "mnist"}).of.name_in_yaml() == "mnist"
    with pytest.raises(ValidationError, match=r"smallest \(0\.8\) is above largest \(0\.75\)"):
        Canvas(smallest=0.8)


def test_what_cannot_be_boxed_is_refused(tmp_path):
    with pytest.raises(ParmError, match="a canvas shows classified images, and digits-on-canvas has boxes"):
        Canvas(of=Canvas(**SMALL)).load(None)

    def on_canvas(images):
        labels = np.arange(len(images)) % 2
        np.savez(tmp_path / "mine.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
        options = {"of": {"kind": "npz", "file": "mine.npz"}, **SMALL}
        return Canvas.model_validate(options, context={"paths": [tmp_path]}).load(None)

    with pytest.raises(ParmError, match="the images of mine show nothing"):
        on_canvas(np.full((6, 4, 4), 9, np.uint8))
    blank = np.full((6, 4, 4), 9, np.uint8)
    blank[2] = 0
    with pytest.raises(ParmError, match=r"image 2 of mine, resized to .*, has no lit pixel"):
        on_canvas(blank)


def test_data_of_boxes_says_how_many_numbers_a_model_returns():
    boxes = np.zeros((2, 4), np.float32)
    x = np.zeros((2, 1, 3, 3), np.uint8)
    assert Data("n", x, boxes, x, boxes, 4, task="localisation").outputs == 4
