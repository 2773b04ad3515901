"""The CUDA path on a device that is not there: placement, waits of the host, graphs and precision."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Literal
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from backends.answers import Predictor
from backends.contention import contending
from backends.loop import HardwareInTheLoop
from backends.measuring import measure
from backends.real.service import NetworkService
from backends.runner import ModelRunner
from backends.torch_backend import TorchBackend
from parity.codes import (
    Addition,
    Approxifer,
    Concatenation,
    Conditional,
    Exact,
    InvNet,
    Learned,
    Nercc,
    TensorCode,
    Thumbnails,
)
from parity.networks import LeNet5, Mlp, Network, ResNet18
from parity.objectives import Objective, Reconstruction, Supervised, TrainingData
from parity.recipes import Best, Muon, Recipe
from parity.training import Fit, train
from sim.cluster import Cluster
from sim.distributions.families import Deterministic
from sim.distributions.profile import RoleName
from sim.errors import ParmError
from sim.policies import Coded
from sim.schedule import OpenSchedule
from sim.simulation import simulate
from sim.stragglers import PerTask
from sim.streams import Streams
from sim.trace import Route, Trace
from tests import pretend_cuda
from tests.backends.test_answers import make_trace, random_trace
from tests.backends.test_fusion import lived_in
from tests.benchmarks import training
from tests.benchmarks.inference import ON_CUDA, Clock, Limits, race
from tests.pretend_cuda import CUDA, Device, PlacementError
from tests.pretend_cuda import pretend_cuda as pretended

pytestmark = [
    pytest.mark.skipif(bool(pretend_cuda.MISSING), reason=f"this torch lacks {', '.join(pretend_cuda.MISSING)}"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device: nothing has to be pretended"),
]


@pytest.fixture
def device() -> Iterator[Device]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with pretended() as device:
        yield device


def test_the_device_tells_placement_waits_and_pinned_copies_apart(device: Device) -> None:
    there, here = torch.ones(4, device="cuda"), torch.ones(4)
    assert there.is_cuda
    assert not (there + 1).cpu().is_cuda
    with pytest.raises(PlacementError):
        there + here
    device.clear()
    _ = here.pin_memory().to("cuda", non_blocking=True) + there
    assert device.waits == []
    there.sum().item()
    here.to("cuda")
    here.pin_memory().to("cuda")
    there.to("cpu", non_blocking=True)
    there.nonzero()
    assert len(device.waits) == 5
    assert all(line.startswith("tests/backends/test_pretend_cuda.py:") for _, line in device.waits)


SHAPE, CLASSES, SAMPLES = (1, 8, 8), 6, 50
IMAGES = torch.randn(SAMPLES, *SHAPE, generator=torch.Generator().manual_seed(1))
LABELS = np.random.default_rng(1).integers(0, CLASSES, SAMPLES)
CODES: dict[str, tuple[TensorCode, int, int]] = {
    "addition": (Addition(), 2, 1),
    "addition, two rows": (Addition(), 3, 2),
    "concatenation": (Concatenation(), 2, 1),
    "conditional": (Conditional(), 2, 1),
    "exact": (Exact(), 3, 2),
    "invnet": (InvNet(), 2, 1),
    "learned": (Learned(), 2, 1),
    "thumbnails": (Thumbnails(), 2, 1),
    "approxifer": (Approxifer(), 2, 3),
    "nercc": (Nercc(), 2, 3),
}


def network(kind: Network | None = None, seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return (kind or Mlp(hidden=(20,))).build(SHAPE, CLASSES).eval()


def trace_for(code: TensorCode, k: int, r: int, seed: int) -> Trace:
    """Make a trace with many reconstructions; where no answer counts as it is, of all queries from k coded answers."""
    if code.systematic:
        return random_trace(k, r, seed)
    generator = np.random.default_rng(seed)
    batches = [(1, group, slot) for group in range(12) for slot in range(k)]
    masks = [sum(1 << k + int(row) for row in generator.permutation(r)[:k]) for _ in batches]
    return make_trace(batches, {query: (Route.RECONSTRUCTION, mask) for query, mask in enumerate(masks)}, k, r)


class Cell:
    """A code at work with untrained parts, and traces whose answers are asked for."""

    def __init__(self, name: str, kind: Network | None = None) -> None:
        self.code, self.k, self.r = CODES[name]
        self.deployed, self.backup = network(kind), network(kind, 2)
        kind = kind or Mlp(hidden=(20,))
        trained = [
            part.build(kind, SHAPE, CLASSES, lambda _module: None).eval() for part in self.code.parts(self.k, self.r)
        ]
        self.coder, self.parities = self.code.bind(self.k, self.r, trained, self.deployed)

    def predictor(self, device: str) -> Predictor:
        return Predictor(TorchBackend(device, precision="single"), self.deployed, IMAGES, LABELS, default_answer=3)

    def answer(self, predictor: Predictor, seed: int) -> tuple[object, ...]:
        trace = trace_for(self.code, self.k, self.r, seed)
        samples = np.random.default_rng(seed).integers(0, SAMPLES, len(trace.queries))
        found = astuple(predictor.answer(trace, samples, self.coder, self.parities, self.backup))
        return tuple(one.tolist() if isinstance(one, np.ndarray) else one for one in found)


@pytest.mark.parametrize("name", CODES)
def test_deferred_answers_of_every_code_are_the_cpus(name: str) -> None:
    cell = Cell(name)
    on_cpu = cell.predictor("cpu")
    expected = [cell.answer(on_cpu, seed) for seed in range(3)]
    with pretended():
        there = cell.predictor("cuda")
        assert [cell.answer(there, seed) for seed in range(3)] == expected


WAITS_PER_CELL = 1
"""The copy of what the clients received."""


@pytest.mark.parametrize("name", CODES)
def test_a_cell_waits_once_for_the_device(name: str, device: Device) -> None:
    cell = Cell(name)
    predictor = cell.predictor("cuda")
    for seed in range(3):  # recordings are made, and every pattern of losses is met
        cell.answer(predictor, seed)
    device.clear()
    cell.answer(predictor, 2)
    assert len(device.waits) == WAITS_PER_CELL, device.waits


def test_outputs_in_the_loop_are_decoded_where_the_models_are(device: Device) -> None:
    cell = Cell("conditional")
    labels = LABELS
    samples = np.random.default_rng(3).integers(0, SAMPLES, 60)
    backend = TorchBackend("cuda", precision="single")
    loop = HardwareInTheLoop(
        backend, cell.deployed, IMAGES, labels, samples, default_answer=3, code=cell.coder, parities=cell.parities
    )
    late = PerTask(slowdown=Deterministic(value=40.0), probability=0.25)
    cluster = Cluster(instances=5, extra=3, service=Deterministic(value=1e6))
    arrivals = OpenSchedule(np.cumsum(np.random.default_rng(3).exponential(0.01, 60)))
    trace = simulate(cluster, Coded(k=2, code=cell.code), [late], arrivals, Streams(4), hardware=loop.modifier)
    assert (trace.queries.route == Route.RECONSTRUCTION).sum() > 3
    answers = loop.answers(trace)
    assert all(value.is_cuda for parity in cell.parities for value in parity.parameters())
    deferred = Predictor(backend, cell.deployed, IMAGES, labels, default_answer=3)
    assert answers.answer.tolist() == deferred.answer(trace, samples, cell.coder, cell.parities).answer.tolist()


def convolutional(seed: int = 1) -> nn.Module:
    return network(ResNet18(width=4), seed)


def test_a_recording_is_replayed_with_the_inputs_of_the_call(device: Device) -> None:
    module = convolutional()
    backend = TorchBackend("cuda", precision="single")
    expected = TorchBackend("cpu", precision="single").predict(copy.deepcopy(module), IMAGES)
    for _ in range(2):
        torch.testing.assert_close(backend.predict(module, IMAGES), expected, rtol=1e-4, atol=1e-4)
    device.clear()
    backend.predict(module, IMAGES)
    assert device.replays == 1
    assert device.kernels["aten::convolution"] == 0, "a replay launches nothing by itself"


class Waiting(nn.Module):
    """Has a look at what it computes, or computes something whose size depends on it."""

    def __init__(self, *, unnoticed: bool) -> None:
        super().__init__()
        self.inner, self.unnoticed = network(), unnoticed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.inner(x)
        mode = torch.cuda.get_sync_debug_mode()
        if self.unnoticed:  # some waits are not in torch's list
            torch.cuda.set_sync_debug_mode(0)
        outputs.sum().item()
        torch.cuda.set_sync_debug_mode(mode)
        return outputs


@pytest.mark.parametrize("unnoticed", [False, True])
def test_a_refused_recording_leaves_no_stream_behind_and_others_are_recorded(device: Device, unnoticed: bool) -> None:
    backend, module = TorchBackend("cuda", precision="single"), Waiting(unnoticed=unnoticed)
    expected = TorchBackend("cpu").predict(copy.deepcopy(module), IMAGES)
    assert torch.equal(backend.predict(module, IMAGES), expected)
    assert len(device.streams) == 1
    assert device.debug == 0
    assert "without CUDA graphs: " in str(backend.how(module))
    other = network(seed=2)
    backend.predict(other, IMAGES)
    assert "without CUDA graphs" not in str(backend.how(other))
    assert device.replays == 1


def test_many_sizes_of_batches_are_all_recorded_or_it_is_said(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, module = TorchBackend("cuda", precision="single"), network()
    for size in range(1, 41):
        backend.serve(module, backend.place(IMAGES[:size]))
    assert "without CUDA graphs" not in str(backend.how(module))
    device.clear()
    for size in range(1, 41):
        backend.runner(module)(backend.place(IMAGES[:size]))
    assert device.replays == 40
    monkeypatch.setattr("backends.graphs.MOST_SHAPES", 2)
    module = network()
    for size in (1, 2, 3):
        backend.runner(module)(backend.place(IMAGES[:size]))
    assert "without CUDA graphs: only 2 shapes" in str(backend.how(module))


def test_a_batch_that_does_not_fit_is_halved_and_the_half_is_recorded(device: Device) -> None:
    module, many = network(Mlp(hidden=(200,))), IMAGES.repeat(3, 1, 1, 1)
    backend = TorchBackend("cuda", 128, precision="single")
    expected = TorchBackend("cpu").predict(copy.deepcopy(module), many)
    images = backend.place(many)
    device.memory = 70 * 200  # elements of one tensor: the hidden layer of 64 samples fits, that of 128 does not
    outputs = backend.outputs(module, len(many), lambda chunk: images[chunk])
    device.memory = float("inf")
    assert torch.equal(outputs.cpu(), expected)
    assert backend.runner(module).batch == 64
    assert "without CUDA graphs" not in str(backend.how(module))
    device.memory = 10 * 200
    with pytest.raises(torch.OutOfMemoryError):
        backend.outputs(module, len(many), lambda chunk: images[chunk])


def overflowing(images: int) -> nn.Module:
    """Outputs beyond 65,504, the largest number in half precision, for the brightest `images` of the samples."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)).eval()
    sums = IMAGES.flatten(1).sum(1).sort(descending=True).values
    nn.init.normal_(module[1].bias)
    nn.init.constant_(module[1].weight, 66_000 / float(sums[images - 1] * 0.5 + sums[images] * 0.5))
    with torch.no_grad():
        module[1].weight *= torch.linspace(1.0, 0.5, CLASSES)[:, None]
    return module


