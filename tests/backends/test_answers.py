"""Deferred answers of small traces made by hand, against a loop over the queries and a plain linear solve."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import backends.answers
from backends.answers import Answers, Predictor
from backends.reconstruction import reconstructed_words
from backends.runner import Gather
from backends.torch_backend import TorchBackend
from parity.codes import Addition, Exact
from parity.codes.base import TensorCode
from parity.codes.berrut import Approxifer
from parity.codes.nercc import Nercc
from sim.errors import ParmError
from sim.trace import UNAVAILABLE, Batches, Queries, Route, Tasks, Trace

SAMPLES, CLASSES, DEFAULT = 60, 8, 3


def make_trace(
    batches: Sequence[tuple[int, int, int]], replies: dict[int, tuple[Route, int]], k: int = 0, r: int = 0
) -> Trace:
    """Build a trace of batches (size, group, slot); each query's route is OWN unless `replies` gives (route, used)."""
    size, group, slot = (np.array(column) for column in zip(*batches, strict=True))
    n = int(size.sum())
    route, used, zeros = np.zeros(n, dtype=np.uint8), np.zeros(n, dtype=np.int64), np.zeros(n)
    for query, (how, mask) in replies.items():
        route[query], used[query] = how, mask
    batch = np.repeat(np.arange(len(size)), size).astype(np.int32)
    first = np.cumsum(size) - size
    return Trace(
        queries=Queries(zeros, zeros, zeros, route, batch, used),
        batches=Batches(first, size.astype(np.int32), group.astype(np.int32), slot.astype(np.int8)),
        tasks=Tasks(*[np.empty(0)] * 13),
        k=k,
        r=r,
        instances=1,
        end=0.0,
        bytes=0,
    )


def random_trace(k: int, r: int, seed: int, groups: int = 12) -> Trace:
    """Make full groups, interleaved, of batches of differing size, with every route and every mask of k answers."""
    generator = np.random.default_rng(seed)
    batches = [(int(generator.integers(1, 5)), group, slot) for group in range(groups) for slot in range(k)]
    generator.shuffle(batches)
    replies: dict[int, tuple[Route, int]] = {}
    query = 0
    for size, _, slot in batches:
        masks = [sum(1 << bit for bit in bits) for bits in itertools.combinations(range(k + r), k) if slot not in bits]
        for _ in range(size):
            route = Route(generator.choice(5, p=[0.3, 0.4, 0.1, 0.1, 0.1]))
            replies[query] = (route, int(generator.choice(masks)) if route == Route.RECONSTRUCTION else 0)
            query += 1
    return make_trace(batches, replies, k, r)


