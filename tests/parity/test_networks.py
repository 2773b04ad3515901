from __future__ import annotations

import pytest
import torch
import torchvision
from pydantic import ValidationError

from parity.modules import ResNet, initialise_as_paper
from parity.networks import (
    LeNet5,
    Mlp,
    MobileNetV2,
    Network,
    ResNet18,
    ResNet152,
    Speedrun,
    Torchvision,
    Transformer,
    Vgg11,
)
from parity.speedrun import COLOURS, NEIGHBOURS, NOISE, whitening_filters
from sim.errors import ParmError

NETWORKS = [
    *(
        Mlp(),
        Mlp(hidden=(7,)),
        LeNet5(),
        MobileNetV2(width=0.25),
        Vgg11(width=4),
        Speedrun(width=4),
        Transformer(width=8),
    ),
    *(ResNet18(width=4), ResNet18(width=4, stem="cifar"), ResNet18(width=4, stem="imagenet"), ResNet152(width=2)),
]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: "-".join(map(str, network.model_dump().values())))
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
    assert parameters(ResNet18(stem="imagenet").build((3, 224, 224), 1000)) == 11_689_512
    with torch.device("meta"):
        assert parameters(ResNet152(stem="imagenet").build((3, 224, 224), 1000)) == 60_192_808
    assert parameters(LeNet5().build((1, 28, 28), 10)) == parameters(LeNet5().build((1, 32, 32), 10)) == 61_706
    assert parameters(Mlp().build((1, 28, 28), 10)) == 785 * 200 + 201 * 100 + 101 * 10


def test_resnet18_skips_its_last_stage_on_small_images() -> None:
    small, large = ResNet18(width=4).build((1, 28, 28), 10), ResNet18(width=4).build((1, 32, 32), 10)
    assert [hasattr(m, "layer4") for m in (small, large)] == [False, True]
    assert small.get_submodule("fc").in_features == 16


def test_the_stem_decides_how_far_an_image_shrinks_first() -> None:
    def stages(network: ResNet18, side: int) -> list[str]:
        module = network.build((3, side, side), 10)
        with torch.no_grad():
            x = torch.randn(1, 3, side, side)
            sizes = []
            for name, layer in module.named_children():
                x = layer(x)
                if name.startswith("layer"):
                    sizes.append(f"{name}:{x.shape[2]}")
        return sizes

    assert stages(ResNet18(width=2), 28) == ["layer1:28", "layer2:14", "layer3:7"]
    assert stages(ResNet18(width=2), 32) == ["layer1:32", "layer2:16", "layer3:8", "layer4:4"]
    assert stages(ResNet18(width=2, stem="cifar"), 28) == ["layer1:28", "layer2:14", "layer3:7", "layer4:4"]
    assert stages(ResNet18(width=2, stem="imagenet"), 224) == ["layer1:56", "layer2:28", "layer3:14", "layer4:7"]


def test_a_default_stem_changes_no_key() -> None:
    """Models that were trained before there were other stems are still found."""
    assert ResNet18(width=16).model_dump(mode="json") == {"kind": "resnet18", "width": 16}
    assert ResNet18(stem="imagenet").model_dump(mode="json") == {"kind": "resnet18", "width": 64, "stem": "imagenet"}
    assert ResNet18.model_validate(ResNet18(stem="cifar").model_dump()) == ResNet18(stem="cifar")
    names = list(ResNet18(width=2).build((1, 28, 28), 10).state_dict())
    assert names[:2] == ["conv1.weight", "bn1.weight"]
    assert "layer2.0.downsample.0.weight" in names
    assert names[-2:] == ["fc.weight", "fc.bias"]


@pytest.mark.parametrize(("network", "name"), [(ResNet18, "resnet18"), (ResNet152, "resnet152")])
def test_residual_networks_have_torchvisions_weights(network: type[ResNet18 | ResNet152], name: str) -> None:
    """By the same names, so that weights from there can be loaded."""
    with torch.device("meta"):
        mine = network(stem="imagenet").build((3, 224, 224), 20).state_dict()
        theirs = torchvision.models.get_model(name, num_classes=20).state_dict()
    assert {key: value.shape for key, value in mine.items()} == {key: value.shape for key, value in theirs.items()}


@pytest.mark.parametrize("bottleneck", [False, True])
def test_residual_networks_answer_as_torchvisions(bottleneck: bool) -> None:
    blocks = torchvision.models.resnet
    reference = blocks.ResNet(blocks.Bottleneck if bottleneck else blocks.BasicBlock, [1, 2, 1, 1], num_classes=20)
    mine = ResNet((3, 40, 33), 20, 64, (1, 2, 1, 1), bottleneck, imagenet=True)
    mine.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, 40, 33, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = mine(images), reference(images)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 0.01


