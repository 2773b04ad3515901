"""Real runs keep the simulator's promises, and `parm validate` sets them beside simulations of the same queries."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backends.real.cluster import Machines, RealRun, Round, drive
from backends.real.frontend import Payloads
from backends.real.workers import Workers
from experiments import cli
from experiments.config import loader
from experiments.run.progress import Reporter
from experiments.validation import session
from experiments.validation.calibration import (
    Competing,
    competing_passes,
    frontend_times,
    measured_cluster,
    service_profile,
)
from experiments.validation.comparison import Latencies, Redrawn, Trial, compare
from experiments.validation.session import Validation, ValidationSettings
from parity.codes import Addition
from sim.cluster import Cluster
from sim.distributions.families import Deterministic, Exponential
from sim.errors import ParmError
from sim.network import Network
from sim.policies import ApproximateBackup, Coded, Hedged, Policy, Replication, Tied, Uncoded
from sim.policies.groups import CodedExecution
from sim.schedule import OpenSchedule
from sim.simulation import simulate
from sim.stragglers import PerTask, SlowPeriods, Straggler
from sim.stragglers.base import Setting
from sim.streams import Streams
from sim.task import Batch, Task
from sim.trace import Role, Route, TaskStatus
from tests.real import Echo

ROOT = Path(__file__).parents[3]
QUERIES = 60
IMAGES = torch.randn(40, 1, 2, 3, generator=torch.Generator().manual_seed(0))
MODELS = {(role, row): int(role) for role in Role for row in range(2)}


def cluster(**options: Any) -> Cluster:
    return Cluster.model_validate({"instances": 2, "extra": 2, "service": 1.0, "encode": 9.0, **options})


def real(
    workers: Workers,
    policy: Policy,
    stragglers: tuple[Straggler, ...] = (),
    payloads: Payloads | None = None,
    queries: int = QUERIES,
    **options: Any,
) -> RealRun:
    streams = Streams(3)
    times = np.cumsum(streams.generator("arrivals").exponential(1 / 300, queries))
    samples = streams.generator("samples").integers(len(IMAGES), size=queries)
    if payloads is None:
        payloads = Payloads(IMAGES, samples, Addition(), policy.group[1])
    machines = Machines(workers, MODELS, dict.fromkeys(Role, 0.002))
    return drive(cluster(**options), policy, stragglers, OpenSchedule(times), streams, machines, payloads)


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(Echo(), 4) as ready:
        yield ready


SLOW = SlowPeriods(mean_normal=0.05, mean_slow=0.05)
SEVENS = {"kind": "fixed", "formed_at": "frontend", "size": 7, "max_wait": 0.05}
POLICIES: list[tuple[Policy, dict[str, Any]]] = [
    (Uncoded(), {}),
    (Uncoded(), {"queue": "shortest_queue", "batching": SEVENS}),
    (Coded(k=2), {}),
    (Coded(k=3, r=2), {"queue": "round_robin"}),
    (Coded(k=2), {"batching": {"kind": "fixed", "formed_at": "frontend", "size": 4, "max_wait": 0.005}}),
    (Replication(copies=2), {}),
    (Replication(copies=2), {"queue": "random"}),
    (Hedged(after=0.003), {}),
    (Tied(), {"queue": "shortest_queue"}),
    (ApproximateBackup(after=0.002), {}),
    (Coded(k=2), {"deadline": 0.004}),
]


@pytest.mark.parametrize(("policy", "options"), POLICIES, ids=lambda value: getattr(value, "label", None))
def test_a_real_run_keeps_the_promises(workers: Workers, policy: Policy, options: dict[str, Any]) -> None:
    run = real(workers, policy, (SLOW,), **options)
    queries, tasks = run.trace.queries, run.trace.tasks
    done = tasks.fate == TaskStatus.DONE
    # 1: every query has one reply, by an answer that was back at that very moment.
    assert np.array_equal(np.repeat(np.arange(len(run.trace.batches)), run.trace.batches.size), queries.batch)
    own = done & (tasks.role == Role.DEPLOYED)
    for query in np.flatnonzero(np.isin(queries.route, (Route.OWN, Route.REPLICA))):
        assert queries.reply[query] == tasks.back[own & (tasks.owner == queries.batch[query])].min()
    # 2: causality, on the clocks of several processes.
    answered = queries.route != Route.DEFAULT
    assert np.all(queries.arrival <= queries.reply)
    assert np.all(queries.arrival <= queries.dispatch)
    assert np.all(queries.dispatch[answered] <= queries.reply[answered])
    assert np.all(tasks.queued[done] < tasks.start[done])
    assert np.all(tasks.start[done] < tasks.finish[done])
    assert np.all(tasks.finish[done] < tasks.back[done])
    assert np.all(np.isnan(tasks.back[~done]))
    # 3: what was used for a reconstruction was back, and the prediction itself was not.
    for query in np.flatnonzero(queries.route == Route.RECONSTRUCTION):
        used, slot = int(queries.used[query]), int(run.trace.slot[query])
        assert used.bit_count() >= run.trace.k
        assert not used >> slot & 1
        assert not np.any(tasks.back[own & (tasks.owner == queries.batch[query])] < queries.reply[query])
    # 4: one task at a time; each worker has one role.
    order = np.lexsort((tasks.start[done], tasks.instance[done]))
    instance, start, finish = (column[done][order] for column in (tasks.instance, tasks.start, tasks.finish))
    assert np.all(start[1:][instance[1:] == instance[:-1]] > finish[:-1][instance[1:] == instance[:-1]])
    plans = policy.pools(cluster(**options))
    of_instance = [(int(plan.role), plan.row) for plan in plans for _ in range(plan.instances)]
    for number, role, row in zip(tasks.instance[done], tasks.role[done], tasks.row[done], strict=True):
        assert of_instance[number] == (role, row)
    assert len(run.rounds) == done.sum()
    assert np.all(run.lateness >= 0)


def test_the_policys_own_class_decides(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many tasks of each kind as in the simulation of the same arrivals, and the same execution at work."""
    begun: list[str] = []
    begin = Coded.begin

    def spy(policy: Coded, frontend: Any) -> Any:
        execution = begin(policy, frontend)
        begun.append(type(execution).__qualname__)
        return execution

    monkeypatch.setattr(Coded, "begin", spy)
    run = real(workers, Coded(k=2))
    assert begun == [CodedExecution.__qualname__]
    assert (run.trace.tasks.role == Role.DEPLOYED).sum() == QUERIES
    assert (run.trace.tasks.role == Role.PARITY).sum() <= QUERIES // 2
    assert len(run.encodes) == QUERIES // 2
    assert (run.trace.k, run.trace.r, run.trace.instances) == (2, 1, 3)


