"""What corrupt instances answer, kind by kind; and all answers of small simulations against a loop over the queries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from backends.answers import Answers, Predictor
from backends.corruption import (
    Adversarial,
    BitFlips,
    ConstantClass,
    Draws,
    Noise,
    RandomClass,
    StaleModel,
    TensorCorruption,
    mixed,
    uniforms,
)
from backends.torch_backend import TorchBackend
from backends.wrong import Causes
from parity.codes import Addition, Approxifer, Nercc, TensorCode
from sim.cluster import Cluster
from sim.corruption import Corruption
from sim.distributions.families import Exponential
from sim.errors import ParmError
from sim.policies import ApproximateBackup, Coded, CodedNonsystematic, Hedged, Policy, Replication, Uncoded
from sim.policies.replication import Vote
from sim.simulation import simulate
from sim.stragglers import PerTask
from sim.streams import Streams
from sim.trace import LARGEST_VOTE, Role, Route, TaskStatus, Trace
from tests.worlds import poisson

N, CLASSES, SAMPLES = 500, 8, 40


def draws(n: int = N, instances: int = 3) -> Draws:
    of_instance = mixed(np.arange(n, dtype=np.uint64) % np.uint64(instances))
    return Draws(mixed(of_instance + np.arange(n, dtype=np.uint64)), of_instance)


@pytest.fixture
def outputs() -> Tensor:
    return torch.randn(N, CLASSES, generator=torch.Generator().manual_seed(0)) * 4


EVERY: list[TensorCorruption] = [
    RandomClass(),
    ConstantClass(),
    ConstantClass(answer=2),
    Adversarial(towards=5),
    BitFlips(),
    BitFlips(flips=3),
    Noise(),
]


@pytest.mark.parametrize("cause", EVERY, ids=str)
def test_every_wrong_answer_differs_from_the_right_one_and_depends_on_its_key_alone(
    cause: TensorCorruption, outputs: Tensor
) -> None:
    wrong = cause.corrupt(outputs, draws())
    assert wrong.shape == outputs.shape and wrong.dtype == outputs.dtype
    assert bool((wrong != outputs).any(1).all())
    assert bool(wrong.isfinite().all())
    some = np.arange(3, N, 7)
    alone = Draws(draws().answers[some], draws().instances[some])
    assert torch.equal(cause.corrupt(outputs[some], alone), wrong[some])


def test_numbers_are_uniform_and_equal_for_equal_keys() -> None:
    numbers = uniforms(mixed(np.arange(20_000, dtype=np.uint64)), 3)
    assert numbers.min() >= 0 and numbers.max() < 1
    for column in numbers.T:
        assert np.abs(np.histogram(column, 20, (0, 1))[0] - 1000).max() < 5 * np.sqrt(950)
    assert np.abs(np.corrcoef(numbers.T) - np.eye(3)).max() < 0.03
    assert len(np.unique(uniforms(np.full(4, 7, dtype=np.uint64), 2), axis=0)) == 1


def test_a_random_class_is_any_other_and_outputs_are_only_exchanged(outputs: Tensor) -> None:
    wrong = RandomClass().corrupt(outputs, draws())
    assert torch.equal(wrong.sort(1).values, outputs.sort(1).values)
    shifts = (wrong.argmax(1) - outputs.argmax(1)) % CLASSES
    assert set(shifts.tolist()) == set(range(1, CLASSES))


def test_a_stuck_instance_has_one_class(outputs: Tensor) -> None:
    classes = ConstantClass().corrupt(outputs, draws()).argmax(1).numpy()
    assert all(len(set(classes[instance::3])) == 1 for instance in range(3))
    assert set(ConstantClass(answer=6, score=2.0).corrupt(outputs, draws()).argmax(1).tolist()) == {6}
    assert ConstantClass(answer=6).alike and not ConstantClass().alike


def test_an_adversary_raises_its_class_and_nothing_else(outputs: Tensor) -> None:
    wrong = Adversarial(towards=3, margin=0.5).corrupt(outputs, draws())
    assert torch.allclose(wrong[:, 3], outputs.amax(1) + 0.5)
    others = [one for one in range(CLASSES) if one != 3]
    assert torch.equal(wrong[:, others], outputs[:, others])
    with pytest.raises(ParmError, match="no class 9 to answer wrongly with: the model has 8"):
        Adversarial(towards=9).corrupt(outputs, draws())


def test_one_bit_is_flipped_and_noise_has_its_deviation(outputs: Tensor) -> None:
    wrong = BitFlips().corrupt(outputs, draws())
    changed = wrong != outputs
    assert bool((changed.sum(1) == 1).all())
    before, after = (one[changed].numpy().view(np.uint32) for one in (outputs, wrong))
    flipped = np.array([int(one).bit_count() for one in before ^ after])
    assert np.mean(flipped == 1) > 0.9  # others were not finite, or too large
    added = Noise(deviation=3.0).corrupt(outputs, draws()) - outputs
    assert float(added.std()) == pytest.approx(3.0, rel=0.05)
    assert abs(float(added.mean())) < 0.2


class Little:
    """Untrained models on noise, and all answers of a simulation, one query after the other."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        torch.set_num_threads(1)
        self.images = torch.randn(SAMPLES, 1, 4, 4)
        self.labels = np.random.default_rng(1).integers(0, CLASSES, SAMPLES)
        self.deployed, self.backup, self.stale, *self.parities = (
            nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, CLASSES)).eval() for _ in range(5)
        )

    def simulate(self, policy: Policy, causes: Sequence[Corruption], queries: int = 200) -> Trace:
        self.streams = Streams(11)
        cluster = Cluster(instances=5, extra=3, service=Exponential(mean=0.02))
        slow = [PerTask(slowdown=8.0, probability=0.15)]
        return simulate(cluster, policy, slow, poisson(90.0, queries, self.streams), self.streams, corruption=causes)

    def samples(self, trace: Trace) -> NDArray[np.int64]:
        return np.random.default_rng(2).integers(0, SAMPLES, len(trace.queries))

    def answer(self, trace: Trace, causes: Sequence[TensorCorruption], code: TensorCode | None = None) -> Answers:
        predictor = Predictor(TorchBackend("cpu"), self.deployed, self.images, self.labels, default_answer=0)
        parities = [self.deployed] * trace.r if code is not None and code.answered_by == "deployed" else self.parities
        others = {number: self.stale for number, one in enumerate(causes) if isinstance(one, StaleModel)}
        known = Causes(causes, self.streams, others)
        return predictor.answer(trace, self.samples(trace), code, parities, self.backup, known)

    def given(self, trace: Trace, task: int, module: nn.Module, query: Tensor, causes: Sequence[Corruption]) -> Tensor:
        """Return what a task answered to a query (*shape)."""
        assert trace.tasks.wrong is not None
        mark = int(trace.tasks.wrong[task])
        with torch.no_grad():
            right = module(query[None])
            if mark == 0:
                return right[0]
            cause = causes[mark - 1]
            if isinstance(cause, StaleModel):
                return self.stale(query[None])[0]
            assert isinstance(cause, (Adversarial, ConstantClass))
            return cause.corrupt(right, draws(1))[0]

    def first(self, trace: Trace, owner: int, role: Role, row: int = 0) -> int:
        tasks = trace.tasks
        done = (tasks.fate == TaskStatus.DONE) & (tasks.role == role) & (tasks.row == row) & (tasks.owner == owner)
        mine = np.flatnonzero(done)
        return int(mine[tasks.back[mine].argmin()])

    def loop(
        self, trace: Trace, causes: Sequence[Corruption], code: TensorCode | None
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the class that each client got, and how many answers were used and how many of them were wrong."""
        assert trace.tasks.wrong is not None
        samples, classes, counts = self.samples(trace), [], []
        for query in range(len(trace.queries)):
            route, used = trace.queries.route[query], int(trace.queries.used[query])
            carried = self.images[samples[query]]
            if route in (Route.OWN, Route.REPLICA, Route.BACKUP):
                role = Role.BACKUP if route == Route.BACKUP else Role.DEPLOYED
                tasks = [self.first(trace, query, role)]
                if used:
                    mine = np.flatnonzero((trace.tasks.owner == query) & (trace.tasks.fate == TaskStatus.DONE))
                    bits = {int(trace.tasks.attempt[one]): int(one) for one in mine}
                    tasks = [bits[bit] for bit in range(LARGEST_VOTE) if used >> bit & 1]
                    tasks += [bits[bit] for bit in range(LARGEST_VOTE) if used >> (LARGEST_VOTE + bit) & 1]
                module = self.backup if role == Role.BACKUP else self.deployed
                outputs = self.given(trace, tasks[0], module, carried, causes)
            else:
                assert route == Route.RECONSTRUCTION and code is not None
                group, k = int(trace.group[query]), trace.k
                members = np.flatnonzero(trace.group == group)
                inputs = self.images[samples[members]]
                own, coded = torch.full((k, CLASSES), torch.nan), torch.full((trace.r, CLASSES), torch.nan)
                tasks = []
                for bit in range(k + trace.r):
                    if used >> bit & 1 and bit < k:
                        tasks.append(self.first(trace, int(members[bit]), Role.DEPLOYED))
                        own[bit] = self.given(trace, tasks[-1], self.deployed, inputs[bit], causes)
                    elif used >> bit & 1:
                        row = bit - k
                        tasks.append(self.first(trace, group, Role.PARITY, row))
                        module = self.deployed if code.answered_by == "deployed" else self.parities[row]
                        mixed_in = code.encode(inputs[None], trace.r)[0, row]
                        coded[row] = self.given(trace, tasks[-1], module, mixed_in, causes)
                returned = torch.tensor([used])
                located = 0
                if isinstance(code, (Approxifer, Nercc)) and code.errors:
                    located = int(code.located(coded[None], returned, k)[0])
                outputs = code.decode(own[None], coded[None], returned & ~located)[0, trace.slot[query]]
            classes.append(int(outputs.argmax()))
            counts.append((len(tasks), int((trace.tasks.wrong[tasks] != 0).sum())))
        return classes, counts


CAUSES: list[list[TensorCorruption]] = [
    [Adversarial(towards=2, instances=3)],
    [ConstantClass(answer=1, instances=2, after=Exponential(mean=0.5)), StaleModel(instances=2)],
]


@pytest.mark.parametrize("causes", CAUSES, ids=["adversarial", "stuck and stale"])
@pytest.mark.parametrize(
    ("policy", "code"),
    [
        (Uncoded(), None),
        (Hedged(after=0.03, copies=3), None),
        (Replication(copies=3, vote=Vote()), None),
        (Replication(copies=2, vote=Vote(tie="another")), None),
        (ApproximateBackup(after=0.03), None),
        (Coded(k=2), Addition()),
        (Coded(k=3, r=2), Addition()),
        (CodedNonsystematic(k=4, code=Approxifer()), Approxifer()),
        (CodedNonsystematic(k=4, code=Approxifer(errors=2)), Approxifer(errors=2)),
        (CodedNonsystematic(k=4, code=Nercc(errors=1)), Nercc(errors=1)),
    ],
    ids=lambda one: None if one is None or isinstance(one, TensorCode) else one.kind,
)
def test_every_answer_is_that_of_a_loop_over_the_queries(
    policy: Policy, code: TensorCode | None, causes: list[TensorCorruption]
) -> None:
    little = Little()
    trace = little.simulate(policy, causes)
    answers = little.answer(trace, causes, code)
    classes, counts = little.loop(trace, causes, code)
    assert answers.answer.tolist() == classes
    found = answers.wrong
    assert found is not None
    assert list(zip(found.used.tolist(), found.wrong.tolist(), strict=True)) == counts
    assert found.wrong.sum() > 20
    assert np.all(found.found <= np.minimum(found.wrong, found.located))
    assert np.all(found.located <= found.used)


def test_who_is_outvoted_is_located() -> None:
    little, causes = Little(), [RandomClass(instances=2)]
    trace = little.simulate(Replication(copies=3, vote=Vote()), causes)
    found = little.answer(trace, causes).wrong
    assert found is not None
    one, two = found.wrong == 1, found.wrong == 2
    assert one.sum() > 20
    compared = one & (found.used == 3)
    assert np.array_equal(found.located[compared], found.found[compared])
    assert np.all(found.located[compared] == 1)
    assert np.all(found.used[one & ~compared] == 0) and two.any()


def test_a_located_answer_cannot_leak_into_what_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    code, little, causes = Approxifer(errors=2), Little(), [Adversarial(instances=2)]
    trace = little.simulate(CodedNonsystematic(k=4, code=code), causes)
    decode, decoded = Approxifer.decode, 0

    def spy(self: Approxifer, own: Tensor, parities: Tensor, returned: Tensor) -> Tensor:
        nonlocal decoded
        bits = torch.arange(own.shape[1], own.shape[1] + parities.shape[1])
        there = (returned[:, None] >> bits) & 1 == 1
        assert torch.equal(~parities.isnan().all(2), there)
        assert bool((there.sum(1) == 2 * (4 + 2) - 2).all())  # e of the 2 (k + e) answers are left out
        decoded += len(returned)
        return decode(self, own, parities, returned)

    monkeypatch.setattr(Approxifer, "decode", spy)
    little.answer(trace, causes, code)
    assert decoded > 0


def test_the_same_trace_and_seed_give_the_same_wrong_answers_and_another_trial_others() -> None:
    little, causes = Little(), [RandomClass(instances=4)]
    trace = little.simulate(Uncoded(), causes)
    one, same = (little.answer(trace, causes).answer for _ in range(2))
    assert np.array_equal(one, same)
    little.streams = Streams(11, 1)
    assert np.mean(little.answer(trace, causes).answer != one) > 0.2


def test_a_trace_without_marks_is_refused() -> None:
    little = Little()
    trace = little.simulate(Uncoded(), [])
    with pytest.raises(ValueError, match="does not say which answers are wrong"):
        little.answer(trace, [RandomClass()])
