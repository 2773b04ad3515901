"""The invertible network, and the code whose fused query the deployed model answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from parity.codes import InvNet
from parity.evaluation import degraded, predict
from parity.modules import Fusion, InvertibleNetwork
from parity.networks import Invertible, Mlp
from parity.objectives import TrainingData
from parity.recipes import Best
from parity.store import ModelStore
from sim.code import Code
from sim.errors import ParmError


def invertible(shape: tuple[int, int, int], seed: int = 0) -> InvertibleNetwork:
    """A network in float64 with batch norms that do something."""
    torch.manual_seed(seed)
    network = Invertible(width=6, blocks=2).build(shape, 5)
    assert isinstance(network, InvertibleNetwork)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    return network.double().eval()


@settings(max_examples=20, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.sampled_from([6, 8, 12, 14, 28]), st.sampled_from([6, 8, 10, 28])),
    st.integers(0, 1000),
)
def test_the_network_is_undone_exactly(shape: tuple[int, int, int], seed: int) -> None:
    network = invertible(shape, seed)
    x = torch.randn(3, *shape, dtype=torch.float64)
    with torch.no_grad():
        z = network.features(x)
        assert z.shape == (3, x[0].numel())
        assert not torch.allclose(z.sort()[0], x.flatten(1).sort()[0])
        torch.testing.assert_close(network.inverse(z), x, rtol=0, atol=1e-9)
        torch.testing.assert_close(network.features(network.inverse(z)), z, rtol=0, atol=1e-9)


def test_sides_that_cannot_be_halved_are_refused() -> None:
    for shape in ((1, 7, 8), (3, 4, 4)):
        with pytest.raises(ParmError, match=f"even sides, one over 4 pixels, not {shape[1]}x{shape[2]}"):
            Invertible().build(shape, 10)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_with_exact_fusion_every_single_loss_is_reconstructed_exactly(k: int) -> None:
    network = invertible((2, 8, 8))
    coder, (answering,) = InvNet(fusion="exact").bind(k, 1, [], network)
    queries = torch.randn(k, k, 2, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        outputs = network(queries.flatten(0, 1)).reshape(k, k, 5)
        parities = answering(coder.encode(queries, 1)[:, 0])[:, None]
    hidden = outputs.clone()
    hidden[range(k), range(k)] = torch.nan
    returned = torch.tensor([((1 << k + 1) - 1) & ~(1 << slot) for slot in range(k)])
    torch.testing.assert_close(coder.decode(hidden, parities, returned), outputs, rtol=0, atol=1e-9)


def test_exact_fusion_needs_a_network_with_an_inverse() -> None:
    coder, _ = InvNet(fusion="exact").bind(2, 1, [], nn.Flatten())
    with pytest.raises(ParmError, match="needs the deployed network 'invertible'"):
        coder.encode(torch.zeros(1, 2, 1, 8, 8), 1)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 6)])
def test_fusion_begins_with_the_mean(shape: tuple[int, int, int]) -> None:
    (part,) = InvNet(width=4).parts(3, 1)
    module = part.build(Mlp(), shape, 5, lambda module: None)
    queries = torch.randn(4, 3, *shape)
    torch.testing.assert_close(module(queries), queries.mean(1))
    coder, _ = InvNet(width=4).bind(3, 1, [module], nn.Flatten())
    nn.init.ones_(module.layers[-1].bias)  # type: ignore[union-attr, index]
    torch.testing.assert_close(coder.encode(queries, 1), queries.mean(1, keepdim=True) + 1)


def test_it_says_what_it_cannot_do() -> None:
    assert Code.model_validate("invnet") == InvNet()
    assert InvNet.systematic
    with pytest.raises(ValueError, match="one coded query per group, not r = 2"):
        InvNet().check(2, 2)
    with pytest.raises(TypeError, match="bind"):
        InvNet().encode(torch.zeros(1, 2, 1, 8, 8), 1)
    assert not InvNet(fusion="exact").parts(2, 1)


def signed() -> TrainingData:
    """Two patterns, each of either sign, in noise: the mean of two pictures says little of what a model answers."""
    generator = torch.Generator().manual_seed(7)
    centres = torch.randn(2, 1, 8, 8, generator=generator)

    def draw(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(n) % 2
        signs = torch.randint(2, (n, 1, 1, 1), generator=generator) * 2 - 1
        return centres[labels] * signs + 0.5 * torch.randn(n, 1, 8, 8, generator=generator), labels

    (train, train_labels), (test, test_labels) = draw(400), draw(120)
    return TrainingData("signed", "fingerprint-of-signed", "", 2, train, train_labels, test, test_labels)


def test_training_learns_what_the_mean_of_the_images_lacks(tmp_path: Path) -> None:
    data, store, code, recipe = signed(), ModelStore(tmp_path), InvNet(width=16), Best(epochs=12, lr=1e-2, batch=32)
    deployed = store.classifier(Invertible(width=8, blocks=1), data, Best(epochs=6, batch=32), 0)
    (fusion,) = store.parts(deployed, data, code, 2, 1, recipe, 0)
    assert fusion.card["identity"]["role"] == "fusion"
    outputs = predict(deployed.module, data.test)

    def agreement(code: InvNet, networks: list[nn.Module]) -> float:
        found = degraded(
            code, 2, 1, networks, deployed.module, data.test, outputs, data.test_labels, data.task, groupings=5
        )
        return found.agreement

    untrained = Fusion(data.shape, 2, 8).eval()
    untrained.begin_with_mean()
    assert agreement(code, [fusion.module]) > agreement(code, [untrained]) + 0.1
    assert agreement(InvNet(fusion="exact"), []) == 1
    store.progress = lambda _: pytest.fail("again")
    (again,) = store.parts(deployed, data, code, 2, 1, recipe, 0)
    assert again.key == fusion.key