class CountingBackend(TorchBackend):
    """Counts by itself how many samples each module was run on."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.seen: dict[nn.Module, int] = {}

    def outputs(self, module: nn.Module, rows: int, gather: Gather) -> Tensor:
        self.seen[module] = self.seen.get(module, 0) + rows
        return super().outputs(module, rows, gather)


class World:
    """A data set of noise, a deployed model, two parity models and a backup, all untrained."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        torch.set_num_threads(1)
        self.images = torch.randn(SAMPLES, 1, 4, 4)
        self.labels = np.random.default_rng(1).integers(0, CLASSES, SAMPLES)
        self.deployed, *self.parities, self.backup = (
            nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, CLASSES)).eval() for _ in range(4)
        )
        self.backend = CountingBackend()
        self.predictor = self.new_predictor()

    def new_predictor(self) -> Predictor:
        return Predictor(self.backend, self.deployed, self.images, self.labels, default_answer=DEFAULT)

    def answer(self, trace: Trace, samples: NDArray[np.int64], code: Addition | None) -> Answers:
        return self.predictor.answer(trace, samples, code, self.parities, self.backup)

    def output(self, module: nn.Module, image: Tensor) -> NDArray[np.float64]:
        with torch.no_grad():
            return module(image[None])[0].numpy().astype(np.float64)

    def loop(self, trace: Trace, samples: NDArray[np.int64], code: Addition) -> list[tuple[int, bool, bool, bool]]:
        """Return (answer, correct, agrees, top5) of each query, one query at a time."""
        rows = []
        for query, sample in enumerate(samples):
            own = self.output(self.deployed, self.images[sample])
            route, outputs = trace.queries.route[query], own
            if route == Route.BACKUP:
                outputs = self.output(self.backup, self.images[sample])
            if route == Route.DEFAULT:
                outputs = np.eye(CLASSES)[DEFAULT]
            if route == Route.RECONSTRUCTION:
                outputs = self.reconstruct(trace, samples, code, query)
            label = self.labels[sample]
            best = set(np.argsort(-outputs)[: 1 if route == Route.DEFAULT else 5])
            answer = int(outputs.argmax())
            rows.append((answer, answer == label, answer == own.argmax(), label in best))
        return rows

    def reconstruct(self, trace: Trace, samples: NDArray[np.int64], code: Addition, query: int) -> NDArray[np.float64]:
        b, k, mask = trace.batches, trace.k, int(trace.queries.used[query])
        batch = trace.queries.batch[query]
        position = query - b.first[batch]
        members = []
        for slot in range(k):
            (peer,) = np.flatnonzero((b.group == b.group[batch]) & (b.slot == slot))
            members.append(int(samples[b.first[peer] + min(position, b.size[peer] - 1)]))
        weights = np.asarray(code.matrix(k, trace.r))
        true = np.stack([self.output(self.deployed, self.images[sample]) for sample in members])
        equations, right = [], []
        for slot in range(k):
            if mask >> slot & 1:
                equations.append(np.eye(k)[slot])
                right.append(true[slot])
        for row in range(trace.r):
            if mask >> (k + row) & 1:
                mixed = sum(float(w) * self.images[sample] for w, sample in zip(weights[row], members, strict=True))
                equations.append(weights[row])
                right.append(
                    self.output(self.parities[row], mixed) if code.answered_by != "oracle" else weights[row] @ true
                )
        solved: NDArray[np.float64] = np.linalg.solve(np.array(equations), np.array(right))
        return solved[b.slot[batch]]


@pytest.fixture
def world() -> World:
    return World()


def draw(trace: Trace, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, SAMPLES, len(trace.queries))


