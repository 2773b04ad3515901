from __future__ import annotations

import pytest
import torch

from parity.modules import initialise_as_paper
from parity.networks import LeNet5, Mlp, Network, ResNet18
from sim.errors import ParmError


@pytest.mark.parametrize("network", [Mlp(), Mlp(hidden=(7,)), LeNet5(), ResNet18(width=4)])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 20, 13), (1, 40, 33)])
def test_every_network_takes_every_image_size(network: Network, shape: tuple[int, int, int]) -> None:
    module = network.build(shape, 11)
    found = module(torch.randn(2, *shape))
    assert found.shape == (2, 11)
    # No softmax and no ReLU at the end: decoding subtracts raw outputs.
    assert (found < 0).any()
    assert not torch.allclose(found.sum(1), torch.ones(2))


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_sizes_are_the_literatures() -> None:
    assert parameters(ResNet18().build((3, 32, 32), 10)) == 11_173_962
    assert parameters(LeNet5().build((1, 28, 28), 10)) == parameters(LeNet5().build((1, 32, 32), 10)) == 61_706
    assert parameters(Mlp().build((1, 28, 28), 10)) == 785 * 200 + 201 * 100 + 101 * 10


def test_resnet18_skips_its_last_stage_on_small_images() -> None:
    small, large = ResNet18(width=4).build((1, 28, 28), 10), ResNet18(width=4).build((1, 32, 32), 10)
    assert [hasattr(m, "layer4") for m in (small, large)] == [False, True]
    assert small.get_submodule("fc").in_features == 16


def test_impossible_images_are_refused_in_a_sentence() -> None:
    with pytest.raises(ParmError, match="lenet5 needs images of at least 4x4 pixels, not 3x8"):
        LeNet5().build((1, 3, 8), 10)


def test_paper_initialisation() -> None:
    torch.manual_seed(0)
    module = LeNet5().build((3, 32, 32), 10)
    initialise_as_paper(module)
    fc1, conv2 = module.get_parameter("fc1.weight").detach(), module.get_parameter("conv2.weight").detach()
    assert float(fc1.std()) == pytest.approx(0.01, rel=0.05)
    bound = 2**0.5 * (6 / (25 * (6 + 16))) ** 0.5
    assert float(conv2.abs().max()) == pytest.approx(bound, rel=0.01)
    assert not any(p.any() for name, p in module.named_parameters() if name.endswith("bias"))


def test_networks_are_found_by_name() -> None:
    assert Network.model_validate("mlp") == Mlp()
    assert Network.model_validate({"kind": "resnet18", "width": 16}) == ResNet18(width=16)
