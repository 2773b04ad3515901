"""One `parm validate`: calibrate, run for real, simulate the same, compare, and write the results."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from backends.real.cluster import Machines, RealRun, attach, drive
from backends.real.frontend import Payloads, Place
from backends.real.service import NetworkService
from backends.real.workers import Workers
from backends.torch_backend import TorchBackend
from experiments.config.schema import Experiment, Model
from experiments.run.cells import Cell
from experiments.run.executors.local import default_workers
from experiments.run.manifest import command, made_with
from experiments.run.models import load_data, need
from experiments.run.progress import Reporter
from experiments.run.runner import draw_samples
from experiments.run.store import writing
from experiments.validation import calibration, figure
from experiments.validation.comparison import REPORTED, Latencies, Redrawn, Trial, compare
from parity.codes import LinearCode
from sim import atomic
from sim.cluster import Cluster
from sim.dispatching import QueueEach
from sim.distributions.profile import ServiceProfile
from sim.errors import ParmError
from sim.policies import Policy
from sim.routing import Learning
from sim.schedule import OpenSchedule
from sim.simulation import simulate
from sim.stragglers.base import Setting
from sim.streams import Streams
from sim.trace import Role

OTHER_DAY = 1_000_000
"""Calibrating runs draw from the streams of this trial and later ones, which no experiment has."""


@dataclass(frozen=True)
class ValidationSettings:
    """Options of the command line."""

    seconds: float = 6.0
    """Of each real run."""
    calibrate: float = 6.0
    """Of calibrating for each real run, half of it before and half after."""
    redraws: int = 50
    """Simulations of each real run."""
    emulate: bool = False
    """Let passes take what the cluster's service times say."""
    pin: bool | None = None
    """Whether everybody stays on a core; None: where there are enough cores for a core each."""
    device: str = "cpu"
    data: Path | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """One real run of one policy, and the calibrating runs of that policy just before and just after."""

    real: RealRun
    around: tuple[RealRun, RealRun]


