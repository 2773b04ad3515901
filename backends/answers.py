"""Deferred answers: after a cell has been simulated, predict exactly what some client received, and nothing else.

The deployed model runs once per distinct sample, over all the cells of an experiment together; a parity model runs once
per word (see `reconstruction.py`) whose reconstruction used its row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from backends.metrics import in_top, top_answer
from backends.reconstruction import Words, reconstructed_words
from backends.torch_backend import TorchBackend
from sim.errors import ParmError
from sim.trace import Ints, Route, Trace

WORDS_PER_CHUNK = 4096
VALUES_PER_CHUNK = 2**25
"""Bounds on how many words are encoded at once, and on the numbers in their queries and parity queries (128 MiB)."""


class TensorCode(Protocol):
    """What has to be known of an erasure code to compute answers with it; `parity.codes` has the codes themselves."""

    needs_training: ClassVar[bool]
    """False where the parity answers are by definition what `targets` says; no parity model then runs."""

    def encode(self, queries: Tensor, r: int) -> Tensor:
        """Turn queries (g, k, *shape) into parity queries (g, r, *shape)."""

    def targets(self, outputs: Tensor, r: int) -> Tensor:
        """Say what ideal parity models answer where the deployed model answers `outputs`; (g, k, c) -> (g, r, c)."""

    def decode(self, outputs: Tensor, parities: Tensor, returned: Tensor) -> Tensor:
        """Fill in the outputs (g, k, c) that the bit mask `returned` (g,) lacks, using parities (g, r, c)."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What the clients of one cell received: one row per query, and what that took."""

    answer: NDArray[np.int16]
    """The class that was answered, shape (queries,)."""
    correct: NDArray[np.bool_]
    """Whether it is the true label."""
    agrees: NDArray[np.bool_]
    """Whether it is what the deployed model itself answers for that sample."""
    top5: NDArray[np.bool_]
    """Whether the true label is among the five likeliest classes; a default answer names only one class."""
    passes: dict[str, int]
    """Forward passes made for this cell, in samples, by role: `deployed`, `parity`, `backup`."""
    reused: dict[str, int]
    """Answers that needed no pass of their own: known from an earlier cell, or shared by several losses of one word."""


@dataclass(slots=True)
class _Memo:
    """A model's outputs, per sample of the test set, as far as they have been needed."""

    module: nn.Module
    name: str
    answer: NDArray[np.int16]
    top5: NDArray[np.bool_]
    known: NDArray[np.bool_]
    outputs: Tensor = field(default_factory=lambda: torch.empty(0, 0))


