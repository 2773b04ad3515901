from __future__ import annotations

import pytest
import torch
import torchvision
from pydantic import ValidationError

from parity.modules import initialise_as_paper
from parity.networks import LeNet5, Mlp, MobileNetV2, Network, ResNet18
from sim.errors import ParmError


@pytest.mark.parametrize("network", [Mlp(), Mlp(hidden=(7,)), LeNet5(), ResNet18(width=4), MobileNetV2(width=0.25)])
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
    assert parameters(MobileNetV2().build((3, 224, 224), 1000)) == 3_504_872
    assert parameters(LeNet5().build((1, 28, 28), 10)) == parameters(LeNet5().build((1, 32, 32), 10)) == 61_706
    assert parameters(Mlp().build((1, 28, 28), 10)) == 785 * 200 + 201 * 100 + 101 * 10


def test_resnet18_skips_its_last_stage_on_small_images() -> None:
    small, large = ResNet18(width=4).build((1, 28, 28), 10), ResNet18(width=4).build((1, 32, 32), 10)
    assert [hasattr(m, "layer4") for m in (small, large)] == [False, True]
    assert small.get_submodule("fc").in_features == 16


@pytest.mark.parametrize("width", [0.25, 1.4])
def test_mobilenet_v2_is_torchvisions(width: float) -> None:
    """Weight by weight and answer by answer, the dropout aside, on images that need all of the strides."""
    mine = MobileNetV2(width=width).build((3, 97, 97), 20)
    reference = torchvision.models.mobilenet_v2(num_classes=20, width_mult=width, dropout=0.0)
    theirs = reference.state_dict()
    assert [value.shape for value in mine.state_dict().values()] == [value.shape for value in theirs.values()]
    mine.load_state_dict(dict(zip(mine.state_dict(), theirs.values(), strict=True)))
    images = torch.randn(2, 3, 97, 97, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = mine(images), reference(images)
    assert torch.allclose(found, expected, atol=1e-5)
    assert expected.abs().max() > 0.01


@pytest.mark.parametrize(("side", "last"), [(8, 4), (28, 4), (33, 5), (64, 4), (97, 4)])
def test_mobilenet_v2_leaves_out_strides_on_small_images(side: int, last: int) -> None:
    module = MobileNetV2(width=0.25).build((1, side, side), 10)
    *before, _, _, _ = module.children()
    with torch.no_grad():
        assert torch.nn.Sequential(*before)(torch.randn(1, 1, side, side)).shape == (1, 1280, last, last)


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
    assert Network.model_validate({"kind": "mobilenet_v2", "width": 0.25}) == MobileNetV2(width=0.25)
    with pytest.raises(ValidationError, match="width"):
        MobileNetV2(width=0.0)
