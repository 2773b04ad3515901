import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.io import wavfile

from sim.errors import ParmError
from workloads.datasets.base import Dataset
from workloads.datasets.speech import SpeechCommands

WORDS = ("down", "up")


def tone(hertz, rate=8000, seconds=0.5, amplitude=0.5):
    return amplitude * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


def save(file, sound, rate=8000):
    file.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(file, rate, (sound * 32767).astype(np.int16))


def write(folder, each=12, rate=8000):
    """Write `each` clips per word: pure tones, lower for the first."""
    for label, word in enumerate(WORDS):
        for number in range(each):
            save(folder / word / f"speaker{number}_nohash_0.wav", tone(500 * (1 + label) + 10 * number, rate), rate)


def load(path, **options):
    return SpeechCommands.model_validate({"path": path.name, **options}, context={"paths": [path.parent]}).load(None)


def everything(data):
    return np.concatenate([data.x_train, data.x_test]), np.concatenate([data.y_train, data.y_test])


@pytest.mark.parametrize(
    ("rate", "options", "shape"),
    [
        (16000, {}, (1, 161, 101)),  # Google's clips, in the paper's size
        (8000, {}, (1, 81, 101)),
        (8000, {"window": 0.016, "hop": 0.016}, (1, 65, 63)),
        (8000, {"rate": 4000, "seconds": 0.5}, (1, 41, 51)),
        (8000, {"rate": 1050, "window": 0.02, "hop": 0.003}, (1, 11, 350)),  # an odd window
    ],
)
def test_sizes(tmp_path, rate, options, shape):
    write(tmp_path / "words", each=6, rate=rate)
    data = load(tmp_path / "words", test_fraction=0.5, **options)
    assert (data.name, data.shape, data.classes, data.task) == ("words", shape, 2, "classification")
    assert data.x_train.dtype == np.float32
    images, _ = everything(data)
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(images.std(axis=(1, 2, 3)), 1, rtol=1e-3)


@pytest.mark.parametrize("stored", [8000, 11025, 16000, 44100])
def test_a_tone_is_where_it_should_be_whatever_the_file_rate(tmp_path, stored):
    """1200 Hz for a quarter of a second: row 24 of bands 50 Hz wide, the first quarter of the columns, then silence."""
    for word in WORDS:
        for number in range(4):
            save(tmp_path / "words" / word / f"{number}.wav", tone(1200, stored, 0.25), stored)
    images, _ = everything(load(tmp_path / "words", rate=8000, test_fraction=0.5))
    for image in images[:, 0]:
        assert image[:, 3:22].argmax(axis=0).tolist() == [24] * 19
        assert np.ptp(image[:, 28:]) < 1e-4
        assert image[24, 10] > image[:, 60].max() + 5


@pytest.mark.parametrize("form", ["uint8", "int32", "float32", "stereo", "24 bits", "a chunk that is not sound"])
def test_every_usual_form_of_wav_is_the_same_sound(tmp_path, form):
    sound, file, plain = tone(700), tmp_path / "other.wav", tmp_path / "plain.wav"
    save(plain, sound)
    if form == "24 bits":
        with wave.open(str(file), "wb") as out:
            out.setparams((1, 3, 8000, 0, "NONE", ""))
            samples = (sound * (2**23 - 1)).astype("<i4")
            out.writeframes(samples.view(np.uint8).reshape(-1, 4)[:, :3].tobytes())
    elif form == "a chunk that is not sound":
        blob = plain.read_bytes() + b"note\x04\x00\x00\x00abcd"
        file.write_bytes(blob[:4] + (len(blob) - 8).to_bytes(4, "little") + blob[8:])
    else:
        stored = {
            "uint8": np.rint(sound * 127 + 128).astype(np.uint8),
            "int32": (sound * (2**31 - 1)).astype(np.int32),
            "float32": sound.astype(np.float32),
            "stereo": np.stack([sound * 1.5, sound * 0.5], axis=1).astype(np.float32),
        }
        wavfile.write(file, 8000, stored[form])
    other, expected = SpeechCommands(path=tmp_path)._spectrograms([file, plain])
    agreement = np.corrcoef(other.ravel(), expected.ravel())[0, 1]
    assert agreement > (0.9 if form == "uint8" else 0.999)


def test_googles_lists_are_kept(tmp_path):
    write(tmp_path / "words")
    (tmp_path / "words" / "testing_list.txt").write_text(
        "up/speaker3_nohash_0.wav\ndown/speaker4_nohash_0.wav\ndown/speaker5_nohash_0.wav\n\n"
    )
    (tmp_path / "words" / "validation_list.txt").write_text("up/speaker0_nohash_0.wav\n")
    data = load(tmp_path / "words")
    assert sorted(data.y_test.tolist()) == [0, 0, 1]
    assert np.bincount(data.y_train).tolist() == [10, 10]
    wanted = SpeechCommands(path=tmp_path / "words")._spectrograms(
        [tmp_path / "words" / f"{clip}_nohash_0.wav" for clip in ("up/speaker3", "up/speaker0")]
    )
    assert (data.x_test == wanted[0]).all(axis=(1, 2, 3)).sum() == 1
    assert not (everything(data)[0] == wanted[1]).all(axis=(1, 2, 3)).any()