class Remembering(Payloads):
    """Holds what was decoded against the samples that the queries carry: the model is the identity."""

    checked = 0

    def decode(self, group: Any, used: int) -> Tensor:
        decoded = super().decode(group, used)
        for slot, batch in enumerate(group.batches):
            carried = self.images[self.samples[batch.first : batch.first + batch.size]]
            assert torch.allclose(decoded[: batch.size, slot], carried.flatten(1), atol=1e-5)
        type(self).checked += 1
        return decoded


@pytest.mark.parametrize("size", [1, 3])
def test_late_predictions_are_really_reconstructed(size: int) -> None:
    """Worker 1 is so slow that what it holds is decoded from the others; 20 queries leave the last batch of 3 short."""
    streams = Streams(3)
    samples = streams.generator("samples").integers(len(IMAGES), size=20)
    payloads = Remembering(IMAGES, samples, Addition(), 1)
    Remembering.checked = 0
    with Workers(Echo(slow=(1,)), 3) as workers:
        batching = {"kind": "fixed", "formed_at": "frontend", "size": size, "max_wait": 0.05}
        run = real(workers, Coded(k=2, parity_instances=1), payloads=payloads, queries=20, batching=batching)
    groups = np.unique(run.trace.group[run.trace.queries.route == Route.RECONSTRUCTION])
    assert len(groups) == Remembering.checked == len(run.decodes) > 0


def test_slowness_is_that_of_the_simulation(workers: Workers) -> None:
    """A worker in a slow period is asked for so many passes; nobody else is."""
    asked: list[float] = []

    class Spying:
        def send(self, worker: int, model: int, factor: float, inputs: Any) -> None:
            asked.append(factor)
            workers.send(worker, model, factor, inputs)

        def wait(self, seconds: float | None) -> Any:
            return workers.wait(seconds)

    real(Spying(), Uncoded(), (SlowPeriods(factor=3, mean_normal=0.2, mean_slow=0.2),))  # type: ignore[arg-type]
    assert {1.0, 3.0} <= {round(factor, 6) for factor in asked}
    assert all(1 <= round(factor, 6) <= 3 for factor in asked)
    asked.clear()
    real(Spying(), Uncoded())  # type: ignore[arg-type]
    assert set(asked) == {1.0}