def test_half_precision_that_overflows_falls_back_to_single(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell("addition")
    cell.deployed = overflowing(3)
    cell.coder, cell.parities = cell.code.bind(cell.k, cell.r, [network(seed=5)], cell.deployed)
    monkeypatch.setattr(TorchBackend, "agreement", lambda *given: 1.0)  # none of the held samples overflowed
    here = Predictor(TorchBackend("cpu"), copy.deepcopy(cell.deployed), IMAGES, LABELS, default_answer=3)
    cell.parities = [copy.deepcopy(one) for one in cell.parities]
    backend = TorchBackend("cuda")
    there = Predictor(backend, cell.deployed, IMAGES, LABELS, default_answer=3)
    found = cell.answer(there, 0)
    assert not backend.runner(cell.deployed).half
    assert backend.runner(cell.parities[0]).half, "only what overflows falls back"
    assert found[0] == cell.answer(here, 0)[0]
    chosen = Predictor(TorchBackend("cuda", precision="half"), cell.deployed, IMAGES, LABELS, default_answer=3)
    with pytest.raises(ParmError, match="not finite"):
        cell.answer(chosen, 0)


def test_a_parity_model_that_overflows_half_precision_answers_its_words_again(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = Cell("addition")
    cell.coder, cell.parities = cell.code.bind(cell.k, cell.r, [overflowing(3)], cell.deployed)
    monkeypatch.setattr(TorchBackend, "agreement", lambda *given: 1.0)
    here = Predictor(TorchBackend("cpu"), copy.deepcopy(cell.deployed), IMAGES, LABELS, default_answer=3)
    expected = cell.answer(here, 0)
    cell.parities = [copy.deepcopy(one) for one in cell.parities]
    backend = TorchBackend("cuda")
    found = cell.answer(Predictor(backend, cell.deployed, IMAGES, LABELS, default_answer=3), 0)
    assert not backend.runner(cell.parities[0]).half
    assert backend.runner(cell.deployed).half
    assert found[0] == expected[0]


def test_samples_that_no_task_ran_fall_back_to_single_precision_too(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, brightest = overflowing(1), int(IMAGES.flatten(1).sum(1).argmax())
    monkeypatch.setattr(TorchBackend, "agreement", lambda *given: 1.0)
    backend = TorchBackend("cuda")
    backend.settle(module, lambda: IMAGES)
    loop = HardwareInTheLoop(backend, module, IMAGES, LABELS, np.array([brightest]), default_answer=3)
    expected = TorchBackend("cpu").predict(copy.deepcopy(module), IMAGES[[brightest]])
    assert torch.equal(loop._deployed_outputs(np.array([brightest])), expected)
    assert not backend.runner(module).half


def test_what_contends_runs_in_the_precision_of_what_is_measured(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[object, ...]] = []
    monkeypatch.setattr("backends.contention.start", lambda *given: started.append(given[2:]) or _no_process())
    precisions: tuple[Literal["single", "half"], ...] = ("single", "half")
    for precision in precisions:
        with contending(1, network(), (4, *SHAPE), TorchBackend("cuda", precision=precision)):
            pass
    assert started == [((4, *SHAPE), "cuda", "single"), ((4, *SHAPE), "cuda", "half")]


def _no_process() -> tuple[mock.Mock, mock.Mock]:
    process = mock.Mock()
    process.is_alive.return_value = False
    return process, mock.Mock()


def test_single_precision_is_no_tf32_and_half_is_weighed_against_it(device: Device) -> None:
    assert torch.backends.cudnn.allow_tf32
    module = convolutional()
    TorchBackend("cuda", precision="auto").settle(module, lambda: IMAGES)
    assert device.tf32 == {False}
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("wide_stem", [False, True])
def test_cudnns_fused_convolutions_answer_as_the_module(device: Device, wide_stem: bool) -> None:
    module = lived_in(convolutional())
    expected = TorchBackend("cpu").predict(copy.deepcopy(module), IMAGES)
    runner = ModelRunner(module, torch.device("cuda"), half=False, way="cudnn", wide_stem=wide_stem)
    with torch.no_grad():
        outputs = runner.outputs(SAMPLES, lambda chunk: IMAGES[chunk]).cpu()
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-4)
    assert "13 of cuDNN's convolutions" in runner.how
    assert ("1 of them given channels of zeros" in runner.how) == wide_stem
    assert device.kernels["aten::cudnn_convolution_add_relu"] > 0


def test_the_benchmark_lets_every_way_take_part(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    backend = TorchBackend("cuda")
    speeds = race(ResNet18(width=4), SHAPE, ON_CUDA, backend, Clock(backend), 1, 16, Limits(1, 1, 1, 1))
    contenders = {speed.contender for speed in speeds}
    assert {str(attempt) for attempt in ON_CUDA} | {"eager, single", "eager, TF32"} < contenders
    assert "left out" not in capsys.readouterr().out


def test_the_training_benchmark_records_its_steps(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "Generator", pretend_cuda.generator)
    batches: dict[str, tuple[int, ...]] = {"deployed": (4,), "parity": (4,)}
    chosen = training.recipes(compiled=False, on_cuda=True)
    paces = training.measure(TorchBackend("cuda"), ResNet18(width=1), chosen, batches, 3, 1)
    assert {(pace.role, pace.options, pace.refused) for pace in paces} == {
        (role, options, "") for role in batches for options in ("single", "bfloat16", "bfloat16, recorded")
    }
    assert device.replays == 2 * 2 * 2, "all but the first step, two epochs, two roles"


def test_profiles_are_measured_in_the_precision_that_runs_settle_for(device: Device) -> None:
    given: dict[RoleName, nn.Module] = {"deployed": nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))}
    with torch.no_grad():
        given["deployed"][1].bias[0] = 100.0  # always the same class
    profile = measure(TorchBackend("cuda"), given, SHAPE, (1, 4), 3, 1, network="tiny")
    assert "half precision; half precision agrees on 1.0000" in profile.how


def test_real_workers_run_what_the_backend_runs(device: Device) -> None:
    serve = NetworkService((ResNet18(width=4),), SHAPE, CLASSES, device="cuda")(0)
    device.clear()
    outputs = serve(0, np.zeros(64, np.float32))
    assert outputs.shape == (CLASSES,)
    assert device.replays == 1


def test_the_latest_runners_are_kept_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.torch_backend.MOST_RUNNERS", 2)
    backend, modules = TorchBackend("cpu"), [network(seed=seed) for seed in range(3)]
    first, second = (backend.runner(module) for module in modules[:2])
    assert backend.runner(modules[0]) is first
    backend.runner(modules[2])
    assert backend.runner(modules[0]) is first
    assert backend.runner(modules[1]) is not second


def training_data(copies: int) -> TrainingData:
    labels = torch.from_numpy(LABELS)
    return TrainingData(
        name="noise",
        fingerprint="0",
        note="",
        outputs=CLASSES,
        train=IMAGES.repeat(copies, 1, 1, 1),
        train_labels=labels.repeat(copies),
        test=IMAGES,
        test_labels=labels,
        task_name="classification",
    )


WAITS_PER_STEP = 0
WAITS_PER_EPOCH = 3
"""At most: for the mean loss, the score on held-out images, and the number of a parity model's view of the images."""
TRAINED = ("addition", "conditional", "concatenation", "learned", "invnet", "thumbnails")
AT_FIRST = 40
"""At most, for data, weights and constants of a code that are sent once."""


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        *((name, Best(shift=1, flip=True)) for name in TRAINED),
        ("addition", Best(shift=1, flip=True, views=2, graphed=True)),
        ("addition", Muon()),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.kind}{' graphed' * bool(value.graphed)}",
)
def test_steps_of_training_wait_for_nothing(name: str, recipe: Recipe, device: Device, tmp_path: Path) -> None:
    code, k, r = CODES[name]
    kind = ResNet18(width=2) if recipe.graphed else LeNet5() if recipe.kind == "muon" else None
    waits: list[list[list[tuple[str, str]]]] = []
    for epochs, copies in ((2, 4), (2, 8), (4, 4)):
        changed = recipe.model_copy(update={"epochs": epochs, "holdout": 20, "mixed": True})
        data, part = training_data(copies), code.parts(k, r)[0]
        parity = part.build(Mlp(hidden=(20,)), SHAPE, CLASSES, lambda _module: None).cuda()
        objectives: list[tuple[Objective, nn.Module]] = [
            (Supervised(data, changed, CUDA), network(kind).cuda()),
            (Reconstruction(data, network().cuda(), part, changed, CUDA), parity),
        ]
        waits.append([])
        for objective, module in objectives:
            device.clear()
            fitted(module, objective, changed, 40, tmp_path)
            waits[-1].append(list(device.waits))
            assert all(value.is_cuda for value in module.parameters())
    recorded = 2 * 2 if recipe.graphed else 0  # each of two sizes of a step, and where the data are views
    for few, more_steps, more_epochs in zip(*waits, strict=True):
        assert len(more_steps) - len(few) <= WAITS_PER_STEP, Counter(more_steps) - Counter(few)
        assert len(more_epochs) - len(few) <= 2 * (WAITS_PER_EPOCH + recorded), Counter(more_epochs) - Counter(few)
        assert len(few) <= AT_FIRST, Counter(few)