@pytest.mark.parametrize("code", [Addition(), Exact()], ids=["addition", "exact"])
@pytest.mark.parametrize(("k", "r"), [(2, 1), (2, 2), (3, 1), (3, 2), (4, 1)])
def test_every_route_is_answered_as_by_a_loop_over_the_queries(
    world: World, code: Addition, k: int, r: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = random_trace(k, r, seed=10 * k + r)
    samples = draw(trace)
    answers = world.answer(trace, samples, code)
    found = zip(answers.answer, answers.correct, answers.agrees, answers.top5, strict=True)
    assert [tuple(row) for row in found] == world.loop(trace, samples, code)
    assert answers.answer.dtype == np.int16
    monkeypatch.setattr(backends.answers, "VALUES_PER_CHUNK", 3 * (k + r) * CLASSES)
    assert np.array_equal(world.answer(trace, samples, code).answer, answers.answer)


@pytest.mark.parametrize("r", [1, 2])
def test_exact_parity_outputs_give_back_the_deployed_models_answer_without_a_parity_pass(world: World, r: int) -> None:
    trace = random_trace(3, r, seed=4)
    answers = world.answer(trace, draw(trace), Exact())
    lost = trace.queries.route == Route.RECONSTRUCTION
    assert lost.sum() > 10
    assert answers.agrees[lost].all()
    assert answers.passes["parity"] == answers.reused["parity"] == 0
    assert not set(world.parities) & set(world.backend.seen)


def test_a_batch_too_short_is_padded_by_its_last_query() -> None:
    lost = (Route.RECONSTRUCTION, 0b101)
    trace = make_trace([(3, 0, 1), (9, -1, -1), (2, 0, 0)], {0: lost, 1: lost, 2: lost}, k=2, r=1)
    assert reconstructed_words(trace).members.tolist() == [[12, 0], [13, 1], [13, 2]]


def test_losses_that_share_a_word_share_its_parity_passes(world: World) -> None:
    lost = Route.RECONSTRUCTION
    # Group 0, k = 2: both slots lost at position 0, by rows 0 and 1 together; at position 1 slot 0 by row 1 alone.
    # Group 1: slot 0 by row 0. Its slot 1 has one query, so position 1 repeats it.
    replies = {0: (lost, 0b1100), 2: (lost, 0b1100), 1: (lost, 0b1010), 4: (lost, 0b0110), 5: (lost, 0b0110)}
    trace = make_trace([(2, 0, 0), (2, 0, 1), (2, 1, 0), (1, 1, 1)], replies, k=2, r=2)
    answers = world.answer(trace, np.arange(7), Addition())
    assert answers.passes == {"deployed": 7, "parity": 5, "backup": 0}
    assert answers.reused == {"deployed": 0, "parity": 2, "backup": 0}
    assert [world.backend.seen[module] for module in world.parities] == [3, 2]


def test_the_passes_are_counted_as_they_are_made_and_outputs_are_kept_from_call_to_call(world: World) -> None:
    traces = [random_trace(2, 2, seed) for seed in (1, 2, 3)]
    spent = dict.fromkeys(("deployed", "parity", "backup"), 0)
    for seed, trace in enumerate(traces):
        samples = draw(trace, seed)
        answers = world.answer(trace, samples, Addition())
        assert answers.passes["deployed"] + answers.reused["deployed"] == len(np.unique(samples))
        backed = np.unique(samples[trace.queries.route == Route.BACKUP])
        assert answers.passes["backup"] + answers.reused["backup"] == len(backed)
        q = trace.queries
        used = {
            (trace.group[i], trace.position[i], row)
            for i in np.flatnonzero(q.route == Route.RECONSTRUCTION)
            for row in range(2)
            if q.used[i] >> (2 + row) & 1
        }
        assert answers.passes["parity"] == len(used)
        spent = {role: spent[role] + answers.passes[role] for role in spent}
        seen = world.backend.seen
        assert spent["deployed"] == seen[world.deployed] <= SAMPLES
        assert spent["parity"] == sum(seen[module] for module in world.parities)
        assert spent["backup"] == seen[world.backup]
    again = world.answer(traces[0], draw(traces[0], 0), Addition())
    assert again.passes == {"deployed": 0, "parity": 0, "backup": 0}
    assert again.reused["parity"] > 0
    fresh = world.new_predictor().answer(traces[0], draw(traces[0], 0), Addition(), world.parities, world.backup)
    for field in ("answer", "correct", "agrees", "top5"):
        assert np.array_equal(getattr(again, field), getattr(fresh, field)), (
            "an answer depends on what was asked before"
        )


@pytest.mark.parametrize(
    ("first", "second"),
    [((Approxifer(), 3), (Approxifer(), 4)), ((Approxifer(), 3), (Nercc(), 3)), ((Nercc(), 4), (Approxifer(), 3))],
    ids=["another r", "another code", "both"],
)
def test_answers_to_words_that_were_encoded_in_another_way_are_not_taken(
    world: World, first: tuple[TensorCode, int], second: tuple[TensorCode, int]
) -> None:
    """The deployed model answers coded queries of the same samples, but not the same queries."""
    answers = []
    for predictor in (world.predictor, world.new_predictor()):
        for code, r in (first, second) if predictor is world.predictor else (second,):
            lost = Route.RECONSTRUCTION, (2**r - 1) << 2
            batches = [(1, group, slot) for group in range(20) for slot in range(2)]
            trace = make_trace(batches, dict.fromkeys(range(40), lost), k=2, r=r)
            found = predictor.answer(trace, draw(trace), code, [world.deployed] * r)
        answers.append(found)
    assert answers[0].passes["parity"] == answers[1].passes["parity"] > 0
    for field in ("answer", "correct", "agrees", "top5"):
        assert np.array_equal(getattr(answers[0], field), getattr(answers[1], field))


def test_the_decoder_never_sees_what_had_not_returned(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = Addition.decode
    watched: list[int] = []

    def watching(code: Addition, outputs: Tensor, parities: Tensor, returned: Tensor) -> Tensor:
        both = torch.cat([outputs, parities], dim=1)
        bits = (returned[:, None] >> torch.arange(both.shape[1])) & 1 == 1
        assert torch.equal(~both.isnan().any(dim=2), bits)
        watched.append(len(returned))
        return decode(code, outputs, parities, returned)

    monkeypatch.setattr(Addition, "decode", watching)
    trace = random_trace(3, 2, seed=8)
    world.answer(trace, draw(trace), Addition())
    assert sum(watched) == (trace.queries.route == Route.RECONSTRUCTION).sum()


def test_promise_9_overall_accuracy_is_the_mixture_of_available_and_degraded_accuracy(world: World) -> None:
    trace = random_trace(2, 1, seed=5, groups=60)
    samples = draw(trace)
    with torch.no_grad():
        own = world.deployed(world.images).argmax(dim=1).numpy()
    world.labels[::2] = own[::2]  # so that being available is worth something
    answers = world.answer(trace, samples, Addition())
    unavailable = np.isin(trace.queries.route, UNAVAILABLE)
    truth = world.labels[samples]
    # A_a from the deployed model alone and A_d from the slow loop, neither from the counts of the answers.
    accuracy_available = np.mean((own[samples] == truth)[~unavailable])
    looped = np.array([row[0] for row in world.loop(trace, samples, Addition())])
    accuracy_degraded = np.mean((looped == truth)[unavailable])
    f = unavailable.mean()
    assert 0.2 < f < 0.8
    assert accuracy_degraded < accuracy_available - 0.1
    overall = (1 - f) * accuracy_available + f * accuracy_degraded
    assert answers.correct.mean() == pytest.approx(overall, abs=1e-12)


def test_a_trace_without_redundancy_needs_neither_code_nor_parities(world: World) -> None:
    trace = make_trace([(5, -1, -1), (3, -1, -1)], {2: (Route.REPLICA, 0), 4: (Route.DEFAULT, 0)})
    samples = np.array([7, 7, 8, 9, 7, 1, 2, 9])
    answers = world.predictor.answer(trace, samples)
    assert answers.passes == {"deployed": 5, "parity": 0, "backup": 0}
    available = np.arange(8) != 4
    assert answers.agrees[available].all()
    assert answers.answer[4] == DEFAULT
    assert answers.top5[4] == answers.correct[4] == (world.labels[7] == DEFAULT)


def test_what_an_answer_lacks_is_said(world: World) -> None:
    coded = make_trace([(1, 0, 0), (1, 0, 1)], {0: (Route.RECONSTRUCTION, 0b110)}, k=2, r=1)
    samples = np.array([0, 1])
    with pytest.raises(ValueError, match="they need the code and 1 parity models"):
        world.predictor.answer(coded, samples)
    with pytest.raises(ValueError, match="they need the code and 1 parity models"):
        world.predictor.answer(coded, samples, Addition())
    with pytest.raises(ValueError, match="2 queries, but 1 samples"):
        world.predictor.answer(coded, samples[:1])
    backed = make_trace([(2, -1, -1)], {1: (Route.BACKUP, 0)})
    with pytest.raises(ValueError, match="no backup model was given"):
        world.predictor.answer(backed, samples)
    for batches, sentence in (
        ([(1, 0, 0)], "never full"),
        ([(1, -1, -1)], "outside any coding group"),
        ([(1, 0, 1), (1, 1, 0)], "never full"),
    ):
        partial = make_trace(batches, {0: (Route.RECONSTRUCTION, 0b110)}, k=2, r=1)
        with pytest.raises(ValueError, match=sentence):
            world.answer(partial, samples[: len(batches)], Addition())
    with pytest.raises(ValueError, match="60 images but 3 labels"):
        Predictor(world.backend, world.deployed, world.images, world.labels[:3], default_answer=0)


def test_a_model_that_answers_nan_is_refused(world: World) -> None:
    trace = make_trace([(1, 0, 0), (1, 0, 1)], {0: (Route.RECONSTRUCTION, 0b110)}, k=2, r=1)
    nn.init.constant_(world.parities[0][3].bias, torch.nan)
    with pytest.raises(ParmError, match="a reconstruction is not finite"):
        world.answer(trace, np.array([0, 1]), Addition())
    nn.init.constant_(world.deployed[3].bias, torch.nan)
    with pytest.raises(ParmError, match="the deployed model answers with numbers that are not finite"):
        world.new_predictor().answer(trace, np.array([0, 1]), Addition(), world.parities)