def test_a_profile_holds_the_whole_time_for_which_an_instance_is_taken(workers: Workers, tmp_path: Path) -> None:
    runs = [real(workers, Coded(k=2), queries=220)]
    frontend = frontend_times(runs)
    profile = service_profile(runs, frontend.latency, device="here", network="echo", how="measured")
    taken = [one.back - one.sent for one in runs[0].rounds if one.role == Role.DEPLOYED]
    quantiles = profile.roles["deployed"][1]
    assert quantiles.at(1) == pytest.approx(max(taken) - 2 * frontend.latency, abs=1e-8)
    assert quantiles.at(0.5) == pytest.approx(np.median(taken) - 2 * frontend.latency, rel=1e-3)
    profile.write(tmp_path / "profile.json")
    measured = measured_cluster(cluster(), tmp_path / "profile.json", list(profile.roles), frontend)
    assert measured.service.mean() == pytest.approx(quantiles.mean, rel=1e-6)
    assert measured.parity_service is not None
    assert measured.network.latency == frontend.latency
    assert measured.encode.mean() == pytest.approx(np.median(runs[0].encodes))
    assert measured.decode.mean() == frontend.decode
    with pytest.raises(ParmError, match=r"only \d+ tasks of the parity model .* --calibrate"):
        service_profile([real(workers, Coded(k=2))], 0.0, device="here", network="echo", how="measured")


def test_a_querys_way_to_its_worker_counts_what_making_its_task_takes() -> None:
    """Taken up 1 ms late; tasks ready 3 ms after dispatch. Parity tasks, which no client waits for, are not asked."""
    trace = simulate(cluster(), Coded(k=2), (), OpenSchedule(np.arange(20.0) * 10), Streams(0))
    ready = trace.tasks.queued + np.where(trace.tasks.role == Role.DEPLOYED, 0.003, 7.0)
    trace = replace(trace, tasks=replace(trace.tasks, queued=ready))
    found = frontend_times([RealRun(trace, [], np.full(20, 0.001), [0.5], [], 0.0)])
    assert (found.overhead, found.encode, found.decode) == pytest.approx((0.004, 0.5, 0.0))


def test_a_competing_pass_takes_what_it_was_measured_to_take() -> None:
    """Passes of 10 ms; three competing ones that took 8 ms each with one task, and 6 ms with another."""
    calm = [Round(Role.DEPLOYED, 1, 0.0, 0.001, 0.011, 0.011, 0.012)] * 9
    disturbed = [
        Round(Role.DEPLOYED, 1, 0.0, 0.001, 0.011, 0.035, 0.036, 4.0),
        Round(Role.DEPLOYED, 1, 0.0, 0.001, 0.015, 0.033, 0.034, 4.0),
        Round(Role.PARITY, 1, 0, 1, 2, 3, 4, 4.0),
    ]
    run = RealRun(None, [*calm, *disturbed], np.zeros(1), [], [], 0.0)  # type: ignore[arg-type]
    passes = competing_passes([run])
    assert passes == pytest.approx([0.008, 0.006])
    assert len(competing_passes([RealRun(None, calm, np.zeros(1), [], [], 0.0)])) == 0  # type: ignore[arg-type]

    def bent(passes: Any, streams: Streams, slowdown: float = 4.0) -> list[float]:
        always = PerTask(slowdown=Deterministic(value=slowdown))
        bend = Competing(of=always, passes=passes).attach(Setting(streams, 0, [(0, 0)], Network())).modifier
        assert bend is not None
        return [bend(Task(Batch(0, 0, 1)), 0, 0.0, 0.010) for _ in range(40)]

    assert sorted(set(np.round(bent(passes, Streams(0)), 9))) == pytest.approx([0.028, 0.034])
    assert bent(passes, Redrawn(0, 0, 1)) != bent(passes, Redrawn(0, 0, 2))
    assert bent(passes, Redrawn(0, 0, 1)) == bent(passes, Redrawn(0, 0, 1))
    assert set(bent(passes, Streams(0), slowdown=1.0)) == {0.010}
    assert bent(np.empty(0), Streams(0)) == pytest.approx([0.040] * 40)


def latencies(*milliseconds: float) -> Latencies:
    return Latencies(np.array(milliseconds) / 1e3, 0.1)