def fitted(
    module: nn.Module, objective: Objective, recipe: Recipe, batch: int, folder: Path
) -> tuple[Fit, list[float]]:
    """Train without a checkpoint, since safetensors cannot look into pretended tensors; return the losses as well."""
    losses: list[float] = []
    state = folder / "state"
    fit = train(module, objective, recipe, batch, 0, state, lambda fit, loss, score: losses.append(loss), 1e9)
    return fit, losses


@pytest.mark.parametrize("views", [None, 2])
def test_recorded_steps_learn_what_steps_as_they_are_learn(views: int | None, device: Device, tmp_path: Path) -> None:
    code, k, r = CODES["addition"]
    data, part = training_data(4), code.parts(k, r)[0]
    found = []
    for graphed in (None, True):
        recipe = Best(epochs=3, holdout=20, shift=1, flip=True, views=views, graphed=graphed, weight_decay=1.0, lr=0.05)
        module = network(ResNet18(width=2)).cuda()
        objective = Reconstruction(data, network().cuda(), part, recipe, CUDA)
        device.clear()
        fit, losses = fitted(module, objective, recipe, 14, tmp_path)
        assert fit.refused == ""
        found.append((losses, {name: value.cpu() for name, value in module.state_dict().items()}, device.replays))
    (losses, state, none), (others, other_state, replays) = found
    steps = math.ceil(90 / 14)
    assert none == 0
    assert replays == 3 * (steps - 2), "but for the first of each of two sizes"
    torch.testing.assert_close(losses, others, rtol=1e-5, atol=0)
    torch.testing.assert_close(state, other_state, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("unnoticed", [False, True])
def test_steps_that_cannot_be_recorded_are_taken_as_they_are(unnoticed: bool, device: Device, tmp_path: Path) -> None:
    data, states = training_data(2), []
    for graphed in (None, True):
        recipe = Best(epochs=2, holdout=10, shift=1, graphed=graphed, weight_decay=1.0)
        module = Waiting(unnoticed=unnoticed).cuda()
        fit, _ = fitted(module, Supervised(data, recipe, CUDA), recipe, 10, tmp_path)
        states.append({name: value.cpu() for name, value in module.state_dict().items()})
        assert len(device.streams) == 1
        assert device.debug == 0
        assert not device.pool_open
    assert fit.refused
    torch.testing.assert_close(*states, rtol=1e-4, atol=1e-5)


def test_an_optimiser_that_counts_on_the_host_is_not_recorded(device: Device, tmp_path: Path) -> None:
    data = training_data(1)
    recipe = Muon(epochs=1, holdout=10, graphed=True)
    fit, _ = fitted(network(ResNet18(width=2)).cuda(), Supervised(data, recipe, CUDA), recipe, 10, tmp_path)
    assert fit.refused == "MuonOptimiser counts its steps on the host"
