import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sim.errors import ParmError
from workloads.datasets.npz import Npz

RNG = np.random.default_rng(0)


def sound(shape=(6, 5), train=20, test=8):
    arrays = {}
    for split, n in (("train", train), ("test", test)):
        arrays[f"x_{split}"] = RNG.integers(0, 256, (n, *shape)).astype(np.uint8)
        arrays[f"y_{split}"] = np.arange(n) % 4
    return arrays


def load(folder, arrays, **options):
    np.savez(folder / "mine.npz", **arrays)
    return Npz.model_validate({"file": "mine.npz", **options}, context={"paths": [folder]}).load(None)


@pytest.mark.parametrize(
    ("stored", "options", "shape"),
    [
        ((64,), {}, (1, 1, 64)),
        ((6, 5), {}, (1, 6, 5)),
        ((6, 5, 3), {}, (3, 6, 5)),
        ((6, 5, 1), {}, (1, 6, 5)),
        ((3, 6, 5), {}, (3, 6, 5)),
        ((3, 6, 4), {"layout": "channels_first"}, (3, 6, 4)),
        ((3, 6, 4), {"layout": "channels_last"}, (4, 3, 6)),
        ((6, 5, 12), {"layout": "channels_last"}, (12, 6, 5)),
    ],
)
def test_layouts(tmp_path, stored, options, shape):
    arrays = sound(stored)
    data = load(tmp_path, arrays, **options)
    assert (data.name, data.classes, data.shape) == ("mine", 4, shape)
    assert data.x_train.dtype == np.uint8
    moved = arrays["x_test"]
    if moved.ndim == 4 and moved.shape[1:] != shape:
        moved = moved.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(data.x_test, moved.reshape(8, *shape))
    np.testing.assert_array_equal(data.y_train, arrays["y_train"])


def test_other_types_of_pixels_and_labels(tmp_path):
    arrays = sound()
    columns = {key: y.astype(np.uint8)[:, None] for key, y in arrays.items() if key.startswith("y")}
    wide = {key: x.astype(np.int64) for key, x in arrays.items() if key.startswith("x")}
    data = load(tmp_path, columns | wide)
    assert data.x_train.dtype == np.uint8
    assert data.y_train.shape == (20,)
    real = load(tmp_path, arrays | {key: x / 255 for key, x in wide.items()})
    assert real.x_train.dtype == np.float32
    np.testing.assert_allclose(real.x_train[:, 0] * 255, arrays["x_train"], rtol=1e-6)
    signed = load(tmp_path, arrays | {key: x - 128 for key, x in wide.items()})
    assert signed.x_train.dtype == np.float32
    whole = load(tmp_path, arrays | {"y_test": arrays["y_test"].astype(float)})
    assert whole.y_test.dtype == np.int64


@pytest.mark.parametrize(
    "scaled", [lambda x: x * 255, lambda x: 2 * x - 1, lambda x: (x - 0.5) / 0.3, lambda x: x - 0.5]
)
def test_a_test_set_on_another_scale_is_told(tmp_path, scaled):
    fractions = {key: x / 255 if key.startswith("x") else x for key, x in sound(train=200, test=80).items()}
    assert load(tmp_path, fractions).note == ""
    assert load(tmp_path, fractions | {key: scaled(fractions[key]) for key in ("x_train", "x_test")}).note == ""
    for key in ("x_train", "x_test"):
        note = load(tmp_path, fractions | {key: scaled(fractions[key])}, note="mine").note
        assert note.startswith("mine; training and test images look scaled differently: pixels have mean ")


@pytest.mark.parametrize("low", [0, 100])
def test_wide_whole_numbers_in_one_split_only_are_still_one_type(tmp_path, low):
    arrays = sound()
    arrays["x_train"] = arrays["x_train"].astype(np.int64) * 4
    arrays["x_test"] = (arrays["x_test"] % 50 + low).astype(np.int64)
    data = load(tmp_path, arrays)
    assert data.x_train.dtype == data.x_test.dtype == np.float32
    np.testing.assert_array_equal(data.x_test[:, 0], arrays["x_test"])


