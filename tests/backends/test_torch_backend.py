"""Running and measuring modules on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from backends.measuring import measure
from backends.torch_backend import TorchBackend
from sim.errors import ParmError

MODULES = {
    "dense": nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 7)),
    "convolutional": nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 7)
    ),
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def images(n: int) -> Tensor:
    return torch.randn(n, 3, 8, 8)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("n", [0, 1, 5, 16, 17, 32, 50])
def test_predict_equals_the_plain_module(name: str, n: int) -> None:
    module, inputs = MODULES[name].train(), images(n)
    outputs = TorchBackend("cpu", batch=16).predict(module, inputs)
    with torch.no_grad():
        plain = module.eval()(inputs)
    assert outputs.dtype == torch.float32
    assert outputs.shape == (n, 7)
    torch.testing.assert_close(outputs, plain)
    outputs += 1  # an ordinary tensor, free to be written to


@pytest.mark.parametrize("name", MODULES)
def test_predict_samples_gathers_from_the_resident_data_set(name: str) -> None:
    backend = TorchBackend("cpu", batch=16)
    data = images(40)
    indices = torch.tensor([3, 39, 3, 0, *range(20, 40)])
    outputs = backend.predict_samples(MODULES[name], backend.place(data), indices)
    torch.testing.assert_close(outputs, backend.predict(MODULES[name], data[indices]))
    assert backend.predict_samples(MODULES[name], data, indices[:0]).shape == (0, 7)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("n", [1, 3, 15, 16, 31, 32, 33, 50])
def test_a_served_batch_has_the_bits_of_a_predicted_one(name: str, half: bool, n: int) -> None:
    backend, inputs = TorchBackend("cpu", batch=32, precision="half" if half else "single"), images(n)
    outputs, seconds = backend.serve(MODULES[name].train(), inputs)
    assert torch.equal(outputs, backend.predict(MODULES[name], inputs))
    assert outputs.dtype == torch.float32
    assert seconds > 0
    outputs += 1  # an ordinary tensor, free to be written to


def test_a_service_is_the_unpadded_pass_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    class Slow(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            nonlocal now
            now += len(inputs)
            rows.append(len(inputs))
            return inputs.flatten(1)

    monkeypatch.setattr("backends.torch_backend.perf_counter", lambda: now)
    backend, slow = TorchBackend("cpu", batch=32), Slow()
    for n, passes in ((1, [1, 16]), (15, [15, 16]), (16, [16]), (32, [32]), (34, [32, 2, 32, 16])):
        rows: list[int] = []
        outputs, seconds = backend.serve(slow, images(n))
        assert (seconds, rows, outputs.shape) == (n, passes, (n, 192))


def test_batches_are_as_big_as_asked_and_tiny_ones_are_padded() -> None:
    rows: list[int] = []

    class Spy(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            rows.append(len(inputs))
            return inputs.flatten(1)

    spy = Spy()
    assert TorchBackend("cpu", batch=32).predict(spy, images(67)).shape == (67, 192)
    assert rows == [32, 32, 16]
    rows.clear()
    measure(TorchBackend("cpu"), {"deployed": spy}, (3, 8, 8), (4, 1, 4), repeats=3, warmup=2, network="spy")
    assert rows == [1, 4] * 5, "a measurement pads nothing, and the sizes take turns"


def test_measured_quantiles_are_positive_and_increase() -> None:
    backend = TorchBackend("cpu")
    profile = measure(backend, {"deployed": MODULES["dense"]}, (3, 8, 8), (1, 64), repeats=200, warmup=2, network="mlp")
    assert profile.network == "mlp"
    assert profile.made["torch"] == torch.__version__
    sizes = profile.roles["deployed"]
    assert list(sizes) == [1, 64]
    for quantiles in sizes.values():
        assert quantiles.seconds[0] > 0
        assert list(quantiles.seconds) == sorted(quantiles.seconds)
        assert quantiles.seconds[-1] > quantiles.seconds[0]
        assert quantiles.probabilities[-2:] == (0.995, 1.0)


def test_the_warm_up_is_discarded() -> None:
    profile = measure(
        TorchBackend("cpu"), {"deployed": MODULES["dense"]}, (3, 8, 8), repeats=199, warmup=60, network="mlp"
    )
    assert profile.roles["deployed"][1].probabilities[-2:] == (0.99, 1.0), "199 times show no 99.5th percentile, 259 do"


@pytest.mark.parametrize("sizes", [(), (0,), (1, -2)])
def test_an_impossible_measurement_is_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ParmError, match="at least 1"):
        measure(TorchBackend("cpu"), {"deployed": MODULES["dense"]}, (3, 8, 8), sizes, network="mlp")


def test_half_precision_is_told_apart_and_its_agreement_is_counted() -> None:
    module, inputs = MODULES["dense"], images(300)
    single, half = (
        TorchBackend("cpu", precision="half" if h else "single").predict(module, inputs) for h in (False, True)
    )
    assert half.dtype == torch.float32
    assert not torch.equal(single, half)
    torch.testing.assert_close(half, single, atol=0.05, rtol=0.05)
    same = (single.argmax(1) == half.argmax(1)).float().mean().item()
    assert TorchBackend("cpu").agreement(module, inputs) == pytest.approx(same)
    assert TorchBackend("cpu").agreement(nn.Flatten(), inputs.round()) == 1


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cpu:1", "", "mps", "cuda:-1"])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(ParmError, match=f"there is no device '{name}': choose"):
        TorchBackend(name)


def test_an_absent_device_is_refused_and_auto_takes_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert TorchBackend().device.type == "cpu"
    with pytest.raises(ParmError, match="there is no device 'cuda'"):
        TorchBackend("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    made_current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", made_current.append)
    assert TorchBackend().device.type == "cuda"
    assert made_current == []
    assert str(TorchBackend("cuda:1").device) == "cuda:1"
    assert made_current == [torch.device("cuda:1")]  # or its streams and events would be device 0's
    with pytest.raises(ParmError, match="torch sees 2 CUDA"):
        TorchBackend("cuda:2")


def test_a_batch_below_the_padding_is_refused() -> None:
    with pytest.raises(ParmError, match="at least 16"):
        TorchBackend("cpu", batch=8)
