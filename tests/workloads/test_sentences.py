from __future__ import annotations

import numpy as np

from workloads.datasets.sentences import LENGTH, NEGATIONS, OPINIONS, SUBJECTS, UNKNOWN, WORDS, Sentences, sentences


def test_a_label_says_what_the_clause_that_counts_says() -> None:
    words, labels = sentences(300, 0.0, np.random.default_rng(1))
    for numbers, label in zip(words, labels.tolist(), strict=True):
        sentence = [WORDS[number] for number in numbers]
        text = " ".join(sentence).strip()
        if "but" in sentence:
            counts = text.split(" but ")[1]
        elif "," in sentence:
            counts = text.split(" , ")[1]
        else:
            counts = text.split(" although ")[0]
        said = counts.split()
        (subject,) = (n for n, means in enumerate(SUBJECTS) if set(means) & set(said))
        (opinion,) = (n for n, means in enumerate(OPINIONS) if set(means) & set(said))
        assert label == 2 * subject + (opinion ^ bool(set(NEGATIONS) & set(said))), text
    assert set(labels.tolist()) == set(range(10))


def test_words_are_lost_as_often_as_asked_and_come_as_their_vectors() -> None:
    data = Sentences(train=400, test=50, lost=0.2).load(None)
    assert data.x_train.shape == (400, 32, LENGTH, 1)
    assert data.x_train.dtype == np.uint8
    assert len(np.unique(data.x_train[..., 0].transpose(0, 2, 1).reshape(-1, 32), axis=0)) == len(WORDS)
    words, _ = sentences(2000, 0.2, np.random.default_rng(0))
    meant = words != WORDS.index("")
    assert abs((words == WORDS.index(UNKNOWN)).sum() / meant.sum() - 0.2) < 0.01


def test_the_seed_decides() -> None:
    first, again, other = (Sentences(train=20, test=5, seed=seed).load(None) for seed in (3, 3, 4))
    assert first.fingerprint == again.fingerprint != other.fingerprint
