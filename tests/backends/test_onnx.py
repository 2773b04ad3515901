"""Convolutional networks by ONNX Runtime answer as the module does; what cannot be had so runs in torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from backends import onnx
from backends.torch_backend import TorchBackend
from parity.codes import Concatenation, Conditional, TensorCode, Thumbnails
from parity.modules import ConditionalParity
from parity.networks import LeNet5, MobileNetV2, Network, ResNet18, Speedrun, Torchvision, Vgg11
from tests.backends.test_fusion import PATTERNS, Two, lived_in

if not onnx.installed():
    pytest.skip("onnxruntime and onnx are not installed", allow_module_level=True)

SHAPE = (3, 16, 16)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def branching() -> Two:
    return Two(lambda a, b, n, x: a(x) if x.sum() > 0 else b(x))


@pytest.mark.parametrize(
    "network",
    [ResNet18(width=4), MobileNetV2(width=0.1), LeNet5(), Vgg11(width=4), Torchvision(name="squeezenet1_1")],
    ids=str,
)
def test_every_network_answers_as_before_with_bits_that_do_not_depend_on_the_batch(network: Network) -> None:
    shape = (3, 64, 64) if isinstance(network, Torchvision) else SHAPE
    module, inputs = lived_in(network.build(shape, 7)), torch.randn(40, *shape)
    with torch.no_grad():
        plain = module(inputs)
    outputs = [TorchBackend("cpu", batch).predict(module, inputs) for batch in (16, 40)]
    backend = TorchBackend("cpu")
    served, _ = backend.serve(module, inputs[:3])
    assert backend.how(module) == "by ONNX Runtime; single precision"
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(served, outputs[0][:3])
    assert torch.equal(outputs[0].argmax(1), plain.argmax(1))
    torch.testing.assert_close(outputs[0], plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PATTERNS)
def test_what_only_looks_like_a_pattern_is_answered_as_before(name: str) -> None:
    module, inputs = lived_in(Two(PATTERNS[name])), torch.randn(5, 3, 6, 6)
    kept = inputs.clone()
    with torch.inference_mode():
        torch.testing.assert_close(onnx.optimised(module, inputs, None)(inputs), module(inputs), rtol=1e-4, atol=1e-5)
        assert torch.equal(inputs, kept)


def test_a_forward_pass_that_depends_on_its_input_runs_in_torch() -> None:
    module, backend = branching(), TorchBackend("cpu")
    for sign in (1, -1):
        inputs = sign * torch.rand(4, 3, 6, 6)
        with torch.no_grad():
            torch.testing.assert_close(backend.predict(module, inputs), module.eval()(inputs))
    assert "not by ONNX Runtime: TraceError in its export" in str(backend.how(module))


class Odd(nn.Module):
    """A convolution and `rule` after it."""

    def __init__(self, rule: str) -> None:
        super().__init__()
        self.first, self.rule = nn.Conv2d(3, 3, 1), rule

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.first(x).flatten(1)
        if self.rule == "no such operator":
            return torch.special.bessel_j0(y)
        return y + torch.randn(())  # at export this becomes one number, or another one at each pass


@pytest.mark.parametrize(
    ("rule", "reason"), [("no such operator", "in its export to ONNX"), ("random", "its export to ONNX is off by")]
)
def test_what_cannot_be_exported_or_answers_otherwise_runs_in_torch(
    rule: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    module, inputs, backend = Odd(rule), torch.randn(4, 3, 6, 6), TorchBackend("cpu")
    outputs = backend.predict(module, inputs)
    assert reason in str(backend.how(module))
    assert capfd.readouterr() == ("", "")  # by default torch prints the graph of a model that it cannot export
    if rule == "no such operator":
        with torch.no_grad():
            torch.testing.assert_close(outputs, module(inputs))


def test_without_the_library_a_folded_copy_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "installed", lambda: False)
    module, inputs, backend = lived_in(ResNet18(width=4).build(SHAPE, 7)), torch.randn(20, *SHAPE), TorchBackend("cpu")
    with torch.no_grad():
        torch.testing.assert_close(backend.predict(module, inputs), module(inputs), rtol=1e-4, atol=1e-4)
    how = "batch norm folded into 15 convolutions; not by ONNX Runtime: onnxruntime and onnx are not installed"
    assert backend.how(module) == f"{how}; single precision"


def test_an_export_is_kept_for_the_next_process_and_belongs_to_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, inputs = LeNet5().build(SHAPE, 7), torch.randn(20, *SHAPE)
    folder = tmp_path / "exports"
    first = TorchBackend("cpu", exports=folder).predict(module, inputs)
    (file,) = folder.glob("*.onnx")

    def exporting(*given: object, **named: object) -> None:
        raise AssertionError("there is an export already")

    with monkeypatch.context() as patch:
        patch.setattr(torch.onnx, "export", exporting)
        assert torch.equal(TorchBackend("cpu", exports=folder).predict(module, inputs), first)
    nn.init.normal_(module.fc3.weight)  # type: ignore[arg-type, union-attr]
    assert not torch.equal(TorchBackend("cpu", exports=folder).predict(module, inputs), first)
    assert len(list(folder.glob("*.onnx"))) == 2
    file.write_bytes(b"damaged")
    nn.init.constant_(module.fc3.weight, 1.0)  # type: ignore[arg-type, union-attr]
    read_only = TorchBackend("cpu", exports=file / "below a file")
    read_only.predict(module, inputs)
    assert str(read_only.how(module)).startswith("by ONNX Runtime")


def test_a_damaged_export_is_made_anew(tmp_path: Path) -> None:
    module, inputs = LeNet5().build(SHAPE, 7), torch.randn(20, *SHAPE)
    first = TorchBackend("cpu", exports=tmp_path).predict(module, inputs)
    (file,) = tmp_path.glob("*.onnx")
    file.write_bytes(b"damaged")
    backend = TorchBackend("cpu", exports=tmp_path)
    assert torch.equal(backend.predict(module, inputs), first)
    assert str(backend.how(module)).startswith("by ONNX Runtime")
    assert file.stat().st_size > 10_000


def test_another_number_of_threads_makes_another_session() -> None:
    module, backend = LeNet5().build(SHAPE, 7), TorchBackend("cpu")
    runner = backend.runner(module)
    assert backend.runner(module) is runner
    torch.set_num_threads(2)
    assert backend.runner(module) is not runner


def test_only_networks_with_convolutions_are_exported() -> None:
    module, backend = nn.Sequential(nn.Flatten(), nn.Linear(768, 7)), TorchBackend("cpu")
    backend.predict(module, torch.randn(20, *SHAPE))
    assert backend.how(module) == "as it is; single precision"


def test_a_conditional_parity_model_is_exported_without_its_decoder() -> None:
    module = ConditionalParity(LeNet5().build(SHAPE, 11), k=2, classes=7, features=4, hidden=8)
    backend, inputs = TorchBackend("cpu"), torch.randn(20, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(backend.predict(module, inputs), module(inputs), rtol=1e-4, atol=1e-4)
    assert str(backend.how(module)).startswith("by ONNX Runtime")


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize(
    "code",
    [Thumbnails(), Thumbnails(chroma=True), Concatenation(chroma=True), Conditional(base=Concatenation(chroma=True))],
    ids=str,
)
def test_parity_models_that_cut_up_pictures_are_exported(code: TensorCode, k: int) -> None:
    network = LeNet5() if k == 4 else Speedrun(width=4, mirrored=k == 3 or None)
    (part,) = code.parts(k, 1)
    module = part.build(network, (3, 32, 31), 7, lambda _: None).eval()
    backend, pictures = TorchBackend("cpu"), torch.randn(20, 3, 32, 31)
    with torch.no_grad():
        torch.testing.assert_close(backend.predict(module, pictures), module(pictures), rtol=1e-4, atol=1e-4)
    assert str(backend.how(module)).startswith("by ONNX Runtime")
