"""A data set of texts made by rule: what does a guest say of a restaurant? Words come as vectors of fixed bits."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from workloads.datasets.base import Data, Dataset, Labels

SUBJECTS = (
    ("food", "dishes", "menu", "soup"),
    ("service", "waiters", "staff", "cook"),
    ("price", "bill", "cost", "tip"),
    ("room", "terrace", "garden", "view"),
    ("music", "band", "songs", "singer"),
)
"""What is spoken of, each with words that mean it."""
OPINIONS = (
    ("bad", "poor", "awful", "unpleasant", "dull", "terrible"),
    ("good", "great", "lovely", "pleasant", "fine", "excellent"),
)
NEGATIONS = ("not", "never", "hardly")
DEGREES = ("very", "quite", "really", "rather")
OPENINGS = ("honestly", "yesterday", "again", "overall")
UNKNOWN, NOTHING = "?", ""
"""A word that was lost, and what follows the last word."""
WORDS = (
    *(word for words in (*SUBJECTS, *OPINIONS) for word in words),
    *(*NEGATIONS, *DEGREES, *OPENINGS, "the", "was", "but", "although", ",", UNKNOWN, NOTHING),
)
LENGTH = 16
"""Words of a sentence, `NOTHING` at its end included."""


class Sentences(Dataset):
    """Which part of a restaurant does the sentence judge, and how? Ten classes of sentences that a grammar makes."""

    kind: Literal["sentences"] = "sentences"
    lost: float = Field(default=0.05, ge=0, lt=1)
    """Probability that a word is lost, and stands in the sentence as an unknown one."""
    bits: int = Field(default=32, ge=8)
    """Length of a word's vector."""
    train: int = Field(default=20000, gt=0)
    """Sentences to train on."""
    test: int = Field(default=5000, gt=0)
    """Sentences to test on."""
    seed: int = Field(default=0, ge=0)
    """Draws sentences and vectors."""

    def load(self, folder: Path | None) -> Data:
        """Return sentences as uint8 (n, bits, words, 1): each word's vector at its place; `folder` is not used."""
        generator = np.random.default_rng(self.seed)
        vectors = generator.integers(0, 2, (len(WORDS), self.bits), dtype=np.uint8)
        train, train_labels = sentences(self.train, self.lost, generator)
        test, test_labels = sentences(self.test, self.lost, generator)
        x_train, x_test = (vectors[words].transpose(0, 2, 1)[..., None] for words in (train, test))
        return Data("sentences", x_train, train_labels, x_test, test_labels, 2 * len(SUBJECTS), self._noted())


def sentences(count: int, lost: float, generator: np.random.Generator) -> tuple[NDArray[np.int64], Labels]:
    """Return numbers of words in `WORDS`, (count, LENGTH), and labels 2 subject + opinion, (count,).

    Of two clauses one counts: the one after 'but', or the one without 'although'. A negation turns its clause around.
    """
    number = {word: place for place, word in enumerate(WORDS)}
    found = np.full((count, LENGTH), number[NOTHING], dtype=np.int64)
    labels = np.empty(count, dtype=np.int64)
    for row in range(count):
        (aside, _), (counts, labels[row]) = _clause(generator), _clause(generator)
        forms = ([*aside, "but", *counts], ["although", *aside, ",", *counts], [*counts, "although", *aside])
        opening = [str(generator.choice(OPENINGS))] if generator.random() < 0.5 else []
        sentence = [*opening, *forms[generator.integers(len(forms))]]
        found[row, : len(sentence)] = [number[UNKNOWN if generator.random() < lost else word] for word in sentence]
    return found, labels


def _clause(generator: np.random.Generator) -> tuple[list[str], int]:
    """Return the words of 'the room was not very good', and its label."""
    subject, opinion = int(generator.integers(len(SUBJECTS))), int(generator.integers(2))
    negated = generator.random() < 0.3
    words = ["the", str(generator.choice(SUBJECTS[subject])), "was"]
    words += [str(generator.choice(NEGATIONS))] if negated else []
    words += [str(generator.choice(DEGREES))] if generator.random() < 0.5 else []
    words.append(str(generator.choice(OPINIONS[opinion])))
    return words, 2 * subject + (1 - opinion if negated else opinion)