def test_errors_are_of_all_queries_together_and_the_model_says_what_it_expects() -> None:
    """Real 1 to 8 ms, simulated 10% and 30% more; each trial alone has another median."""
    halves = [np.array([1.0, 2, 7, 8]), np.array([3.0, 4, 5, 6])]
    trials = [Trial(latencies(*half), [latencies(*half * 1.1), latencies(*half * 1.3)]) for half in halves]
    middle, highest = compare(trials, [0.5, 1])
    for found, real in ((middle, 0.0045), (highest, 0.008)):
        assert [found.real, found.simulated] == pytest.approx([real, 1.2 * real])
        # Every resampling has the same error, since real and simulated runs are resampled at once.
        assert [found.error.value, found.error.lo, found.error.hi] == pytest.approx([0.2] * 3)
        assert list(found.expected) == pytest.approx([1.105 * real, 1.295 * real])
        assert not found.foreseen


def test_an_interval_is_as_wide_as_errors_differ_between_trials() -> None:
    """Means of many trials have a known standard error; here every query of a trial is alike, as if it were one."""
    factors = np.random.default_rng(0).normal(1, 0.1, 30)
    trials = [Trial(latencies(10.0, 10.0), [latencies(10 * factor, 10 * factor)]) for factor in factors]
    (found,) = compare(trials, [0.5])
    # Of a median of n normal values: 1.2533 sigma / sqrt(n) (Kendall and Stuart); t(29) is 2.045.
    assert (found.error.hi - found.error.lo) / 2 == pytest.approx(2.045 * 1.2533 * 0.1 / np.sqrt(30), rel=0.4)
    alone = compare(trials[:1], [0.5])[0].plain()
    assert alone["error_95"] == [None, None]


def test_a_piece_is_simulated_with_what_was_measured_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Policies take turns, each between two calm runs of its own, of other queries than any that are compared."""
    driven: list[tuple[str, int, bool]] = []

    def driving(self: Validation, policy: Policy, trial: int, machines: Machines, *, calm: bool) -> RealRun:
        driven.append((policy.label, trial, calm))
        rounds = [Round(Role.DEPLOYED, 1, 0.0, 0.0, 0.5, 0.5, 0.5)]
        return RealRun(None, rounds, np.full(1, len(driven)), [], [], 0.0)  # type: ignore[arg-type]

    monkeypatch.setattr(Validation, "_drive", driving)
    validation = Validation(
        loader.load(ROOT / "experiments/validate.yaml", ["trials=2"]), ValidationSettings(), Reporter()
    )
    pieces = validation._real(Machines(None, {}, dict.fromkeys(Role, 1.0)))  # type: ignore[arg-type]
    assert [label for label, _, calm in driven if not calm] == ["none", "coded", "coded", "none"]
    assert [calm for _, _, calm in driven] == [True, False, True] * 4
    calm_trials = [(label, trial) for label, trial, calm in driven if calm]
    assert len(set(calm_trials)) == 8
    assert all(trial >= session.OTHER_DAY for _, trial in calm_trials)
    for of_policy in pieces.values():
        for piece in of_policy:
            before, real, after = (run.lateness[0] for run in (piece.around[0], piece.real, piece.around[1]))
            assert [before, after] == [real - 1, real + 1]


def test_a_redraw_changes_the_services_and_nothing_else() -> None:
    world = Cluster(instances=2, service=Exponential(mean=0.01))
    schedule = OpenSchedule(np.arange(200) / 50)

    def starts(streams: Streams) -> Any:
        return simulate(world, Uncoded(), (SLOW,), schedule, streams).queries.latency

    assert np.array_equal(starts(Redrawn(1, 0, 4)), starts(Redrawn(1, 0, 4)))
    assert not np.array_equal(starts(Redrawn(1, 0, 4)), starts(Redrawn(1, 0, 5)))
    for purpose, entities in (("arrivals", ()), ("slow_periods", (0, 1)), ("samples", ())):
        drawn = [streams.generator(purpose, *entities).random(8) for streams in (Redrawn(1, 0, 4), Streams(1, 0))]
        assert np.array_equal(drawn[0], drawn[1])


EXPERIMENT = """\
name: quick
trials: 2
model:
  network: {kind: mlp, hidden: [8]}
  dataset: digits