def test_vgg11_has_torchvisions_convolutions_and_takes_spectrograms() -> None:
    mine = Vgg11().build((3, 64, 64), 10).get_submodule("features")
    theirs = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["A"], batch_norm=True)
    mine.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(mine(images), theirs(images))
    # The paper's spectrograms end in a map of 5x3, CIFAR's images in one pixel; photographs as published in 7x7.
    for shape, inputs in (((1, 161, 101), 512 * 15), ((3, 32, 32), 512), ((3, 224, 224), 512 * 49)):
        with torch.device("meta"):
            assert Vgg11().build(shape, 30).get_submodule("fc1").in_features == inputs
    assert Vgg11(width=4).build((1, 161, 101), 30)(torch.randn(2, 1, 161, 101)).shape == (2, 30)


@pytest.mark.parametrize(("name", "side"), [("resnet18", 32), ("googlenet", 64), ("shufflenet_v2_x0_5", 224)])
def test_torchvisions_classifiers_answer_in_training_too(name: str, side: int) -> None:
    """GoogLeNet, with its extra heads, would answer with a tuple of three."""
    module = Torchvision(name=name).build((3, side, side), 7)
    assert module.training
    assert module(torch.randn(2, 3, side, side)).shape == (2, 7)


def test_torchvisions_classifiers_are_without_noise() -> None:
    for name in ("squeezenet1_1", "efficientnet_b0"):  # dropout; stochastic depth too
        module = Torchvision(name=name).build((3, 32, 32), 7)
        for layer in module.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = 0.0
        images = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            assert torch.equal(module(images), module(images))


@pytest.mark.parametrize(
    ("name", "shape", "sentence"),
    [
        ("resnet5", (3, 32, 32), r"no classifier 'resnet5'; did you mean 'resnet50'\?"),
        ("quux", (3, 32, 32), r"no classifier 'quux'; it has alexnet, .*wide_resnet50_2"),
        ("fasterrcnn_resnet50_fpn", (3, 32, 32), "no classifier 'fasterrcnn_resnet50_fpn'"),
        ("resnet50", (1, 28, 28), "resnet50 needs images of 3 channels, not 1"),
        ("squeezenet1_0", (3, 8, 9), r"squeezenet1_0 does not take images of 8x9 \(Given input size"),
    ],
)
def test_what_torchvision_lacks_or_refuses_is_said_in_a_sentence(
    name: str, shape: tuple[int, int, int], sentence: str
) -> None:
    with pytest.raises(ParmError, match=sentence) as caught:
        Torchvision(name=name).build(shape, 10)
    assert "\n" not in str(caught.value)


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


def test_the_speedrun_networks_size_is_the_sources() -> None:
    """Two million weights, of which none is in the fixed filters (arXiv 2404.00498, without its first layer's bias)."""
    network = Speedrun().build((3, 32, 32), 10)
    whitening = network.get_submodule("whitening")
    assert not list(whitening.parameters())
    assert whitening(torch.zeros(1, 3, 32, 32)).shape == (1, 24, 31, 31)
    assert parameters(network) == 1_972_480


def test_the_answers_of_whitening_filters_vary_alike_and_independently_on_the_images_modelled() -> None:
    place = torch.arange(2, dtype=torch.float64)
    line = NEIGHBOURS ** (place[:, None] - place).abs()
    colour = torch.full((3, 3), COLOURS, dtype=torch.float64).fill_diagonal_(1)
    covariance = torch.kron(colour, torch.kron(line, line)) + NOISE * torch.eye(12)
    filters = whitening_filters(3, 2).flatten(1).double()
    assert torch.equal(filters[:12], -filters[12:])
    assert torch.allclose(filters[:12] @ covariance @ filters[:12].T, torch.eye(12, dtype=torch.float64), atol=1e-5)


def test_whitening_filters_outlive_the_papers_initialisation() -> None:
    network = Speedrun(width=4).build((1, 8, 8), 10)
    before = network.state_dict()["whitening.filters"].clone()
    initialise_as_paper(network)
    assert torch.equal(network.state_dict()["whitening.filters"], before)


def test_a_transformer_tells_the_order_of_words() -> None:
    module = Transformer(width=8, heads=2).build((6, 5, 1), 3)
    words = torch.randn(1, 6, 5, 1)
    assert not torch.allclose(module(words), module(words.flip(2)))
    with pytest.raises(ValidationError, match="width"):
        Transformer(width=10, heads=4)


def test_a_mirrored_network_answers_an_image_and_its_mirror_image_alike_once_it_is_trained() -> None:
    torch.manual_seed(0)
    images = torch.randn(3, 1, 8, 8)
    plain, mirrored = (Speedrun(width=4, mirrored=mirrored).build((1, 8, 8), 10) for mirrored in (None, True))
    mirrored.load_state_dict(plain.state_dict())
    plain.eval()
    mirrored.eval()
    mean = (plain(images) + plain(images.flip(-1))) / 2
    assert torch.equal(mirrored(images), mean)
    assert torch.equal(mirrored(images.flip(-1)), mean)
    plain.train()
    mirrored.train()
    assert torch.equal(mirrored(images), plain(images))
    assert "mirrored" not in Speedrun().model_dump(exclude_none=True)  # so that models from before are found