def test_a_note_in_the_file_and_in_the_yaml_are_both_kept_once(tmp_path):
    arrays = sound() | {"note": np.array("JPEG copy")}
    assert load(tmp_path, arrays).note == "JPEG copy"
    assert load(tmp_path, arrays, note="mine").note == "mine; JPEG copy"
    assert load(tmp_path, arrays, note="JPEG copy").note == "JPEG copy"


def changed(**arrays):
    return lambda: sound() | {key: value for key, value in arrays.items() if value is not None}


def without(*names):
    return lambda: {key: value for key, value in sound().items() if key not in names}


NAN = np.zeros((20, 6, 5))
NAN[3, 1, 1] = np.nan


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (without("x_test", "y_test"), "lacks the arrays x_test, y_test; it has x_train, y_train"),
        (without("x_train", "y_train", "x_test", "y_test"), "it has nothing"),
        (changed(x_train=np.array([object()] * 20)), "array of Python objects"),
        (changed(x_train=np.array(["cat"] * 20)), "x_train in .* holds <U3, not numbers"),
        (changed(x_train=np.zeros(20)), r"x_train in .* has shape \(20,\); images are"),
        (changed(x_test=np.zeros((0, 6, 5))), r"x_test in .* has shape \(0, 6, 5\)"),
        (changed(x_train=np.zeros((20, 2, 6, 3))), "say where its channels are by layout"),
        (changed(x_train=np.zeros((20, 7, 6, 9))), "say where its channels are by layout"),
        (changed(x_train=np.zeros((19, 6, 5))), "x_train in .* has 19 images, but y_train has 20 labels"),
        (changed(y_test=np.zeros(9, int)), "x_test in .* has 8 images, but y_test has 9 labels"),
        (changed(x_test=np.zeros((8, 6, 6))), r"differ in shape \(c, h, w\): \(1, 6, 5\) and \(1, 6, 6\)"),
        (changed(x_train=NAN), "image 3 of x_train in .* has a pixel that is NaN"),
        (changed(x_train=NAN * 0 + np.inf), "image 0 of x_train in .* NaN or infinite"),
        (changed(x_train=np.full((20, 6, 5), 1e300)), "image 0 of x_train in .* NaN or infinite"),
        (changed(x_test=np.zeros((8, 6, 5))), "one of x_train and x_test in .* whole numbers and the other fractions"),
        (changed(y_train=np.arange(20) - 1), "y_train in .* holds the negative label -1"),
        (changed(y_train=np.arange(20) / 2), "y_train in .* holds labels that are not whole numbers"),
        (changed(y_train=np.full(20, np.nan)), "labels that are not whole numbers"),
        (changed(y_test=np.array(["a"] * 8)), "labels that are not whole numbers"),
        (changed(y_train=np.eye(20)), r"y_train in .* has shape \(20, 20\); labels are"),
        (changed(y_train=np.arange(20) * 1000), "go up to 19000"),
        (changed(y_train=np.zeros(20, int), y_test=np.zeros(8, int)), "go up to 0"),
    ],
)
def test_unsound_files_are_refused_in_one_sentence(tmp_path, make, sentence):
    with pytest.raises(ParmError, match=sentence) as caught:
        load(tmp_path, make())
    assert "mine.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_refused_when_the_yaml_is_read(tmp_path):
    with pytest.raises(ValidationError, match=rf"no file 'absent\.npz' in {tmp_path}"):
        Npz.model_validate({"file": "absent.npz"}, context={"paths": [tmp_path]})


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "mine.npz").write_text("x,y\n1,2\n")
    dataset = Npz(file=tmp_path / "mine.npz")
    with pytest.raises(ParmError, match=r"not a \.npz file"):
        dataset.load(None)
    (tmp_path / "mine.npz").unlink()
    with pytest.raises(ParmError, match="there is no file"):
        dataset.load(None)


ARRAYS = sound((3, 2))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_file_never_does_more_than_raise_parm_error(tmp_path_factory, data):
    file = tmp_path_factory.mktemp("damaged") / "mine.npz"
    np.savez(file, **ARRAYS)
    blob = bytearray(file.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(blob) - 1), min_size=1, max_size=4)):
        blob[place] ^= data.draw(st.integers(1, 255))
    file.write_bytes(blob[: data.draw(st.one_of(st.just(len(blob)), st.integers(1, len(blob))))])
    try:
        assert Npz(file=file).load(None).classes >= 2
    except ParmError as error:
        assert str(file) in str(error)
