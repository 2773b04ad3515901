"""Which of a cell's answers are wrong, what stands in their place, and how many of them were located.

An answer belongs to the first task of its batch, or of its parity row's group, whose answer was back: that is the one
that policies use. Only in a vote several answers of a batch are used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from backends.corruption import Draws, StaleModel, TensorCorruption, mixed
from backends.reconstruction import Words
from backends.torch_backend import TorchBackend
from sim.streams import Streams
from sim.trace import LARGEST_VOTE, Ints, Role, Route, TaskStatus, Trace

Flags = NDArray[np.bool_]
Whole = NDArray[np.integer[Any]]

COPIES = (Route.OWN, Route.REPLICA)
"""Routes of replies by the deployed model."""

ROWS = 1024
"""More than there are parity rows: keys of a query's own answer and of its coded ones are apart."""


@dataclass(frozen=True, slots=True)
class Causes:
    """The causes of wrong answers in one trial, in the order of the experiment's list."""

    causes: Sequence[TensorCorruption]
    streams: Streams
    others: Mapping[int, nn.Module]
    """The models that answer in place of the deployed one, by the index of their cause."""


@dataclass(frozen=True, slots=True)
class Counts:
    """For each query, the answers from which its reply was made or chosen; all of shape (queries,)."""

    used: Ints
    """How many they were; 0 for a default answer."""
    wrong: Ints
    """Those that came from a corrupt instance."""
    located: Ints
    """Those that a code or a vote took for wrong, and did not use further."""
    found: Ints
    """Those that were wrong and located."""


@dataclass(frozen=True, slots=True)
class Givers:
    """Which instance gave the answer of each owner of tasks, (owners,), and its mark; where none came, -1 and 0."""

    instance: Ints
    mark: Ints

    @classmethod
    def of(cls, trace: Trace, role: Role, owners: int, row: int = 0) -> Givers:
        """Return those of the first answers that were back, of one role and parity row."""
        tasks = trace.tasks
        assert tasks.wrong is not None
        done = np.flatnonzero((tasks.fate == TaskStatus.DONE) & (tasks.role == role) & (tasks.row == row))
        owner, first = np.unique(tasks.owner[done], return_index=True)
        found = cls(np.full(owners, -1, dtype=np.int64), np.zeros(owners, dtype=np.int64))
        found.take(owner, tasks.instance[done[first]], tasks.wrong[done[first]])
        return found

    def take(self, owner: Whole, instance: Whole, mark: Whole) -> None:
        """Let other instances have given the answers of some owners."""
        self.instance[owner], self.mark[owner] = instance, mark


@dataclass(frozen=True, slots=True)
class Replies:
    """Queries whose reply is a wrong answer itself; all of shape (n,)."""

    query: Ints
    instance: Ints
    mark: Ints

    @classmethod
    def of(cls, givers: Givers, trace: Trace, which: Flags) -> Replies:
        """Return the queries in `which`, (queries,), whose batch got a wrong answer."""
        batch = trace.queries.batch
        query = np.flatnonzero(which & (givers.mark[batch] != 0))
        return cls(query, givers.instance[batch[query]], givers.mark[batch[query]])