class Validation:
    """An experiment's policies on a real pool and in the simulator."""

    def __init__(self, experiment: Experiment, options: ValidationSettings, reporter: Reporter) -> None:
        """Check that the experiment can be run for real. Raises ParmError if it cannot."""
        rate = experiment.workload.arrivals.mean_rate()
        if experiment.model is None:
            raise ParmError("validate needs a 'model' in the experiment: its networks are what the workers run.")
        if rate is None:
            raise ParmError(
                "validate sends queries at times that are fixed beforehand; give 'workload.arrivals' a rate."
            )
        if experiment.sweep:
            raise ParmError(
                "validate runs one point, but the experiment has a 'sweep': take it out with --set 'sweep={}'."
            )
        if experiment.cluster.scaler is not None:
            raise ParmError(
                "validate starts all workers beforehand: take the scaler out with --set cluster.scaler=null."
            )
        if experiment.corruption:
            raise ParmError("validate measures times, which wrong answers do not change: leave 'corruption' out.")
        if experiment.cluster.batching.start().adapts:
            raise ParmError("validate measures one batch size; use batching of kind 'fixed'.")
        if experiment.cluster.batching.forms_at_instances:
            raise ParmError("validate runs batches that the frontend forms; give batching 'formed_at: frontend'.")
        if experiment.cluster.batching.frontend_wait is None and experiment.cluster.batching.start().now > 1:
            raise ParmError("validate ends before the last batch is full; give batching a 'max_wait'.")
        TorchBackend(options.device)  # there has to be one, before workers are started for it
        self._experiment = experiment
        self._model: Model = experiment.model
        self._options = options
        self._reporter = reporter
        self._probes = (calibration.PROBES,) if experiment.stragglers else ()
        self._cluster = experiment.machines
        self._queries = max(1, round(rate * options.seconds))
        self._calibrating = max(1, round(rate * options.calibrate / 2))
        self._codes = {policy.label: _code(self._cell(policy, 0, self._queries)) for policy in experiment.policies}
        for policy in experiment.policies:
            _possible(policy, self._cluster)
            of_instance = [
                (int(plan.role), plan.row) for plan in policy.pools(self._cluster) for _ in range(plan.instances)
            ]
            attach(experiment.stragglers, Setting(Streams(0), 0, of_instance, self._cluster.network))
        self._warmup = experiment.warmup if isinstance(experiment.warmup, int) else self._queries // 100
        if self._warmup >= self._queries:
            raise ParmError(f"warmup leaves nothing of the {self._queries} queries of a run: give --seconds more.")

    def run(self, folder: Path) -> dict[str, Any]:
        """Run everything, write it into `folder`, and return what `validation.json` holds."""
        began, load = perf_counter(), load_average()
        experiment, options = self._experiment, self._options
        training, _ = load_data(self._model.dataset, options.data)
        self._images, self._outputs = training.test, training.outputs
        torch.set_num_threads(1)
        models, service = self._service(training.shape, training.outputs)
        count = max(policy.instances(self._cluster) for policy in experiment.policies)
        cores = self._cores(count)
        self._reporter.say(f"starting {count} workers")
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        allowed = os.sched_getaffinity(0) if cores else None
        try:
            with Workers(service, count, cores[1:] if cores else None) as workers:
                if cores:
                    os.sched_setaffinity(0, {cores[0]})
                pieces = self._real(Machines(workers, models, dict.fromkeys(Role, 1.0)))
        finally:
            if allowed is not None:
                os.sched_setaffinity(0, allowed)
        return self._conclude(folder, pieces, count, cores, began, load)

    def _real(self, machines: Machines) -> dict[str, list[Piece]]:
        """Run every policy in short pieces; nothing is compared before all have run.

        The speed of a core that others share drifts within seconds, so a piece is measured just before and just after.
        Policies take turns, in another order every other trial, so that none always has the later half.
        """
        experiment = self._experiment
        pieces: dict[str, list[Piece]] = {policy.label: [] for policy in experiment.policies}
        with self._reporter.task("running", experiment.trials * len(experiment.policies)) as advance:
            for trial in range(experiment.trials):
                for policy in experiment.policies[:: -1 if trial % 2 else 1]:
                    before = self._drive(policy, OTHER_DAY + 2 * trial, machines, calm=True)
                    taken: dict[Role, list[float]] = {}
                    for one in calibration.undisturbed([before]):
                        taken.setdefault(one.role, []).append(one.ended - one.begun)
                    machines = replace(
                        machines,
                        expected=machines.expected | {role: float(np.mean(times)) for role, times in taken.items()},
                    )
                    real = self._drive(policy, trial, machines, calm=False)
                    after = self._drive(policy, OTHER_DAY + 2 * trial + 1, machines, calm=True)
                    pieces[policy.label].append(Piece(real, (before, after)))
                    advance(f"{policy.label}, trial {trial}")
        return pieces

    def _drive(self, policy: Policy, trial: int, machines: Machines, *, calm: bool) -> RealRun:
        queries = self._calibrating if calm else self._queries
        cell = self._cell(policy, trial, queries)
        payloads = Payloads(
            self._images, draw_samples(cell, len(self._images)), self._codes[policy.label], policy.group[1]
        )
        stragglers = self._probes if calm else self._experiment.stragglers
        streams = Streams(self._experiment.seed, trial)
        return drive(self._cluster, policy, stragglers, self._schedule(trial, queries), streams, machines, payloads)

    def _schedule(self, trial: int, queries: int) -> OpenSchedule:
        generator = Streams(self._experiment.seed, trial).generator("arrivals")
        schedule = self._experiment.workload.arrivals.schedule(queries, generator)
        assert isinstance(schedule, OpenSchedule)  # it has a mean rate
        return schedule

    def _cell(self, policy: Policy, trial: int, queries: int) -> Cell:
        workload = self._experiment.workload.model_copy(update={"queries": queries})
        alone = self._experiment.model_copy(update={"policies": (policy,), "workload": workload})
        return Cell("", "", policy, {}, trial, alone)

    def _service(self, shape: tuple[int, int, int], classes: int) -> tuple[dict[Place, int], NetworkService]:
        """Return the number of each pool's model, and what makes them in the workers."""
        plans = [plan for policy in self._experiment.policies for plan in policy.pools(self._cluster)]
        places = sorted({(plan.role, plan.row) for plan in plans})
        backup = self._model.backup
        networks = [
            backup.network if role == Role.BACKUP and backup is not None else self._model.network for role, _ in places
        ]
        size = self._cluster.batching.start().now
        emulated = [self._cluster.service_of(role, size).sample for role, _ in places] if self._options.emulate else []
        service = NetworkService(
            tuple(networks), shape, classes, self._options.device, tuple(emulated), self._experiment.seed
        )
        return {place: number for number, place in enumerate(places)}, service

    def _cores(self, workers: int) -> list[int] | None:
        """Return the frontend's core and then the workers', or None where nobody is to stay on one."""
        if not hasattr(os, "sched_getaffinity"):
            if self._options.pin:
                raise ParmError("--pin: this system does not let processes choose their cores.")
            return None
        cores = sorted(os.sched_getaffinity(0))
        enough = len(cores) > workers
        if self._options.pin and len(cores) < 2:
            raise ParmError("--pin: there is one core only, which the frontend and the workers have to share.")
        return cores if self._options.pin or (self._options.pin is None and enough) else None

    def _conclude(
        self,
        folder: Path,
        pieces: dict[str, list[Piece]],
        count: int,
        cores: list[int] | None,
        began: float,
        load: float | None,
    ) -> dict[str, Any]:
        experiment, options = self._experiment, self._options
        device = f"{count} worker processes on {options.device} of a machine with {default_workers()} cores"
        trials = {
            policy.label: [
                self._beside(policy, trial, piece, folder / "profiles" / f"{policy.label}-{trial}.json", device)
                for trial, piece in enumerate(pieces[policy.label])
            ]
            for policy in experiment.policies
        }
        calm = [run for of_policy in pieces.values() for piece in of_policy for run in piece.around]
        frontend = calibration.frontend_times(calm)
        profile = self._profile(calm, frontend.latency, device)
        with writing(folder):
            profile.write(folder / "profile.json")
        runs = [piece.real for of_policy in pieces.values() for piece in of_policy]
        lateness = np.concatenate([run.lateness for run in runs])
        passes = calibration.competing_passes(calm)
        document: dict[str, Any] = {
            "format": 1,
            "name": experiment.name,
            "seconds_per_run": options.seconds,
            "queries_per_run": self._queries,
            "trials": experiment.trials,
            "workers": count,
            "cores": default_workers(),
            "pinned": cores is not None,
            "load_before": load,
            "emulated": options.emulate,
            "frontend": {
                **{f"{name}_seconds": seconds for name, seconds in asdict(frontend).items()},
                "busy": float(np.mean([run.busy for run in runs])),
                "lateness_seconds": {f"p{100 * p:g}": float(np.quantile(lateness, p)) for p in (0.5, 0.99, 0.999)},
            },
            "competing_pass_seconds": float(np.median(passes)) if len(passes) else None,
            "service_seconds": {
                role: {
                    str(size): {f"p{100 * p:g}": times.at(p) for p in (0.5, 0.9, 0.99)} for size, times in sizes.items()
                }
                for role, sizes in profile.roles.items()
            },
            "policies": {
                policy: {
                    **{
                        name: found.plain()
                        for name, found in zip(REPORTED, compare(of_policy, [*REPORTED.values()]), strict=True)
                    },
                    "stood_in": {
                        "real": float(np.mean([trial.real.stood_in for trial in of_policy])),
                        "simulated": float(np.mean([[one.stood_in for one in trial.simulated] for trial in of_policy])),
                    },
                }
                for policy, of_policy in trials.items()
            },
        }
        manifest = {
            "format": 1,
            "name": experiment.name,
            "seed": experiment.seed,
            "command": command(),
            **made_with(),
            "load_average": {"before": load, "after": load_average()},
            "device": options.device,
            "seconds": perf_counter() - began,
            "experiment": experiment.resolved(),
            "notes": ["measured on real processes: the same command gives other numbers"],
        }
        with writing(folder):
            for name, content in (("validation.json", document), ("manifest.json", manifest)):
                atomic.write(folder / name, json.dumps(content, indent=1, allow_nan=False) + "\n")
            figure.draw(trials, self._queries, folder / "figures")
        return document

    def _beside(self, policy: Policy, trial: int, piece: Piece, path: Path, device: str) -> Trial:
        """Simulate what was run, with what was measured around it, once for each redraw of the service times."""
        experiment = self._experiment
        frontend = calibration.frontend_times(piece.around)
        profile = self._profile(piece.around, frontend.latency, device)
        with writing(path):
            profile.write(path)
        cluster = calibration.measured_cluster(self._cluster, path, list(profile.roles), frontend)
        passes = calibration.competing_passes(piece.around)
        stragglers = [calibration.Competing(one, passes).as_straggler() for one in experiment.stragglers]
        schedule = self._schedule(trial, self._queries)
        simulated = [
            Latencies.of(
                simulate(cluster, policy, stragglers, schedule, Redrawn(experiment.seed, trial, redraw)),
                self._warmup,
            )
            for redraw in range(self._options.redraws)
        ]
        return Trial(Latencies.of(piece.real.trace, self._warmup), simulated)

    def _profile(self, runs: Sequence[RealRun], latency: float, device: str) -> ServiceProfile:
        return calibration.service_profile(
            runs,
            latency,
            device=device,
            network=str(self._model.network.name_in_yaml()),
            how=f"measured by parm validate: {len(runs)} calm runs of {self._calibrating} queries; from sending a task "
            f"to its answer at the frontend, less {latency * 1e3:.4f} ms each way",
        )


