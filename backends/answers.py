"""Deferred answers: after a cell has been simulated, compute exactly the predictions that some client received.

The deployed model runs once per distinct sample, over all the cells of an experiment together; a parity model runs once
per distinct word (see `reconstruction.py`) whose reconstruction used its row, as far as `memos.py` remembers. All of it
stays on the device, in big batches and without a Python step per group; the clients' answers are copied from it once
per cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from backends.memos import SampleMemo, Wanted, WordMemo
from backends.reconstruction import Words, reconstructed_words
from backends.torch_backend import TorchBackend
from backends.wrong import Causes, Counts, WrongAnswers
from parity.codes.base import Coder, Locator
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
    wrong: Counts | None = None
    """Wrong answers among those that were used, and how many were located; None where all answers are right."""


@dataclass(frozen=True, slots=True)
class _PlacedWords:
    """The words of a cell on the device; shapes as in `Words`, but `members` are samples."""

    members: Tensor
    word: Tensor
    slot: Tensor
    used: Tensor
    labels: Tensor
    """Of the reconstructed queries, (l,)."""
    needed: Sequence[Tensor]
    """By parity row, the words that it is computed for."""


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
        self._memos: dict[nn.Module, SampleMemo] = {}
        self._words: dict[tuple[nn.Module, int, int, int], tuple[Coder, WordMemo]] = {}

    def answer(
        self,
        trace: Trace,
        samples: Ints,
        code: Coder | None = None,
        parities: Sequence[nn.Module] = (),
        backup: nn.Module | None = None,
        causes: Causes | None = None,
    ) -> Answers:
        """Predict what each client of `trace` received, where query q carried test sample `samples[q]`.

        `parities` holds one module per parity row, `backup` the approximate backup; each may be left out where the
        trace has no reply by that route. `causes` are those of the wrong answers that the trace has marked, if it has.
        Raises ValueError where something is missing, ParmError where a model answers NaN.
        """
        if len(samples) != len(trace.queries):
            raise ValueError(f"the trace has {len(trace.queries)} queries, but {len(samples)} samples were given")
        with torch.inference_mode():
            while True:
                answers, unsound_models = self._answer(trace, samples, code, parities, backup, causes)
                # What overflows half precision has an answer in single precision.
                named = [name for name in unsound_models if name != "reconstruction"] or unsound_models
                suspects = {module for name in named for module in unsound_models[name]}
                if not sum(self._distrust(module) for module in suspects):
                    break
        for name in unsound_models:
            raise ParmError(unsound(name))
        return answers

    def _answer(
        self,
        trace: Trace,
        samples: Ints,
        code: Coder | None,
        parities: Sequence[nn.Module],
        backup: nn.Module | None,
        causes: Causes | None,
    ) -> tuple[Answers, dict[str, Sequence[nn.Module]]]:
        """See `answer`; also return, by name, the models behind outputs that are not finite."""
        route, words = trace.queries.route, reconstructed_words(trace)
        wrong = None if causes is None else WrongAnswers(causes, self.backend, trace, words)
        by_backup = np.flatnonzero(route == Route.BACKUP)
        passes, reused = {"deployed": 0, "parity": 0, "backup": 0}, {"deployed": 0, "parity": 0, "backup": 0}
        memos = {"deployed": (self._memo(self.deployed, "deployed"), samples)}
        if len(by_backup):
            if backup is None:
                raise ValueError("the trace has replies by a backup model, but no backup model was given")
            memos["backup"] = self._memo(backup, "backup"), samples[by_backup]
        if len(words) and (code is None or (code.answered_by != "oracle" and len(parities) < trace.r)):
            raise ValueError(f"the trace has reconstructions: they need the code and {trace.r} parity models")
        new = {}
        for name, (memo, wanted) in memos.items():
            new[name], reused[name] = memo.unknown(wanted)
            passes[name] = len(new[name])
        rows = [np.flatnonzero(words.needing(row)) for row in range(trace.r)]
        asked = [] if code is None or not len(words) else self._asked(rows, samples[words.members], code, parities)
        if asked:
            passes["parity"] = sum(len(wanted.new) for _, wanted in asked)
            reused["parity"] = words.reused(trace.k, trace.r) + sum(map(len, rows)) - passes["parity"]
        indices = [samples, np.flatnonzero(route == Route.DEFAULT), by_backup, words.query, words.word, words.slot]
        indices += [words.used, samples[words.members], *new.values(), *rows]
        indices += [array for _, wanted in asked for array in (wanted.row, wanted.new)]
        carried, default, backed_up, query, word, slot, used, members, *others = self.backend.place_indices(indices)
        computed, others = dict(zip(new, others, strict=False)), others[len(new) :]
        needed, others = others[: len(rows)], others[len(rows) :]

        for name, (memo, _) in memos.items():
            self._learn(memo, new[name], computed[name])
        deployed = memos["deployed"][0]
        own = deployed.answer[carried]
        answer, top5 = own.clone(), deployed.top5[carried]
        finite = {name: memo.finite for name, (memo, _) in memos.items()}
        behind: dict[str, Sequence[nn.Module]] = {name: [memo.module] for name, (memo, _) in memos.items()}
        if len(by_backup):
            memo = memos["backup"][0]
            answer[backed_up], top5[backed_up] = memo.answer[carried[backed_up]], memo.top5[carried[backed_up]]
        if wrong is not None:
            self._spoil(answer, top5, wrong, carried, {name: memo.outputs for name, (memo, _) in memos.items()})
        located = np.zeros(len(words.query), dtype=np.int64)
        if len(words):
            assert code is not None
            placed = _PlacedWords(members, word, slot, used, self.labels[carried[query]], needed)
            parity = self._parity_outputs(placed, code, parities[: trace.r], asked, others)
            *found, located = self._reconstruct(words, placed, code, parity, wrong)
            answer[query], top5[query], finite["reconstruction"] = found
            behind["reconstruction"] = [] if code.answered_by == "oracle" else parities[: trace.r]

        answer.index_fill_(0, default, self.default_answer)
        by_default = torch.zeros_like(top5).index_fill_(0, default, True)
        answers, sound = collect(
            answer, top5, own, self.labels[carried], by_default, list(finite.values()), passes, reused
        )
        if wrong is not None:
            answers = replace(answers, wrong=wrong.counts(located))
        return answers, {name: behind[name] for name, good in zip(finite, sound, strict=True) if not good}

    def _spoil(
        self, answer: Tensor, top5: Tensor, wrong: WrongAnswers, carried: Tensor, outputs: Mapping[str, Tensor]
    ) -> None:
        """Put wrong answers in the place of those that the models of `outputs` gave to the samples `carried`."""
        for name, replies in wrong.replied.items():
            if len(replies.query):
                (at,) = self.backend.place_indices([replies.query])
                rows = carried[at]
                found = wrong.replies(replies, outputs[name][rows], lambda some, rows=rows: self.images[rows[some]])  # type: ignore[misc]
                answer[at], top5[at] = top_answer(found), in_top(found, self.labels[rows])

    def _distrust(self, module: nn.Module) -> bool:
        """Compute anew in single precision what a model answers, if it was the backend that chose half precision."""
        changed = self.backend.distrust_half(module)
        if changed:
            self._memos.pop(module, None)
            self._words = {key: known for key, known in self._words.items() if key[0] is not module}
        return changed

    def _memo(self, module: nn.Module, name: str) -> SampleMemo:
        if module not in self._memos:
            self.backend.settle(module, lambda: self.images[:HELD])
            n, place = len(self.labels), self.backend.place
            self._memos[module] = SampleMemo(
                module,
                name,
                answer=place(torch.full((n,), -1, dtype=torch.int16)),
                top5=place(torch.zeros(n, dtype=torch.bool)),
                finite=place(torch.ones((), dtype=torch.bool)),
                known=np.zeros(n, dtype=bool),
            )
        return self._memos[module]

    def _learn(self, memo: SampleMemo, new: Ints, rows: Tensor) -> None:
        """Compute the outputs of the samples `new`, which are `rows` on the device."""
        if not len(new):
            return
        outputs = self.backend.outputs(memo.module, len(new), lambda chunk: self.images[rows[chunk]])
        if not memo.known.any():
            memo.outputs = outputs.new_full((len(memo.known), outputs.shape[1]), torch.nan)
        memo.outputs[rows] = outputs
        memo.answer[rows] = top_answer(outputs)
        memo.top5[rows] = in_top(outputs, self.labels[rows])
        memo.finite &= outputs.isfinite().all()
        memo.known[new] = True

    def _reconstruct(
        self,
        words: Words,
        placed: _PlacedWords,
        code: Coder,
        parity: Tensor,
        wrong: WrongAnswers | None,
    ) -> tuple[Tensor, Tensor, Tensor, Ints]:
        """Decode the queries `words.query`, in that order, with the parity answers (w, r, p).

        Return their answers, whether the label is in the top 5, whether all of it is finite, and which answers the
        code took for wrong: a bit mask for each query.
        """
        outputs, members, r = self._memo(self.deployed, "deployed").outputs, placed.members, parity.shape[1]
        own, row = outputs, members
        if wrong is not None:  # then each word has own answers of its own
            own = wrong.own(outputs[members], lambda some: self.images[members.reshape(-1)[some]]).flatten(0, 1)
            row = torch.arange(members.numel(), device=members.device).reshape(members.shape)
            parity = self._wrong_parities(wrong, placed, parity, code, r)
        located = locate(code, parity, words)
        returned, used = torch.from_numpy(words.used & ~located), placed.used
        if located.any():
            used = used & ~self.backend.place_indices([located])[0]
        answer = torch.empty(len(placed.word), dtype=torch.int16, device=outputs.device)
        top5 = torch.empty(len(placed.word), dtype=torch.bool, device=outputs.device)
        finite = torch.ones((), dtype=torch.bool, device=outputs.device)
        step = max(1, VALUES_PER_CHUNK // (members.shape[1] * outputs.shape[1] + r * parity.shape[2]))
        for start in range(0, len(placed.word), step):
            chunk = slice(start, start + step)
            word = placed.word[chunk]
            mine = reconstruct(code, own[row[word]], parity[word], returned[chunk], used[chunk], placed.slot[chunk])
            answer[chunk], top5[chunk] = top_answer(mine), in_top(mine, placed.labels[chunk])
            finite &= mine.isfinite().all()
        return answer, top5, finite, located

    def _wrong_parities(self, wrong: WrongAnswers, placed: _PlacedWords, parity: Tensor, code: Coder, r: int) -> Tensor:
        """Return the parity answers (w, r, p) with the wrong ones in place."""
        parity = parity.clone()
        for row, needed in enumerate(placed.needed):
            rows = placed.members[needed]

            def queries(some: Tensor, rows: Tensor = rows, row: int = row) -> Tensor:
                return code.encode(self.images[rows[some]], r)[:, row]

            parity[needed, row] = wrong.coded(row, needed.cpu().numpy(), parity[needed, row], queries)
        return parity

    def _asked(
        self, rows: Sequence[Ints], members: Ints, code: Coder, parities: Sequence[nn.Module]
    ) -> list[tuple[WordMemo, Wanted]]:
        """Return, for each parity row, what is remembered of its model's answers and what is wanted of them.

        `rows` has the words that need the row and `members` (w, k) the samples of each word. Nothing is asked for where
        parity answers follow from those of the deployed model.
        """
        if code.answered_by == "oracle":
            return []
        k, r = members.shape[1], len(rows)
        memos = [self._word_memo(parities[row], row, code, k, r) for row in range(r)]
        return [(memo, memo.want(members[of])) for memo, of in zip(memos, rows, strict=True)]

    def _word_memo(self, module: nn.Module, row: int, code: Coder, k: int, r: int) -> WordMemo:
        """Return what a model has answered to words that an equal code encoded for row `row` of r."""
        key = module, row, k, r
        if key not in self._words or self._words[key][0] != code:
            self._words[key] = code, WordMemo(len(self.labels), k)
        return self._words[key][1]

    def _parity_outputs(
        self,
        placed: _PlacedWords,
        code: Coder,
        parities: Sequence[nn.Module],
        asked: Sequence[tuple[WordMemo, Wanted]],
        indices: Sequence[Tensor],
    ) -> Tensor:
        """Return the used parity rows of the words, (w, r, p), NaN where unused; what is not known is computed.

        For each row `asked` has its memo and what is wanted of it, and `indices` the same on the device.
        """
        members, r = placed.members, len(placed.needed)
        outputs = self._memo(self.deployed, "deployed").outputs
        if not asked:
            return code.targets(outputs[members], r)
        result = torch.empty(0)
        for row, (module, needed, (memo, wanted)) in enumerate(zip(parities, placed.needed, asked, strict=True)):
            if not len(needed):
                continue
            self.backend.settle(module, lambda row=row: held_queries(code, self.images, members.shape[1], r)[:, row])  # type: ignore[misc]
            where, new = indices[2 * row : 2 * row + 2]
            if len(new):
                answers = self.backend.outputs(
                    module,
                    len(new),
                    # Per batch, so that gathered and encoded queries are still in the cache in the forward pass.
                    lambda chunk, new=new, row=row: code.encode(self.images[new[chunk]], r)[:, row],  # type: ignore[misc]
                )
                memo.learn(wanted, answers)
            if not len(result):
                result = memo.outputs.new_full((len(members), r, memo.outputs.shape[1]), torch.nan)
            result[needed, row] = memo.outputs[where]
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
    sound: Sequence[Tensor],
    passes: dict[str, int],
    reused: dict[str, int],
) -> tuple[Answers, list[bool]]:
    """Copy what a cell's clients received from the device, in one transfer.

    `own` are the deployed model's answers; all tensors are of shape (queries,), but `sound` are single bools, which are
    returned beside. A default answer names a single class.
    """
    correct = answer == labels
    flags = (correct, answer == own, torch.where(by_default, correct, top5))
    columns = [answer, *(flag.to(torch.int16) for flag in (*flags, *(one.reshape(1) for one in sound)))]
    values = torch.cat(columns).cpu().numpy()
    classes, right, agrees, among = values[: 4 * len(answer)].reshape(4, -1)
    right, agrees, among = (column.astype(np.bool_) for column in (right, agrees, among))
    answers = Answers(classes.copy(), right, agrees, among, passes, reused)
    return answers, values[4 * len(answer) :].astype(np.bool_).tolist()


def locate(code: Coder, parities: Tensor, words: Words) -> Ints:
    """Return which answers the code takes for wrong, as bit masks for `words.query`, (l,); 0 where it does not look.

    `parities` (w, r, p) are the words' parity answers. Queries of a word that were decoded from the same answers share
    the work.
    """
    if not isinstance(code, Locator) or not code.errors:
        return np.zeros(len(words.query), dtype=np.int64)
    different, which = np.unique(np.stack([words.word, words.used]), axis=1, return_inverse=True)
    word, used = (torch.from_numpy(part) for part in different)
    found = code.located(parities[word.to(parities.device)], used, words.members.shape[1])
    return found.numpy()[which.reshape(-1)]


def reconstruct(code: Coder, outputs: Tensor, parities: Tensor, returned: Tensor, used: Tensor, slot: Tensor) -> Tensor:
    """Decode lost queries: slot `slot[i]` of its word from the answers `used[i]` and no others; return (l, c).

    `outputs` (l, k, c) are the own answers of each lost query's word and `parities` (l, r, p) its parity answers;
    `returned` has what is in `used`, but on the CPU.
    """
    k, r = outputs.shape[1], parities.shape[1]
    # Answers that the decoder did not have are NaN, so that a lost answer cannot leak into its own reconstruction.
    lost = (used[:, None] >> torch.arange(k + r, device=used.device)) & 1 == 0
    seen = outputs.masked_fill(lost[:, :k, None], torch.nan)
    rows = parities.masked_fill(lost[:, k:, None], torch.nan)
    return code.decode(seen, rows, returned)[torch.arange(len(used), device=used.device), slot]


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
