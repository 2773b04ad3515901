"""Deferred answers: after a cell has been simulated, compute exactly the predictions that some client received.

The deployed model runs once per distinct sample, over all the cells of an experiment together; a parity model runs once
per word (see `reconstruction.py`) whose reconstruction used its row. All of it stays on the device, in big batches and
without a Python step per group; the clients' answers are copied from it once per cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from backends.reconstruction import Words, reconstructed_words
from backends.torch_backend import TorchBackend
from parity.codes.base import Coder
from sim.errors import ParmError
from sim.trace import Ints, Route, Trace

VALUES_PER_CHUNK = 2**25
"""Bound on the numbers that are decoded at once (128 MiB)."""

HELD = 1024
"""Samples on which a model's half precision is compared with its single precision, to decide between them."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What the clients of one cell received, one row per query, and the forward passes that it took."""

    answer: NDArray[np.int16]
    """The class that was answered, shape (queries,)."""
    correct: NDArray[np.bool_]
    """Whether it is the true label."""
    agrees: NDArray[np.bool_]
    """Whether it is the deployed model's own answer for that sample."""
    top5: NDArray[np.bool_]
    """Whether the true label is among the five likeliest classes; a default answer names only one class."""
    passes: dict[str, int]
    """Forward passes made for this cell, in samples, by role: `deployed`, `parity`, `backup`."""
    reused: dict[str, int]
    """Answers that needed no pass of their own: known from an earlier cell, or shared by several losses of one word."""


@dataclass(slots=True)
class _Memo:
    """A model's outputs, per sample of the test set, as far as they have been needed; all but `known` on the device."""

    module: nn.Module
    name: str
    answer: Tensor
    top5: Tensor
    finite: Tensor
    """Whether all outputs so far are finite, one bool."""
    known: NDArray[np.bool_]
    outputs: Tensor = field(default_factory=lambda: torch.empty(0, 0))