class Predictor:
    """Computes answers for every cell of an experiment, remembering the models' outputs from cell to cell.

    The modules must not change between calls. `images` are the test set's normalised samples, float32 (n, *shape), and
    `labels` their classes, int64 (n,); `default_answer` is the class that stands for a prediction that never came, by
    custom the most frequent one of the training set.
    """

    def __init__(
        self,
        backend: TorchBackend,
        deployed: nn.Module,
        images: Tensor,
        labels: NDArray[np.int64],
        *,
        default_answer: int,
    ) -> None:
        if len(images) != len(labels):
            raise ValueError(f"there are {len(images)} images but {len(labels)} labels")
        self.backend = backend
        self.deployed = deployed
        self.images = backend.place(images)
        self.labels = labels
        self.default_answer = default_answer
        self._memos: dict[nn.Module, _Memo] = {}

    def answer(
        self,
        trace: Trace,
        samples: Ints,
        code: TensorCode | None = None,
        parities: Sequence[nn.Module] = (),
        backup: nn.Module | None = None,
    ) -> Answers:
        """Predict what each client of `trace` received, where query q carried test sample `samples[q]`.

        `parities` holds one module per parity row, `backup` the approximate backup; each may be left out where the
        trace has no reply by that route. Raises ValueError where one is missing, ParmError where a model answers NaN.
        """
        route = trace.queries.route
        if len(samples) != len(route):
            raise ValueError(f"the trace has {len(route)} queries, but {len(samples)} samples were given")
        passes, reused = {"deployed": 0, "parity": 0, "backup": 0}, {"deployed": 0, "parity": 0, "backup": 0}
        with torch.inference_mode():
            deployed = self._memo(self.deployed, "deployed")
            passes["deployed"], reused["deployed"] = self._learn(deployed, samples)
            answer, top5 = deployed.answer[samples], deployed.top5[samples]

            by_backup = np.flatnonzero(route == Route.BACKUP)
            if len(by_backup):
                if backup is None:
                    raise ValueError("the trace has replies by a backup model, but no backup model was given")
                memo = self._memo(backup, "backup")
                passes["backup"], reused["backup"] = self._learn(memo, samples[by_backup])
                answer[by_backup], top5[by_backup] = memo.answer[samples[by_backup]], memo.top5[samples[by_backup]]

            words = reconstructed_words(trace)
            if len(words):
                if code is None or (code.needs_training and len(parities) < trace.r):
                    raise ValueError(f"the trace has reconstructions: they need the code and {trace.r} parity models")
                answer[words.query], top5[words.query] = self._reconstruct(
                    words, samples, code, parities[: trace.r], trace.r
                )
                if code.needs_training:
                    passes["parity"] = sum(int(words.needing(row).sum()) for row in range(trace.r))
                    reused["parity"] = words.reused(trace.k, trace.r)

        by_default = route == Route.DEFAULT
        answer[by_default] = self.default_answer
        correct = answer == self.labels[samples]
        top5[by_default] = correct[by_default]
        return Answers(answer, correct, answer == deployed.answer[samples], top5, passes, reused)

    def _memo(self, module: nn.Module, name: str) -> _Memo:
        n = len(self.labels)
        empty = _Memo(module, name, np.full(n, -1, dtype=np.int16), np.zeros(n, dtype=bool), np.zeros(n, dtype=bool))
        return self._memos.setdefault(module, empty)

    def _learn(self, memo: _Memo, samples: Ints) -> tuple[int, int]:
        """Have the memo know all of `samples`; return how many distinct ones it computed, and how many it knew."""
        wanted = np.zeros(len(memo.known), dtype=bool)
        wanted[samples] = True
        new = np.flatnonzero(wanted & ~memo.known)
        if len(new):
            outputs = self.backend.predict_samples(memo.module, self.images, torch.from_numpy(new))
            check_finite(outputs, memo.name)
            if not memo.known.any():
                memo.outputs = torch.full((len(memo.known), outputs.shape[1]), torch.nan)
            memo.outputs[torch.from_numpy(new)] = outputs
            memo.answer[new] = top_answer(outputs.numpy())
            memo.top5[new] = in_top(outputs.numpy(), self.labels[new])
            memo.known[new] = True
        return len(new), int(wanted.sum()) - len(new)

    def _reconstruct(
        self, words: Words, samples: Ints, code: TensorCode, parities: Sequence[nn.Module], r: int
    ) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
        """Decode the queries `words.query`, in that order: their answers, and whether the label is in the top 5."""
        outputs = self._memo(self.deployed, "deployed").outputs
        carried = samples[words.members]
        k = carried.shape[1]
        answer = np.empty(len(words.query), dtype=np.int16)
        top5 = np.empty(len(words.query), dtype=bool)
        values = (k + r) * max(1, self.images[0].numel())
        step = max(1, min(WORDS_PER_CHUNK, VALUES_PER_CHUNK // values))
        for start in range(0, len(words), step):
            chunk = slice(start, start + step)
            members = torch.from_numpy(carried[chunk])
            parity = self._parity_outputs(members, outputs, words.rows[chunk], code, parities, r)
            first, end = np.searchsorted(words.word, (start, start + step))
            word = torch.from_numpy(words.word[first:end] - start)
            mine = reconstruct(code, outputs[members[word]], parity[word], words.used[first:end], words.slot[first:end])
            labels = self.labels[samples[words.query[first:end]]]
            answer[first:end] = top_answer(mine.numpy())
            top5[first:end] = in_top(mine.numpy(), labels)
        return answer, top5

    def _parity_outputs(
        self, members: Tensor, outputs: Tensor, rows: Ints, code: TensorCode, parities: Sequence[nn.Module], r: int
    ) -> Tensor:
        """Compute the used parity rows of words that carry samples `members` (w, k); (w, r, c), NaN where unused."""
        if not code.needs_training:
            return code.targets(outputs[members], r)
        result = torch.full((len(members), r, outputs.shape[1]), torch.nan)
        encoded = code.encode(self.images[members.to(self.images.device)], r)
        for row, module in enumerate(parities):
            needed = torch.from_numpy(np.flatnonzero((rows >> row) & 1))
            if len(needed):
                result[needed, row] = self.backend.predict(module, encoded[needed.to(encoded.device), row])
        return result


def check_finite(outputs: Tensor, name: str) -> None:
    """Raise ParmError if a model, called `name`, answers with NaN or infinity."""
    if not outputs.isfinite().all():
        raise ParmError(f"the {name} model answers with numbers that are not finite: train it anew")


def reconstruct(code: TensorCode, outputs: Tensor, parities: Tensor, used: Ints, slot: Ints) -> Tensor:
    """Decode lost queries: slot `slot[i]` of its word from the answers `used[i]` and no others; return (l, c).

    `outputs` (l, k, c) are the own answers of each lost query's word and `parities` (l, r, c) its parity answers.
    Raises ParmError where the result is not finite.
    """
    k, r = outputs.shape[1], parities.shape[1]
    # What the decoder did not have is hidden from it: no lost answer can leak into its own reconstruction.
    seen = outputs.masked_fill(~torch.from_numpy(_bits(used, 0, k))[..., None], torch.nan)
    rows = parities.masked_fill(~torch.from_numpy(_bits(used, k, r))[..., None], torch.nan)
    mine = code.decode(seen, rows, torch.from_numpy(used))[torch.arange(len(used)), torch.from_numpy(slot)]
    if not mine.isfinite().all():
        raise ParmError("a reconstruction is not finite: a parity model answers NaN, or too few answers were used")
    return mine


def _bits(masks: Ints, first: int, count: int) -> NDArray[np.bool_]:
    """Spread bits `first .. first + count - 1` of each mask, (n,) -> (n, count)."""
    return np.asarray((masks[:, None] >> np.arange(first, first + count)) & 1, dtype=np.bool_)
