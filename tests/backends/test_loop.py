"""Hardware in the loop against deferred answers on the same traces, and against a clock that the tests hold."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from backends.answers import Answers, Predictor
from backends.loop import WARM_UP, HardwareInTheLoop
from backends.reconstruction import reconstructed_words
from backends.runner import Gather
from backends.torch_backend import TorchBackend
from parity.codes import Addition, Exact, LinearCode
from sim.batching import Fixed
from sim.cluster import Cluster
from sim.distributions.families import Deterministic
from sim.errors import ParmError
from sim.policies import ApproximateBackup, Coded, Policy, Replication, Uncoded
from sim.schedule import OpenSchedule
from sim.simulation import simulate
from sim.stragglers import Crashes, Heterogeneous, PerTask, Straggler
from sim.stragglers.base import ServiceModifier
from sim.streams import Streams
from sim.task import Task
from sim.trace import Role, Route, TaskStatus, Trace

SAMPLES, CLASSES, DEFAULT = 60, 8, 3
QUERIES = 106
"""36 batches of three, the last one of a single query; 36 is whole coding groups of two and of three."""
LATE = PerTask(slowdown=Deterministic(value=40.0), probability=0.25)
POLICIES: dict[str, Policy] = {
    "none": Uncoded(),
    "replication": Replication(copies=2, cancel="nothing"),
    "coded 2+1": Coded(k=2, r=1),
    "coded 3+2": Coded(k=3, r=2),
    "backup": ApproximateBackup(after=0.03, cancel="nothing"),
}
BATCHINGS = {
    "single": Fixed(),
    "threes": Fixed(size=3, formed_at="frontend", max_wait=10.0),
    "impatient": Fixed(size=3, max_wait=0.011, formed_at="frontend"),
}


class FakeClock:
    """A wall clock on which every pass takes 10 to 20 ms, drawn anew; remembers them in the order they were run."""

    def __init__(self) -> None:
        self.now = 0.0
        self.took: list[float] = []
        self._generator = np.random.default_rng(2)
        self._serving = False

    def __call__(self) -> float:
        if self._serving:
            self.took.append(float(self._generator.uniform(0.01, 0.02)))
            self.now += self.took[-1]
        else:
            self.now += 1000.0  # what passes between timed passes is nobody's service time
        self._serving = not self._serving
        return self.now


class CountingBackend(TorchBackend):
    """Counts by itself how many samples each module was run on, and keeps what the last service gave."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.seen: dict[nn.Module, int] = {}
        self.latest = torch.empty(0)

    def serve(self, module: nn.Module, inputs: Tensor) -> tuple[Tensor, float]:
        self.seen[module] = self.seen.get(module, 0) + len(inputs)
        self.latest, seconds = super().serve(module, inputs)
        return self.latest, seconds

    def outputs(self, module: nn.Module, rows: int, gather: Gather) -> Tensor:
        self.seen[module] = self.seen.get(module, 0) + rows
        return super().outputs(module, rows, gather)


