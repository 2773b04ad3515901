"""One model made ready: batches, bits, staleness and precision, on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from backends import runner, torch_backend
from backends.runner import ModelRunner, Precision, largest_activation
from backends.torch_backend import TorchBackend
from parity.networks import LeNet5, ResNet18

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def small() -> nn.Module:
    return ResNet18(width=4).build((3, 8, 8), 7)


@pytest.mark.parametrize("half", [False, True])
def test_an_answers_bits_do_not_depend_on_its_batch(half: bool) -> None:
    inputs, module = torch.randn(96, 3, 8, 8), small()
    precision: Precision = "half" if half else "single"
    backends = [TorchBackend("cpu", batch, precision=precision) for batch in (16, 23, 32, 96)]
    outputs = [backend.predict(module, inputs) for backend in backends]
    assert all(torch.equal(outputs[0], other) for other in outputs[1:])
    assert torch.equal(backends[0].predict(module, inputs[:5]), outputs[0][:5]), "tiny batches are padded"


def test_rows_are_gathered_batch_by_batch_and_none_beyond_the_last() -> None:
    asked: list[slice] = []

    def gather(chunk: slice) -> Tensor:
        asked.append(chunk)
        return torch.arange(chunk.start, chunk.stop)[:, None].float()

    outputs = ModelRunner(nn.Identity(), CPU, half=False, batch=16).outputs(35, gather)
    assert outputs.flatten().tolist() == list(range(35))
    assert asked == [slice(0, 16), slice(16, 32), slice(32, 35)]
    assert ModelRunner(nn.Identity(), CPU, half=False).outputs(0, gather).shape == (0, 1)


def test_the_batch_is_chosen_by_the_largest_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(nn.Linear(4, 1000), nn.ReLU(), nn.Linear(1000, 2))
    assert largest_activation(module, lambda: module(torch.randn(3, 4))) == 3 * 4000
    for cache, batch in ((64 * 4000, 64), (63 * 4000, 32), (4000, 32), (10**9, 256)):
        monkeypatch.setattr(runner, "CACHE", cache)
        assert ModelRunner(module, CPU, half=False).batch_for(lambda chunk: torch.randn(3, 4)[chunk]) == batch
    assert ModelRunner(module, CPU, half=False, batch=99).batch_for(lambda chunk: torch.randn(3, 4)[chunk]) == 99


@pytest.mark.parametrize("change", ["weights", "statistics", "state", "training"])
def test_a_module_that_changed_is_made_ready_again(change: str) -> None:
    backend, module, inputs = TorchBackend("cpu"), small(), torch.randn(20, 3, 8, 8)
    before = backend.predict(module, inputs)
    assert torch.equal(backend.predict(module, inputs), before)
    if change == "weights":
        nn.init.normal_(module.fc.weight)  # type: ignore[arg-type, union-attr]
    elif change == "statistics":
        module.bn1.running_mean.add_(0.5)  # type: ignore[operator, union-attr]
    elif change == "state":
        module.load_state_dict(small().state_dict())
    else:
        module.train()(inputs)  # which moves the running statistics
    after = backend.predict(module, inputs)
    assert not torch.equal(after, before)
    with torch.no_grad():
        torch.testing.assert_close(after, module(inputs))
    assert not module.training


def test_predictions_leave_a_users_module_as_it_was() -> None:
    module = LeNet5().build((1, 28, 28), 10)
    names, types = list(module.state_dict()), [type(part) for part in module.modules()]
    for precision in ("single", "half"):
        TorchBackend("cpu", precision=precision).predict(module, torch.randn(3, 1, 28, 28))
    assert list(module.state_dict()) == names
    assert [type(part) for part in module.modules()] == types
    assert all(value.dtype == torch.float32 for value in module.state_dict().values())
    module.train()(torch.randn(3, 1, 28, 28)).sum().backward()


def test_half_precision_is_settled_by_the_held_samples_where_the_device_is_cuda(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Fake(TorchBackend):
        """Computes on the CPU and says that it is CUDA where precision is decided."""

        def __init__(self, agreement: float, precision: str = "auto") -> None:
            super().__init__("cpu", precision=precision)  # type: ignore[arg-type]
            self.device = torch.device("cuda")
            self.asked = 0
            self._agreement = agreement

        def agreement(self, module: nn.Module, inputs: Tensor) -> float:
            self.asked += 1
            return self._agreement

    monkeypatch.setattr(
        torch_backend,
        "ModelRunner",
        lambda module, device, half, batch, exports: ModelRunner(module, CPU, half=half, batch=batch),
    )
    held = torch.randn(4, 3, 8, 8)
    for agreement, half in ((1.0, True), (0.999, True), (0.998, False)):
        backend, module = Fake(agreement), small()
        for _ in range(2):
            settled = backend.settle(module, lambda: held)
            assert settled.half == half
            assert f"agrees on {agreement:.4f}" in settled.how
        assert backend.asked == 1
        assert backend.runner(module) is settled
    for precision in ("single", "half"):
        backend = Fake(1.0, precision)
        assert backend.settle(small(), lambda: held).half == (precision == "half")
        assert backend.asked == 0


def test_on_the_cpu_single_precision_stays() -> None:
    def unasked() -> Tensor:
        raise AssertionError("nobody is to ask for held samples")

    assert not TorchBackend("cpu").settle(small(), unasked).half