def load_average() -> float | None:
    """Return how many processes wanted to run, on average over the last minute; None where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _code(cell: Cell) -> LinearCode | None:
    """Return the code that a policy's frontend works with. Raises ParmError where it is not a linear one."""
    code = next((one.code for one in need(cell) if one.code is not None), None)
    if code is not None and not isinstance(code, LinearCode):
        raise ParmError(f"validate runs linear codes, such as 'addition', but not '{code.name_in_yaml()}'.")
    return code


def _possible(policy: Policy, cluster: Cluster) -> None:
    """Raise ParmError if a policy needs something that real workers cannot do."""
    if any(plan.rank is not None for plan in policy.pools(cluster)):
        raise ParmError(f"policy '{policy.label}' has pools that share their instances, but a worker has one model.")
    if isinstance(cluster.queue, Learning):
        raise ParmError(f"validate does not run routers that learn, such as '{cluster.queue.name_in_yaml()}'.")
    if isinstance(cluster.queue, QueueEach) and cluster.queue.steal:
        raise ParmError("validate does not run queues from which other instances steal: leave 'steal' out.")
    for cancels in (policy, getattr(policy, "hedge", None)):
        if getattr(cancels, "cancel", None) == "all":
            raise ParmError(
                f"policy '{policy.label}' stops running tasks (cancel: all), but a forward pass that is under way "
                "cannot be stopped: use 'cancel: queued'."
            )