workload: {arrivals: {kind: poisson, rate: 200}, queries: 10}
cluster: {instances: 1, extra: 1, service: 0.002}
stragglers: [{kind: slow_periods, factor: 3, mean_normal: 0.3, mean_slow: 0.1}]
policies: [none, {kind: coded, k: 2}]
"""


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"workload.arrivals": "{kind: closed_loop, clients: 3, think: 0.1}"}, "arrivals' a rate"),
        ({"sweep": "{cluster.instances: [1, 2]}"}, "has a 'sweep': take it out with --set 'sweep={}'"),
        ({"cluster.batching": "{kind: aimd, objective: 0.1}"}, "kind 'fixed'"),
        ({"stragglers": "[{kind: crashes, mean_up: 10, repair: 1}]"}, "'crashes' takes machines down"),
        ({"policies.0": "{kind: replication, cancel: all}"}, "'replication' stops running tasks"),
        ({"policies.1.parity_pool": "low_priority"}, "pools that share their instances"),
        ({"cluster.queue": "peak_ewma"}, "does not run routers that learn, such as 'peak_ewma'"),
        ({"cluster.queue": "{kind: random, steal: true}"}, "other instances steal"),
        ({"policies.1.code": "learned"}, "not 'learned'"),
        ({"warmup": "5"}, "warmup leaves nothing of the 4 queries"),
    ],
)
def test_what_cannot_be_done_for_real_is_refused_at_once(tmp_path: Path, changes: dict[str, str], says: str) -> None:
    file = tmp_path / "quick.yaml"
    file.write_text(EXPERIMENT)
    experiment = loader.load(file, [f"{key}={value}" for key, value in changes.items()])
    with pytest.raises(ParmError, match=says):
        Validation(experiment, ValidationSettings(seconds=0.02), Reporter())


def test_an_experiment_without_a_model_is_refused(tmp_path: Path) -> None:
    lines = [line for line in EXPERIMENT.splitlines() if not line.startswith(("model", "  network", "  dataset"))]
    (tmp_path / "quick.yaml").write_text("\n".join(lines))
    with pytest.raises(ParmError, match="needs a 'model'"):
        Validation(loader.load(tmp_path / "quick.yaml"), ValidationSettings(), Reporter())


def test_a_device_that_is_not_there_is_refused_before_workers_start(tmp_path: Path) -> None:
    (tmp_path / "quick.yaml").write_text(EXPERIMENT)
    with pytest.raises(ParmError, match="there is no device 'gpu'"):
        Validation(loader.load(tmp_path / "quick.yaml"), ValidationSettings(device="gpu"), Reporter())


def test_an_interrupt_is_said_and_has_its_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Validation, folder: Path) -> None:
        raise KeyboardInterrupt

    (tmp_path / "quick.yaml").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session.Validation, "run", interrupted)
    monkeypatch.setattr(sys, "argv", ["parm", "validate", "quick.yaml"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130


def test_the_command_measures_compares_and_writes(tmp_path: Path) -> None:
    (tmp_path / "quick.yaml").write_text(EXPERIMENT)
    flags = ["--emulate", "--seconds", "1", "--calibrate", "0.8", "--redraws", "4", "--out", "out"]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.cli", "validate", "quick.yaml", *flags],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out/validation.json").read_text(), parse_constant=pytest.fail)
    assert (found["workers"], found["trials"], found["queries_per_run"], found["emulated"]) == (2, 2, 200, True)
    assert set(found["policies"]) == {"none", "coded"}
    for policy in found["policies"].values():
        assert set(policy) == {"p50", "p99", "p999", "stood_in"}
        for metric in ("p50", "p99", "p999"):
            one = policy[metric]
            assert one["real_seconds"] >= 0.002
            assert one["simulated_seconds"] >= 0.002
            assert len(one["error_95"]) == 2
            assert all(map(math.isfinite, one["error_95"]))
    assert found["policies"]["none"]["stood_in"] == {"real": 0, "simulated": 0}
    assert set(found["service_seconds"]) == {"deployed", "parity"}
    assert found["service_seconds"]["deployed"]["1"]["p50"] >= 0.002
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["command"][:2] == ["parm", "validate"]
    assert manifest["experiment"]["name"] == "quick"
    for name in ("profile.json", "figures/real_and_simulated.png", "figures/real_and_simulated.pdf"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    for word in ("none", "coded", "p99.9", "untrained"):
        assert word in done.stdout


def test_the_example_is_valid() -> None:
    Validation(loader.load(ROOT / "experiments/validate.yaml"), ValidationSettings(), Reporter())