class WrongAnswers:
    """The wrong answers of one cell."""

    def __init__(self, causes: Causes, backend: TorchBackend, trace: Trace, words: Words) -> None:
        """`words` are those of the trace. Raises ValueError where the trace has no marks."""
        if trace.tasks.wrong is None:
            raise ValueError("the trace does not say which answers are wrong: simulate it with the same corruption")
        self._causes, self._backend, self._words = causes, backend, words
        base = causes.streams.generator("wrong answers").integers(0, 2**63, max(1, len(causes.causes)))
        self._base = base.astype(np.uint64)
        batches, queries = len(trace.batches), trace.queries
        groups = int(trace.batches.group.max(initial=-1)) + 1
        own = Givers.of(trace, Role.DEPLOYED, batches)
        voted = _voted(trace)
        chosen = Givers(own.instance.copy(), own.mark.copy())
        _take_winners(chosen, trace, voted)

        by_copy, by_backup = np.isin(queries.route, COPIES), queries.route == Route.BACKUP
        self.replied = {
            "deployed": Replies.of(chosen, trace, by_copy),
            "backup": Replies.of(Givers.of(trace, Role.BACKUP, batches), trace, by_backup),
        }
        """By the role of the model: the queries whose reply is a wrong answer itself."""

        members = queries.batch[words.members]
        self._own = Givers(own.instance[members], own.mark[members])
        of_word = words.query[np.unique(words.word, return_index=True)[1]]
        group = trace.group[of_word].astype(np.int64)
        rows = [Givers.of(trace, Role.PARITY, groups, row) for row in range(trace.r)] if len(words) else []
        shape = (len(words), trace.r)
        self._coded = Givers(
            np.array([one.instance[group] for one in rows], dtype=np.int64).T.reshape(shape),
            np.array([one.mark[group] for one in rows], dtype=np.int64).T.reshape(shape),
        )
        longest = int(trace.batches.size.max(initial=1))
        self._coded_key = group * longest + trace.position[of_word]

        self._used = (by_copy | by_backup).astype(np.int64)
        self._wrong, self._located, self._found = (np.zeros_like(self._used) for _ in range(3))
        for replies in self.replied.values():
            self._wrong[replies.query] = 1
        for counted, among in zip((self._used, self._wrong, self._located, self._found), _votes(trace), strict=True):
            counted[voted] = among[queries.batch[voted]]

    def replies(self, replies: Replies, right: Tensor, inputs: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the outputs of some of the `replied`, (n, c), given the `right` ones; `inputs` makes their queries."""
        return self._corrupted(right, replies.mark, replies.instance, replies.query * ROWS, inputs)

    def own(self, outputs: Tensor, inputs: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the words' own answers, (w, k, c), given the right ones; `inputs` takes places in w x k."""
        return self._within(outputs, self._own, self._words.members * ROWS, inputs)

    def coded(self, row: int, needed: Ints, outputs: Tensor, inputs: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the answers to parity row `row` of the words `needed`, (n, p), given the right ones."""
        given = Givers(self._coded.instance[needed, row], self._coded.mark[needed, row])
        return self._within(outputs, given, self._coded_key[needed] * ROWS + 1 + row, inputs)

    def counts(self, located: Ints) -> Counts:
        """Return the counts of all queries. `located` is a bit mask for each of the words' queries, (l,)."""
        words, bits = self._words, np.arange(self._own.mark.shape[1] + self._coded.mark.shape[1])
        wrong = np.hstack([self._own.mark, self._coded.mark])[words.word] != 0
        used, named = ((mask[:, None] >> bits) & 1 == 1 for mask in (words.used, located))
        for counted, which in (
            (self._used, used),
            (self._wrong, used & wrong),
            (self._located, named),
            (self._found, named & wrong),
        ):
            counted[words.query] = which.sum(1)
        return Counts(self._used, self._wrong, self._located, self._found)

    def _within(self, outputs: Tensor, given: Givers, keys: Ints, inputs: Callable[[Tensor], Tensor]) -> Tensor:
        """Return `outputs` with the wrong ones in place."""
        mark = given.mark.reshape(-1)
        places = np.flatnonzero(mark)
        if not len(places):
            return outputs
        at = torch.from_numpy(places).to(outputs.device)
        flat = outputs.reshape(-1, outputs.shape[-1]).clone()
        which = (mark[places], given.instance.reshape(-1)[places], keys.reshape(-1)[places])
        flat[at] = self._corrupted(flat[at], *which, lambda some: inputs(at[some]))
        return flat.reshape(outputs.shape)

    def _corrupted(
        self, right: Tensor, mark: Ints, instance: Ints, keys: Ints, inputs: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return wrong answers, (n, c), by the cause of each."""
        wrong = right.clone()
        for number, cause in enumerate(self._causes.causes):
            mine = np.flatnonzero(mark == number + 1)
            if not len(mine):
                continue
            at = torch.from_numpy(mine).to(right.device)
            outputs = right[at]
            if isinstance(cause, StaleModel):
                module = self._causes.others[number]
                self._backend.settle(module, lambda at=at: inputs(at[:1024]))  # type: ignore[misc]
                outputs = self._backend.outputs(module, len(mine), lambda chunk, at=at: inputs(at[chunk]))  # type: ignore[misc]
            of_instance = mixed(self._base[number] + instance[mine].astype(np.uint64))
            draws = Draws(mixed(of_instance + keys[mine].astype(np.uint64)), of_instance)
            wrong[at] = cause.corrupt(outputs, draws).to(wrong.dtype)
        return wrong


def _voted(trace: Trace) -> Ints:
    """Return the queries whose reply was voted for."""
    queries = trace.queries
    return np.flatnonzero((queries.used != 0) & np.isin(queries.route, COPIES))


def _ballots(trace: Trace) -> Ints:
    """Return `used` of each batch; a query of it may have a default answer, and with that none."""
    return np.maximum.reduceat(trace.queries.used, trace.batches.first)


def _votes(trace: Trace) -> tuple[Ints, Ints, Ints, Ints]:
    """Return for each batch its answers in the vote, the wrong ones, the outvoted ones, and those that are both."""
    tasks = trace.tasks
    assert tasks.wrong is not None
    done = np.flatnonzero((tasks.fate == TaskStatus.DONE) & (tasks.role == Role.DEPLOYED))
    done = done[tasks.attempt[done] < LARGEST_VOTE]
    owner, attempt = tasks.owner[done], tasks.attempt[done].astype(np.int64)
    used = _ballots(trace)[owner]
    won, lost = (used >> attempt) & 1 == 1, (used >> (LARGEST_VOTE + attempt)) & 1 == 1
    wrong = tasks.wrong[done] != 0

    def count(which: Flags) -> Ints:
        return np.bincount(owner[which], minlength=len(trace.batches)).astype(np.int64)

    return count(won | lost), count((won | lost) & wrong), count(lost), count(lost & wrong)


def _take_winners(chosen: Givers, trace: Trace, voted: Ints) -> None:
    """Let the first copy on the winning side have given the answer of each batch that was voted on."""
    batch = np.unique(trace.queries.batch[voted])
    if not len(batch):
        return
    tasks = trace.tasks
    assert tasks.wrong is not None
    won = _ballots(trace)[batch] & ((1 << LARGEST_VOTE) - 1)
    winner = np.log2((won & -won).clip(1)).astype(np.int64)
    of_winner = np.full(len(trace.batches), -1, dtype=np.int64)
    of_winner[batch] = winner
    done = np.flatnonzero((tasks.fate == TaskStatus.DONE) & (tasks.role == Role.DEPLOYED))
    done = done[tasks.attempt[done] == of_winner[tasks.owner[done]]]
    chosen.take(tasks.owner[done], tasks.instance[done], tasks.wrong[done])