class World:
    """A data set of noise and a deployed, two parity and a backup model, all untrained."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        torch.set_num_threads(1)
        self.images = torch.randn(SAMPLES, 1, 4, 4)
        self.labels = np.random.default_rng(1).integers(0, CLASSES, SAMPLES)
        self.samples = np.random.default_rng(2).integers(0, SAMPLES, QUERIES)
        self.deployed, *self.parities, self.backup = (
            nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, CLASSES)).eval() for _ in range(4)
        )
        self.backend = CountingBackend()

    def loop(
        self,
        code: LinearCode | None = None,
        parities: Sequence[nn.Module] | None = None,
        backup: nn.Module | None = None,
    ) -> HardwareInTheLoop:
        return HardwareInTheLoop(
            self.backend,
            self.deployed,
            self.images,
            self.labels,
            self.samples,
            default_answer=DEFAULT,
            code=code,
            parities=self.parities if parities is None else parities,
            backup=backup,
        )

    def run(
        self,
        loop: HardwareInTheLoop,
        policy: Policy,
        *stragglers: Straggler,
        batching: Fixed = BATCHINGS["single"],
        deadline: float | None = None,
        instances: int = 5,
    ) -> Trace:
        cluster = Cluster(
            instances=instances,
            extra=3,
            service=Deterministic(value=1e6),  # unless it is measured, nothing ever ends
            batching=batching,
            deadline=deadline,
        )
        arrivals = OpenSchedule(np.cumsum(np.random.default_rng(3).exponential(0.01, QUERIES)))
        return simulate(cluster, policy, stragglers, arrivals, Streams(4), hardware=loop.modifier)

    def deferred(self, trace: Trace, code: LinearCode | None = None) -> Answers:
        predictor = Predictor(TorchBackend("cpu"), self.deployed, self.images, self.labels, default_answer=DEFAULT)
        return predictor.answer(trace, self.samples, code, self.parities, self.backup)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeClock]:
    fake = FakeClock()
    monkeypatch.setattr("backends.torch_backend.perf_counter", fake)
    yield fake
    assert not fake._serving


def assert_same(found: Answers, expected: Answers) -> None:
    for column in ("answer", "correct", "agrees", "top5"):
        assert np.array_equal(getattr(found, column), getattr(expected, column)), column
    assert found.answer.dtype == np.int16


def run_by(trace: Trace, role: Role) -> int:
    """Count the samples of the tasks of `role` that ever began."""
    begun = (trace.tasks.instance >= 0) & (trace.tasks.role == role)
    return int(trace.tasks.size[begun].sum())


def warmed_up(trace: Trace) -> int:
    """Count the passes that precede the first task of each size in each pool."""
    tasks = trace.tasks
    begun = tasks.instance >= 0
    return WARM_UP * len(set(zip(tasks.role[begun], tasks.row[begun], tasks.size[begun], strict=True)))


@pytest.mark.parametrize("deadline", [None, 0.05])
@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("name", POLICIES)
def test_promise_7_deferred_and_in_the_loop_predictions_agree(
    world: World, clock: FakeClock, name: str, batching: str, deadline: float | None
) -> None:
    policy = POLICIES[name]
    loop = world.loop(Addition() if policy.group[0] else None, backup=world.backup if name == "backup" else None)
    trace = world.run(loop, policy, LATE, batching=BATCHINGS[batching], deadline=deadline)
    seen = dict(world.backend.seen)
    answers = loop.answers(trace)
    deferred = world.deferred(trace, Addition())
    assert_same(answers, deferred)
    assert answers.reused["parity"] == deferred.reused["parity"]

    route = trace.queries.route
    assert (route == Route.RECONSTRUCTION).any() == (policy.group[0] > 0)
    assert (route == Route.REPLICA).any() == (name == "replication")
    assert (route == Route.BACKUP).any() == (name == "backup")
    assert (route == Route.DEFAULT).any() == (deadline is not None)
    if batching == "threes":
        assert trace.batches.size[-1] == 1

    # Nothing ran but tasks, their warm-up and, for `agrees`, samples that no task had run.
    tasks = run_by(trace, Role.DEPLOYED)
    ran = set(trace.tasks.owner[(trace.tasks.instance >= 0) & (trace.tasks.role == Role.DEPLOYED)].tolist())
    known = np.isin(trace.queries.batch, list(ran))
    extra = len(set(world.samples.tolist()) - set(world.samples[known].tolist()))
    others = {"parity": run_by(trace, Role.PARITY), "backup": run_by(trace, Role.BACKUP)}
    assert answers.passes == {"deployed": tasks + extra, **others}
    assert world.backend.seen[world.deployed] - seen[world.deployed] == extra
    warm_up = WARM_UP * sum(set(trace.tasks.size[trace.tasks.role == Role.DEPLOYED].tolist()))
    assert seen[world.deployed] == tasks + warm_up


def test_promise_7_holds_with_the_clock_on_the_wall(world: World) -> None:
    loop = world.loop(Addition())
    # Instance 0 takes longer than all arrivals together, whatever this machine's speed.
    trace = world.run(loop, Coded(k=2, r=1), Heterogeneous(factors=(1e6, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)))
    assert_same(loop.answers(trace), world.deferred(trace, Addition()))
    assert (trace.queries.route == Route.RECONSTRUCTION).any()
    assert (trace.tasks.finish > trace.tasks.start)[trace.tasks.instance >= 0].all()


def test_a_short_batchs_last_query_stands_in_for_those_it_lacks(world: World, clock: FakeClock) -> None:
    loop = world.loop(Addition())
    slow = PerTask(slowdown=Deterministic(value=40.0), probability=0.4)
    trace = world.run(loop, Coded(k=3, r=2), slow, batching=BATCHINGS["impatient"])
    words = reconstructed_words(trace)
    position = trace.position[words.query]
    stood_in = (trace.position[words.members[words.word]] < position[:, None]).any(axis=1)
    assert stood_in.sum() > 5
    assert_same(loop.answers(trace), world.deferred(trace, Addition()))


@pytest.mark.parametrize("k_r", [(2, 1), (3, 2)])
def test_a_code_without_parity_models_times_the_deployed_model_and_reconstructs_exactly(
    world: World, clock: FakeClock, k_r: tuple[int, int]
) -> None:
    loop = world.loop(Exact(), parities=())
    trace = world.run(loop, Coded(k=k_r[0], r=k_r[1], code=Exact()), LATE, batching=BATCHINGS["threes"])
    answers = loop.answers(trace)
    assert_same(answers, world.deferred(trace, Exact()))
    assert (trace.queries.route == Route.RECONSTRUCTION).sum() > 5
    assert answers.agrees.all()
    assert answers.passes["parity"] == run_by(trace, Role.PARITY) > 0
    assert not set(world.parities) & set(world.backend.seen)


@pytest.mark.parametrize("name", POLICIES)
def test_service_times_are_the_measured_ones(world: World, clock: FakeClock, name: str) -> None:
    trace = world.run(world.loop(Addition(), backup=world.backup), POLICIES[name], batching=BATCHINGS["threes"])
    begun = trace.tasks.instance >= 0
    service = (trace.tasks.finish - trace.tasks.start)[begun]
    # Tasks that begin at one instant run in the order of their submission, which the trace does not tell: so, as sets.
    measured = np.array(clock.took)
    nearest = np.abs(service[:, None] - measured).argmin(axis=1)
    assert np.allclose(service, measured[nearest], rtol=0, atol=1e-9)
    assert len(np.unique(nearest)) == len(service) == len(measured) - warmed_up(trace)
    assert not set(nearest) & set(range(WARM_UP)), "what warms up is not measured"


def test_stragglers_bend_the_measured_times(world: World, clock: FakeClock) -> None:
    factors = np.array([5.0, 1.0, 2.0, 1.0, 1.0])
    trace = world.run(world.loop(), Uncoded(), Heterogeneous(factors=tuple(factors)))
    order = np.argsort(trace.tasks.owner)  # one queue and no copies: tasks begin in the order of their batches
    service = (trace.tasks.finish - trace.tasks.start)[order]
    expected = np.array(clock.took[WARM_UP:]) * factors[trace.tasks.instance[order]]
    assert np.allclose(service, expected, rtol=0, atol=1e-9)
    assert len(np.unique(trace.tasks.instance)) == 5


@pytest.mark.parametrize("policy", [Replication(copies=2, cancel="nothing"), Coded(k=2, r=1)])
def test_every_copy_and_every_retry_really_runs_and_answers_alike(
    world: World, clock: FakeClock, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, modifier = world.loop(Addition()), HardwareInTheLoop.modifier
    ran: dict[tuple[Role, int], list[Tensor]] = {}

    def noting(self: HardwareInTheLoop, role: Role, row: int) -> ServiceModifier:
        run = modifier(self, role, row)

        def note(task: Task, instance: int, start: float, seconds: float) -> float:
            took = run(task, instance, start, seconds)
            ran.setdefault((role, task.owner.number), []).append(world.backend.latest)
            return took

        return note

    monkeypatch.setattr(HardwareInTheLoop, "modifier", noting)
    crashes = Crashes(mean_up=0.15, repair=Deterministic(value=0.05), detect=0.01)
    trace = world.run(loop, policy, LATE, crashes, batching=BATCHINGS["threes"])
    tasks = trace.tasks
    assert (tasks.fate == TaskStatus.LOST).sum() > 5
    assert len(clock.took) - warmed_up(trace) == (tasks.instance >= 0).sum() == sum(map(len, ran.values()))
    again = [outputs for outputs in ran.values() if len(outputs) > 1]
    assert len(again) > 5
    assert all(torch.equal(first, other) for first, *others in again for other in others)
    assert policy.group[0] == 0 or any(len(ran[key]) > 1 for key in ran if key[0] == Role.PARITY)
    answers = loop.answers(trace)
    assert answers.passes["deployed"] >= run_by(trace, Role.DEPLOYED)
    assert answers.passes["parity"] == run_by(trace, Role.PARITY)
    assert_same(answers, world.deferred(trace, Addition()))


def test_the_decoder_never_sees_what_had_not_returned(
    world: World, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = Addition.decode
    watched: list[int] = []

    def watching(code: Addition, outputs: Tensor, parities: Tensor, returned: Tensor) -> Tensor:
        both = torch.cat([outputs, parities], dim=1)
        assert torch.equal(~both.isnan().any(dim=2), (returned[:, None] >> torch.arange(both.shape[1])) & 1 == 1)
        watched.append(len(returned))
        return decode(code, outputs, parities, returned)

    monkeypatch.setattr(Addition, "decode", watching)
    loop = world.loop(Addition())
    trace = world.run(loop, Coded(k=3, r=2), LATE)
    loop.answers(trace)
    assert sum(watched) == (trace.queries.route == Route.RECONSTRUCTION).sum() > 5


def test_answers_come_from_what_ran_and_not_from_a_second_pass(world: World, clock: FakeClock) -> None:
    loop = world.loop(Addition())
    trace = world.run(loop, Coded(k=2, r=1), LATE)
    before = loop.answers(trace)
    for module in world.parities:
        nn.init.constant_(module[3].bias, torch.nan)
    seen = dict(world.backend.seen)
    assert_same(loop.answers(trace), before)
    assert all(world.backend.seen[module] == seen[module] for module in seen if module is not world.deployed)


def test_queries_whose_task_never_ran_are_compared_all_the_same(world: World, clock: FakeClock) -> None:
    loop = world.loop()
    trace = world.run(loop, Uncoded(), deadline=0.03, instances=1)
    never = trace.tasks.instance < 0
    assert never.sum() > 20
    answers = loop.answers(trace)
    assert answers.passes["deployed"] > run_by(trace, Role.DEPLOYED)
    assert answers.reused["deployed"] > 0
    assert_same(answers, world.deferred(trace))
    assert answers.agrees.any()


def test_what_the_hardware_lacks_is_said(world: World, clock: FakeClock) -> None:
    with pytest.raises(ValueError, match="role parity, row 0, has no model"):
        world.run(world.loop(), Coded(k=2, r=1))
    with pytest.raises(ValueError, match="role parity, row 1, has no model"):
        world.run(world.loop(Addition(), world.parities[:1]), Coded(k=3, r=2))
    with pytest.raises(ValueError, match="role backup, row 0, has no model"):
        world.loop(Addition()).modifier(Role.BACKUP, 0)
    loop, other = world.loop(), world.loop()
    trace, overloaded = world.run(loop, Uncoded()), world.run(other, Uncoded(), deadline=0.03, instances=1)
    with pytest.raises(ValueError, match="was given to another"):
        world.run(loop, Uncoded())
    batched = world.run(world.loop(), Uncoded(), batching=BATCHINGS["threes"])
    for hardware, foreign in ((other, trace), (loop, batched)):
        with pytest.raises(ValueError, match="not of the simulation"):
            hardware.answers(foreign)
    loop.answers(trace)
    other.answers(overloaded)


def test_a_model_that_answers_nan_is_refused(world: World, clock: FakeClock) -> None:
    nn.init.constant_(world.parities[0][3].bias, torch.nan)
    with pytest.raises(ParmError, match="the parity model answers with numbers that are not finite"):
        world.run(world.loop(Addition()), Coded(k=2, r=1))
    nn.init.constant_(world.deployed[3].bias, torch.nan)
    with pytest.raises(ParmError, match="the deployed model answers with numbers that are not finite"):
        world.run(world.loop(), Uncoded())


def test_contention_lasts_from_the_first_task_to_the_answers(
    world: World, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[tuple[object, ...]] = []

    @contextlib.contextmanager
    def contending(count: int, module: nn.Module, shape: Sequence[int], backend: TorchBackend) -> Iterator[None]:
        log.append((count, module, shape, backend, len(clock.took)))
        yield
        log.append(("gone", len(clock.took)))

    monkeypatch.setattr("backends.loop.contending", contending)
    loop = HardwareInTheLoop(
        world.backend, world.deployed, world.images, world.labels, world.samples, default_answer=DEFAULT, contention=3
    )
    assert log == []
    trace = world.run(loop, Uncoded(), batching=BATCHINGS["threes"])
    assert log == [(3, world.deployed, (3, 1, 4, 4), world.backend, 0)]
    loop.answers(trace)
    assert log[1:] == [("gone", len(clock.took))]
    alone = world.loop()
    alone.answers(world.run(alone, Uncoded()))
    assert len(log) == 2
