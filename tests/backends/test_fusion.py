"""Fused copies answer as their module does, and leave it alone."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from backends.fusion import fused, trusted_copy
from parity.networks import LeNet5, MobileNetV2, Network, ResNet18


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def lived_in(module: nn.Module) -> nn.Module:
    """Give batch norms statistics and weights that are worth folding."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.2)
    return module.eval()


class Two(nn.Module):
    """Two convolutions and what `forward` does with them."""

    def __init__(self, forward: Callable[[nn.Module, nn.Module, nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.relu = nn.ReLU()
        self.rule = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.rule(self.first, self.second, self.norm, x).flatten(1)


PATTERNS: dict[str, Callable[[nn.Module, nn.Module, nn.Module, Tensor], Tensor]] = {
    "two branches are added": lambda a, b, n, x: torch.relu(a(x) + b(x)),
    "the convolution's output is used twice": lambda a, b, n, x: n(a(x)) + a(x),
    "an input is added, which stays whole": lambda a, b, n, x: (a(x) + x) + x,
    "a number is added": lambda a, b, n, x: a(x) + 1.0,
    "a channel's mean is added": lambda a, b, n, x: a(x) + x.mean(dim=(2, 3), keepdim=True),
    "norm before its convolution": lambda a, b, n, x: b(n(x)),
    "a difference": lambda a, b, n, x: a(x) - b(x),
    "itself twice": lambda a, b, n, x: sum([a(x)] * 2, start=a(x)),
}


@pytest.mark.parametrize(
    ("network", "shape", "folded"),
    [
        (ResNet18(width=4), (3, 32, 32), 20),
        (ResNet18(width=4), (1, 28, 28), 15),
        (MobileNetV2(width=0.1), (3, 32, 32), 52),
        (LeNet5(), (1, 28, 28), 0),
    ],
    ids=str,
)
def test_every_network_answers_as_before_and_is_not_touched(
    network: Network, shape: tuple[int, int, int], folded: int
) -> None:
    module = lived_in(network.build(shape, 7))
    before = copy.deepcopy(module.state_dict())
    made, how = fused(module)
    assert f"folded into {folded} convolutions" in how
    assert not any(isinstance(part, nn.BatchNorm2d) for part in made.modules())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    inputs = torch.randn(20, *shape)
    with torch.inference_mode():
        plain, fast = module(inputs), made(inputs.contiguous(memory_format=torch.channels_last))
    assert float((plain - fast).abs().max()) < 1e-5 * max(1.0, float(plain.abs().max()))
    assert torch.equal(plain.argmax(1), fast.argmax(1))


@pytest.mark.parametrize(
    ("network", "shape", "widened"), [(ResNet18(width=4), (3, 32, 32), 1), (LeNet5(), (1, 28, 28), 1)], ids=str
)
def test_channels_of_zeros_change_no_answer(network: Network, shape: tuple[int, int, int], widened: int) -> None:
    module, inputs = lived_in(network.build(shape, 7)), torch.randn(20, *shape)
    made, how = fused(module, wide_stem=True)
    assert f"{widened} of them given channels of zeros" in how
    first = next(part for part in made.modules() if isinstance(part, nn.Conv2d))
    assert first.weight.shape[1] == first.in_channels == 8
    with torch.inference_mode():
        wide = torch.cat([inputs, torch.zeros(20, 8 - shape[0], *shape[1:])], dim=1)
        for given in (inputs, wide):
            torch.testing.assert_close(made(given), module(inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PATTERNS)
def test_what_only_looks_like_a_pattern_is_answered_as_before(name: str) -> None:
    module = lived_in(Two(PATTERNS[name]))
    inputs = torch.randn(5, 3, 6, 6)
    with torch.inference_mode():
        kept = inputs.clone()
        for wide_stem in (False, True):
            made, how = trusted_copy(module, inputs, wide_stem=wide_stem)
            assert not how.startswith("as it is"), "it was not even recognised as what it is"
            torch.testing.assert_close(made(inputs), module(inputs))
            assert torch.equal(inputs, kept)


def test_a_forward_pass_that_depends_on_its_input_is_run_as_it_is() -> None:
    module = Two(lambda a, b, n, x: a(x) if x.sum() > 0 else b(x))
    made, how = fused(module)
    assert how.startswith("as it is: TraceError")
    for sign in (1, -1):
        inputs = sign * torch.rand(4, 3, 6, 6)
        assert torch.equal(made(inputs), module(inputs))


def test_a_copy_that_answers_otherwise_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    module, inputs = lived_in(Two(PATTERNS["a number is added"])), torch.randn(4, 3, 6, 6)
    monkeypatch.setattr("backends.fusion.fused", lambda module, **options: (nn.Flatten(), "wrongly"))
    with torch.inference_mode():
        made, how = trusted_copy(module, inputs)
        assert torch.equal(made(inputs), module(inputs))
        assert "it is off by" in how
        monkeypatch.setattr("backends.fusion.fused", lambda module, **options: (nn.Linear(1, 1), "wrongly"))
        made, how = trusted_copy(module, inputs)
        assert torch.equal(made(inputs), module(inputs))
        assert "fused, it says" in how
