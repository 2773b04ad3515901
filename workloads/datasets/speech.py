"""Spoken words from folders of .wav files, as log-spectrograms."""

from __future__ import annotations

import difflib
import hashlib
import re
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from sim.errors import ParmError
from workloads.datasets.base import Data, Dataset, Labels, data_folder, fixed_order
from workloads.files import DataFolder

LISTS = ("testing_list.txt", "validation_list.txt")
"""Google's own split: files of clips that are not trained with, one WORD/FILE a line."""
RATES = (1000, 200_000)
"""Valid samples per second of a clip; others mean a damaged header."""
CHUNK = 512
"""Clips per transform, limited to save memory."""


class SpeechCommands(Dataset):
    """Spoken words, one folder of .wav each as in Google's Speech Commands, as log-spectrograms."""

    kind: Literal["speech_commands"] = "speech_commands"
    path: DataFolder = Path("speech_commands")
    """Folder with WORD/*.wav and, for the authors' split, testing_list.txt and validation_list.txt."""
    words: tuple[str, ...] | None = Field(default=None, min_length=2)
    """The words to classify, in the order of their labels; default: all, in alphabetical order."""
    seconds: float = Field(default=1.0, ge=0.05, le=60)
    """Length to which clips are cut or padded with silence, in seconds."""
    rate: int | None = Field(default=None, ge=RATES[0], le=RATES[1])
    """Samples per second to which clips are resampled; default: the first clip's rate."""
    window: float = Field(default=0.02, gt=0)
    """Length of the Hamming window, in seconds. At 16 kHz the default window and hop give images of 161 x 101."""
    hop: float = Field(default=0.01, gt=0)
    """Time from one spectrum to the next, in seconds; at most the window."""
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Fraction of test clips without a testing_list.txt; chosen by a hash of the speaker, as by Google."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hop > self.window:
            raise ValueError(f"hop ({self.hop:g} s) is above window ({self.window:g} s): sound would be skipped")
        if self.window > self.seconds:
            raise ValueError(f"window ({self.window:g} s) is longer than the clips ({self.seconds:g} s)")
        return self

    def load(self, folder: Path | None) -> Data:
        """Return spectrograms as float32, shape (n, 1, window / 2 + 1, seconds / hop + 1), each of mean 0, deviation 1.

        Clips come in a fixed random order. Those of validation_list.txt are neither trained with nor tested: a recipe
        holds out a part of what is trained with itself. Raises as `Dataset.load`.
        """
        path = data_folder(self.path, folder)
        words = self._words(path)
        files, labels = _clips(path, words)
        tested, skipped = self._split(path, files)
        order = fixed_order(len(files))
        train, test = order[~(tested | skipped)[order]], order[tested[order]]
        if not len(train) or not len(test):
            raise ParmError(f"the split of {path} leaves no clip to {'test' if len(train) else 'train with'}")
        images = self._spectrograms(files)
        return Data(path.name, images[train], labels[train], images[test], labels[test], len(words), self._noted())

    def _words(self, path: Path) -> list[str]:
        found = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and entry.name[0] not in "._")
        if len(found) < 2:
            raise ParmError(f"{path} has {len(found)} folders of clips; it needs one for each word, two or more")
        for word in self.words or ():
            if word not in found:
                near = difflib.get_close_matches(word, found, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(found)}"
                raise ParmError(f"{path} has no folder for the word '{word}'; {hint}")
        return list(dict.fromkeys(self.words or found))

    def _split(self, path: Path, files: Sequence[Path]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which clips are tested, and which are left out."""
        names = [f"{file.parent.name}/{file.name}" for file in files]
        testing, validation = (_listed(path / name) for name in LISTS)
        skipped = np.array([name in (validation or ()) for name in names])
        if testing is not None:
            return np.array([name in testing for name in names]), skipped
        return np.array([_share(file) < self.test_fraction for file in files]) & ~skipped, skipped

    def _spectrograms(self, files: Sequence[Path]) -> NDArray[np.float32]:
        """Return log(1 + 100 amplitude), shape (n, 1, frequencies, times), each image normalised by itself."""
        from scipy import signal  # late: slow to import

        rate = self.rate or _read(files[0])[0]
        window, hop = max(2, round(self.window * rate)), max(1, round(self.hop * rate))
        length = round(self.seconds * rate)
        # The window's sum, by which stft divides, puts a full tone at about 100; the 100 lets soft consonants be seen.
        scale = 100 * signal.windows.hamming(window, sym=False).sum()
        result = np.empty((len(files), 1, window // 2 + 1, (length - window % 2) // hop + 1), dtype=np.float32)
        for start in range(0, len(files), CHUNK):
            clips = np.stack([_clip(file, rate, length) for file in files[start : start + CHUNK]])
            _, _, spectra = signal.stft(
                clips, nperseg=window, noverlap=window - hop, window="hamming", boundary="even", padded=False
            )
            images = np.log1p(np.abs(spectra) * scale).astype(np.float32)
            images -= images.mean(axis=(1, 2), keepdims=True)
            deviation = images.std(axis=(1, 2), keepdims=True)
            result[start : start + CHUNK, 0] = images / np.where(deviation > 0, deviation, 1)
        return result


def _clips(path: Path, words: Sequence[str]) -> tuple[list[Path], Labels]:
    """Return all clips of the words, and their labels."""
    files: list[Path] = []
    labels: list[int] = []
    for label, word in enumerate(words):
        found = sorted(file for file in (path / word).iterdir() if file.suffix.lower() == ".wav")
        if not found:
            raise ParmError(f"{path / word} has no .wav file")
        files += found
        labels += [label] * len(found)
    return files, np.asarray(labels, dtype=np.int64)


def _listed(file: Path) -> set[str] | None:
    """Return the clips that a list names, or None where there is no list."""
    if not file.exists():
        return None
    try:
        return {line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()}
    except (OSError, UnicodeDecodeError) as error:
        raise ParmError(f"{file} cannot be read as a list of clips ({error})") from error


def _share(file: Path) -> float:
    """Return a number in [0, 1) from the speaker's name, or the clip's where no name is marked by `_nohash_`.

    Google's rule: a speaker's clips stay together, and a clip stays where it is when others are added.
    """
    speaker = re.sub(r"_nohash_.*", "", file.stem)
    return int.from_bytes(hashlib.sha256(speaker.encode()).digest()[:4], "big") / 2**32


def _read(file: Path) -> tuple[int, NDArray[np.float32]]:
    """Return a .wav file's samples per second and its sound in -1 .. 1, channels averaged, shape (n,)."""
    from scipy.io import wavfile  # late: slow to import

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks that are not sound
            warnings.filterwarnings("error", "Reached EOF prematurely", wavfile.WavFileWarning)
            rate, raw = wavfile.read(file)
        sound = _scaled(np.asarray(raw))
    except (OSError, ValueError, EOFError, ArithmeticError, struct.error, LookupError, TypeError,
            UnboundLocalError, MemoryError, wavfile.WavFileWarning) as error:  # fmt: skip
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ParmError(f"{file} cannot be read as a .wav file: {reason}") from error
    if not len(sound) or not np.isfinite(sound).all():
        raise ParmError(f"{file} cannot be read as a .wav file: it holds no sound")
    if not RATES[0] <= rate <= RATES[1]:
        raise ParmError(f"{file} has {rate} samples per second, which is no rate of sound")
    return int(rate), sound


def _scaled(raw: NDArray[Any]) -> NDArray[np.float32]:
    """Bring samples of any type (n,) or (n, channels) to floats in -1 .. 1, shape (n,)."""
    sound = raw.astype(np.float32)
    if raw.dtype == np.uint8:
        sound -= 128
        sound /= 128
    elif raw.dtype.kind == "i":
        sound /= float(2 ** (8 * raw.dtype.itemsize - 1))
    return sound if sound.ndim == 1 else sound.mean(axis=1, dtype=np.float32)


def _clip(file: Path, rate: int, length: int) -> NDArray[np.float32]:
    """Return the first `length` samples of a clip at `rate` per second, silence after its end."""
    own, sound = _read(file)
    if own != rate:
        from scipy import signal  # late: slow to import

        needed = -(-length * own // rate) + 1
        sound = signal.resample_poly(sound[:needed], rate, own).astype(np.float32)
    clip = np.zeros(length, dtype=np.float32)
    clip[: len(sound)] = sound[:length]
    return clip