def test_without_lists_a_speaker_is_in_one_part_and_stays_there(tmp_path):
    """And which part it is does not depend on what other clips there are."""
    for number in range(40):
        for take, word in enumerate((*WORDS, *WORDS)):
            name = f"speaker{number}_nohash_{take}.wav"
            save(tmp_path / "words" / word / name, tone(300 + 50 * number, seconds=0.1))

    def speakers(part):
        return {image.tobytes() for image in part}

    data = load(tmp_path / "words", test_fraction=0.25)
    assert len(data.x_train) + len(data.x_test) == 160
    assert not speakers(data.x_train) & speakers(data.x_test)
    assert 4 <= len(speakers(data.x_test)) <= 18
    for number in range(1, 40, 2):
        for file in tmp_path.glob(f"words/*/speaker{number}_nohash_*.wav"):
            file.unlink()
    fewer = load(tmp_path / "words", test_fraction=0.25)
    assert speakers(fewer.x_test) < speakers(data.x_test)
    assert speakers(fewer.x_train) < speakers(data.x_train)
    assert fewer.fingerprint == load(tmp_path / "words", test_fraction=0.25).fingerprint


def test_words_are_chosen_and_what_is_no_word_is_left_out(tmp_path):
    write(tmp_path / "words", each=10)
    for number in range(10):
        save(tmp_path / "words" / "left" / f"{number}.wav", tone(2000))
    save(tmp_path / "words" / "_background_noise_" / "hum.wav", tone(50))
    (tmp_path / "words" / "up" / "readme.md").write_text("no clip")
    assert load(tmp_path / "words").classes == 3
    data = load(tmp_path / "words", words=["up", "left"])
    images, labels = everything(data)
    assert data.classes == 2
    assert len(images) == 20
    loudest = images.mean(axis=(1, 3)).argmax(axis=1) * 50
    assert (loudest[labels == 1] == 2000).all()
    assert (np.abs(loudest[labels == 0] - 1050) <= 100).all()


def test_a_folder_is_found_in_the_data_folder(tmp_path):
    write(tmp_path / "data" / "speech_commands")
    dataset = Dataset.model_validate("speech_commands", context={"paths": [tmp_path]})
    assert dataset.load(tmp_path / "data").classes == 2
    with pytest.raises(ParmError, match=r"no folder speech_commands beside .*elsewhere; .*--data"):
        dataset.load(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"hop": 0.03}, "hop .* is above window"),
        ({"window": 2}, "longer than the clips"),
        ({"words": ["up"]}, "at least 2"),
        ({"rate": 10}, "greater than or equal to 1000"),
        ({"path": "/not/there"}, "no folder '/not/there'"),
    ],
)
def test_options_are_checked_when_the_yaml_is_read(options, sentence):
    with pytest.raises(ValidationError, match=sentence):
        SpeechCommands.model_validate(options)


def spoil(folder, how):
    file = folder / "up" / "speaker3_nohash_0.wav"
    if how == "cut short":
        file.write_bytes(file.read_bytes()[:200])
    elif how == "not a wav":
        file.write_text("nothing to hear")
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "no samples":
        wavfile.write(file, 8000, np.zeros(0, np.int16))
    elif how == "a rate of 3":
        wavfile.write(file, 3, np.zeros(9, np.int16))
    elif how == "a word without clips":
        (folder / "yes").mkdir()
    elif how == "a list that is none":
        (folder / "testing_list.txt").write_bytes(b"\xff\xfe\x00")
    elif how == "a list of strangers":
        (folder / "testing_list.txt").write_text("up/nobody.wav\n")
    else:
        for clip in (folder / "up").iterdir():
            clip.unlink()
        (folder / "up").rmdir()


@pytest.mark.parametrize(
    ("how", "options", "sentence"),
    [
        ("cut short", {}, r"speaker3_nohash_0\.wav cannot be read as a \.wav file: Reached EOF prematurely"),
        ("not a wav", {}, r"speaker3_nohash_0\.wav cannot be read as a \.wav file"),
        ("empty", {}, r"speaker3_nohash_0\.wav cannot be read as a \.wav file"),
        ("no samples", {}, r"speaker3_nohash_0\.wav cannot be read .*: it holds no sound"),
        ("a rate of 3", {}, r"speaker3_nohash_0\.wav has 3 samples per second"),
        ("a word without clips", {}, r"words/yes has no \.wav file"),
        ("a list that is none", {}, r"testing_list\.txt cannot be read as a list of clips"),
        ("a list of strangers", {}, "the split of .*words leaves no clip to test"),
        ("one word", {}, "has 1 folders of clips; it needs one for each word"),
        ("a word without clips", {"words": ["up", "dwn"]}, "no folder for the word 'dwn'; did you mean 'down'"),
    ],
)
def test_unsound_folders_are_refused_in_one_sentence(tmp_path, how, options, sentence):
    write(tmp_path / "words")
    spoil(tmp_path / "words", how)
    with pytest.raises(ParmError, match=sentence) as caught:
        load(tmp_path / "words", **options)
    assert "\n" not in str(caught.value)


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_a_damaged_clip_never_does_more_than_raise_parm_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    file = folder / "up.wav"
    save(file, tone(700, seconds=0.02))
    blob = bytearray(file.read_bytes())
    for place in data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=4)):
        blob[place] ^= data.draw(st.integers(1, 255))
    file.write_bytes(blob[: data.draw(st.one_of(st.just(len(blob)), st.integers(1, len(blob))))])
    try:
        image = SpeechCommands(path=Path(folder), rate=8000)._spectrograms([file])
        assert np.isfinite(image).all()
    except ParmError as error:
        assert str(file) in str(error)