class Predictor:
    """Computes answers for every cell of an experiment, remembering the models' outputs from cell to cell.

    The modules must not change between calls. `images` are the test set's normalised samples, float32 (n, *shape), and
    `labels` their classes, int64 (n,); `default_answer` is the class for a prediction that never came, usually the most
    frequent one of the training set.
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
        self.labels = backend.place(torch.from_numpy(labels))
        self.default_answer = default_answer
        self._memos: dict[nn.Module, _Memo] = {}

    def answer(
        self,
        trace: Trace,
        samples: Ints,
        code: Coder | None = None,
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
            carried = self._placed(samples)
            deployed = self._memo(self.deployed, "deployed")
            passes["deployed"], reused["deployed"] = self._learn(deployed, samples)
            own = deployed.answer[carried]
            answer, top5 = own.clone(), deployed.top5[carried]
            finite = {"deployed": deployed.finite}

            by_backup = np.flatnonzero(route == Route.BACKUP)
            if len(by_backup):
                if backup is None:
                    raise ValueError("the trace has replies by a backup model, but no backup model was given")
                memo = self._memo(backup, "backup")
                passes["backup"], reused["backup"] = self._learn(memo, samples[by_backup])
                there = self._placed(by_backup)
                answer[there], top5[there] = memo.answer[carried[there]], memo.top5[carried[there]]
                finite["backup"] = memo.finite

            words = reconstructed_words(trace)
            if len(words):
                if code is None or (code.answered_by != "oracle" and len(parities) < trace.r):
                    raise ValueError(f"the trace has reconstructions: they need the code and {trace.r} parity models")
                there = self._placed(words.query)
                answer[there], top5[there], finite["reconstruction"] = self._reconstruct(
                    words, carried, code, parities[: trace.r], trace.r
                )
                if code.answered_by != "oracle":
                    passes["parity"] = sum(int(words.needing(row).sum()) for row in range(trace.r))
                    reused["parity"] = words.reused(trace.k, trace.r)

            answer.masked_fill_(self._placed(route == Route.DEFAULT), self.default_answer)
            answers = collect(
                answer, top5, own, self.labels[carried], self._placed(route == Route.DEFAULT), passes, reused
            )
            sound = torch.stack(list(finite.values())).cpu()
        for name, good in zip(finite, sound.tolist(), strict=True):
            if not good:
                raise ParmError(unsound(name))
        return answers

    def _placed(self, values: NDArray[Any]) -> Tensor:
        return self.backend.place(torch.from_numpy(values))

    def _memo(self, module: nn.Module, name: str) -> _Memo:
        if module not in self._memos:
            self.backend.settle(module, lambda: self.images[:HELD])
            n, place = len(self.labels), self.backend.place
            self._memos[module] = _Memo(
                module,
                name,
                answer=place(torch.full((n,), -1, dtype=torch.int16)),
                top5=place(torch.zeros(n, dtype=torch.bool)),
                finite=place(torch.ones((), dtype=torch.bool)),
                known=np.zeros(n, dtype=bool),
            )
        return self._memos[module]

    def _learn(self, memo: _Memo, samples: Ints) -> tuple[int, int]:
        """Compute the outputs of `samples` that are not known; return the numbers of new and of known ones."""
        wanted = np.zeros(len(memo.known), dtype=bool)
        wanted[samples] = True
        new = np.flatnonzero(wanted & ~memo.known)
        if len(new):
            rows = self._placed(new)
            outputs = self.backend.outputs(memo.module, len(new), lambda chunk: self.images[rows[chunk]])
            if not memo.known.any():
                memo.outputs = outputs.new_full((len(memo.known), outputs.shape[1]), torch.nan)
            memo.outputs[rows] = outputs
            memo.answer[rows] = top_answer(outputs)
            memo.top5[rows] = in_top(outputs, self.labels[rows])
            memo.finite &= outputs.isfinite().all()
            memo.known[new] = True
        return len(new), int(wanted.sum()) - len(new)

    def _reconstruct(
        self, words: Words, carried: Tensor, code: Coder, parities: Sequence[nn.Module], r: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode the queries `words.query`, in that order, where query q carried sample `carried[q]`.

        Return their answers, whether the label is in the top 5, and whether all of it is finite.
        """
        outputs = self._memo(self.deployed, "deployed").outputs
        members = carried[self._placed(words.members)]
        parity = self._parity_outputs(members, outputs, words, code, parities, r)
        labels, word = self.labels[carried[self._placed(words.query)]], self._placed(words.word)
        answer = torch.empty(len(word), dtype=torch.int16, device=outputs.device)
        top5 = torch.empty(len(word), dtype=torch.bool, device=outputs.device)
        finite = torch.ones((), dtype=torch.bool, device=outputs.device)
        step = max(1, VALUES_PER_CHUNK // (members.shape[1] * outputs.shape[1] + r * parity.shape[2]))
        for start in range(0, len(word), step):
            chunk = slice(start, start + step)
            mine = reconstruct(
                code, outputs[members[word[chunk]]], parity[word[chunk]], words.used[chunk], words.slot[chunk]
            )
            answer[chunk], top5[chunk] = top_answer(mine), in_top(mine, labels[chunk])
            finite &= mine.isfinite().all()
        return answer, top5, finite

    def _parity_outputs(
        self, members: Tensor, outputs: Tensor, words: Words, code: Coder, parities: Sequence[nn.Module], r: int
    ) -> Tensor:
        """Compute the used parity rows of words that carry samples `members` (w, k); (w, r, p), NaN where unused."""
        if code.answered_by == "oracle":
            return code.targets(outputs[members], r)
        result = torch.empty(0)
        for row, module in enumerate(parities):
            used = np.flatnonzero(words.needing(row))
            if not len(used):
                continue
            needed = self._placed(used)
            rows = members[needed]
            self.backend.settle(module, lambda row=row: held_queries(code, self.images, members.shape[1], r)[:, row])  # type: ignore[misc]
            answers = self.backend.outputs(
                module,
                len(needed),
                # Per batch, so that gathered and encoded queries are still in the cache in the forward pass.
                lambda chunk, rows=rows, row=row: code.encode(self.images[rows[chunk]], r)[:, row],  # type: ignore[misc]
            )
            if not len(result):
                result = answers.new_full((len(members), r, answers.shape[1]), torch.nan)
            result[needed, row] = answers
        return result if len(result) else outputs.new_full((len(members), r, outputs.shape[1]), torch.nan)


def held_queries(code: Coder, images: Tensor, k: int, r: int) -> Tensor:
    """Encode samples on which a parity model's half precision is compared with its single precision."""
    members = torch.arange(HELD * k, device=images.device) % len(images)
    return code.encode(images[members.reshape(HELD, k)], r)


def unsound(name: str) -> str:
    """Return the message for outputs that are not finite, of a model by its role or of a `reconstruction`."""
    if name == "reconstruction":
        return "a reconstruction is not finite: a parity model answers NaN, or too few answers were used"
    return f"the {name} model answers with numbers that are not finite: train it anew"


def check_finite(outputs: Tensor, name: str) -> None:
    """Raise ParmError if the answers of `name`, see `unsound`, hold NaN or infinity. This waits for the device."""
    if not outputs.isfinite().all():
        raise ParmError(unsound(name))


def collect(
    answer: Tensor,
    top5: Tensor,
    own: Tensor,
    labels: Tensor,
    by_default: Tensor,
    passes: dict[str, int],
    reused: dict[str, int],
) -> Answers:
    """Copy what a cell's clients received from the device, in one transfer.

    `own` are the deployed model's answers; all tensors are of shape (queries,). A default answer names a single class.
    """
    correct = answer == labels
    flags = (correct, answer == own, torch.where(by_default, correct, top5))
    classes, *judged = torch.stack([answer, *(flag.to(torch.int16) for flag in flags)]).cpu().numpy()
    right, agrees, among = (column.astype(np.bool_) for column in judged)
    return Answers(classes.copy(), right, agrees, among, passes, reused)


def reconstruct(code: Coder, outputs: Tensor, parities: Tensor, used: Ints, slot: Ints) -> Tensor:
    """Decode lost queries: slot `slot[i]` of its word from the answers `used[i]` and no others; return (l, c).

    `outputs` (l, k, c) are the own answers of each lost query's word and `parities` (l, r, p) its parity answers.
    """
    k, r = outputs.shape[1], parities.shape[1]
    device = outputs.device
    # Answers that the decoder did not have are NaN, so that a lost answer cannot leak into its own reconstruction.
    seen = outputs.masked_fill(~torch.from_numpy(_bits(used, 0, k)).to(device)[..., None], torch.nan)
    rows = parities.masked_fill(~torch.from_numpy(_bits(used, k, r)).to(device)[..., None], torch.nan)
    decoded = code.decode(seen, rows, torch.from_numpy(used).to(device))
    return decoded[torch.arange(len(used), device=device), torch.from_numpy(slot).to(device)]


def _bits(masks: Ints, first: int, count: int) -> NDArray[np.bool_]:
    """Spread bits `first .. first + count - 1` of each mask, (n,) -> (n, count)."""
    return np.asarray((masks[:, None] >> np.arange(first, first + count)) & 1, dtype=np.bool_)


def top_answer(outputs: Tensor) -> Tensor:
    """Return the class with the largest output, the lowest-numbered one among equals; (n, classes) -> int16 (n,)."""
    return outputs.argmax(dim=1).to(torch.int16)


def in_top(outputs: Tensor, labels: Tensor, n: int = 5) -> Tensor:
    """Return whether each row's label is among the n classes with the largest outputs; (rows, classes) -> (rows,).

    Equal outputs rank by class number, so that `n=1` agrees with `top_answer`. With n classes or fewer all are in.
    """
    own = outputs.gather(1, labels[:, None])
    earlier = torch.arange(outputs.shape[1], device=outputs.device) < labels[:, None]
    ahead = (outputs > own) | ((outputs == own) & earlier)
    return ahead.sum(dim=1) < n
