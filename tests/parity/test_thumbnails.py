"""Queries in small: chroma subsampling, networks for one place, warm starts, and decoding without the other answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from parity.codes import Concatenation, Conditional, Thumbnails
from parity.mosaic import BRIGHTNESS, DETAIL, PlaceByPlace, adopt, places, shown, unpacked
from parity.networks import LeNet5, Network, ResNet18, Speedrun
from parity.speedrun import whitening_filters
from sim import Cluster, Coded, OpenSchedule, Streams, simulate
from sim.code import Code
from sim.engines import Engine
from sim.errors import ParmError
from sim.stragglers import Heterogeneous
from sim.trace import Route


def brightness(images: Tensor) -> Tensor:
    """(n, 3, h, w) -> (n, h, w)."""
    return (images * torch.tensor(BRIGHTNESS)[:, None, None]).sum(1)


def test_two_images_keep_all_of_their_brightness_with_chroma_subsampling() -> None:
    images = torch.rand(5, 2, 3, 16, 12)
    picture = shown(images, (1, 1), chroma=True)
    assert picture.shape == (5, 3, 16, 12)  # the size of one
    for slot in (0, 1):
        mean, detail, _ = picture[:, :, 8 * slot : 8 * slot + 8].unbind(1)
        rows = torch.stack([mean + detail / DETAIL, mean - detail / DETAIL], dim=2).flatten(1, 2)
        torch.testing.assert_close(rows, brightness(images[:, slot]))


@pytest.mark.parametrize("width", [12, 13])
def test_colours_of_half_the_resolution_come_back(width: int) -> None:
    blocks = torch.rand(4, 3, 4, 1, (width + 1) // 2, 1).expand(4, 3, 4, 2, (width + 1) // 2, 2)
    images = blocks.flatten(4).flatten(2, 3)[..., :width].reshape(4, 3, 8, width)
    cells = shown(torch.stack([images, images], dim=1), (1, 1), chroma=True)[:, :, :4]
    found = unpacked(cells, width)
    assert found.shape == (4, 4, 4, width)
    # The last column of an odd width has blue's difference, but red's of the column before it.
    torch.testing.assert_close(found[..., : width // 2 * 2][:, :3], images[:, :, ::2, : width // 2 * 2])
    assert found[:, 3].abs().max() < 1e-6


def test_four_images_keep_twice_the_rows_that_plain_averaging_keeps() -> None:
    stripes = torch.tensor([0.0, 1.0]).repeat_interleave(2).repeat(4)[:, None].expand(16, 16)
    images = stripes.expand(1, 4, 3, 16, 16)
    plain = shown(images, (2, 2), chroma=False)
    assert plain.unique().tolist() == [0, 1]
    fine = stripes.view(8, 2, 16).mean(1)  # stripes of two rows each, two rows a cell: all there
    picture = shown(images, (2, 2), chroma=True)
    assert torch.allclose(picture[0, 0, :8, :8], fine[:, ::2])
    narrow = torch.tensor([0.0, 1.0]).repeat(8)[:, None].expand(1, 4, 3, 16, 16)
    assert shown(narrow, (1, 1, 1, 1), chroma=False).unique().tolist() == [0.5]


@pytest.mark.parametrize(("k", "chroma"), [(2, False), (2, True), (3, True), (4, False), (4, True), (5, False)])
def test_each_place_is_answered_by_itself_and_in_the_slots_order(k: int, chroma: bool) -> None:
    code = Thumbnails(chroma=chroma, layout=(1,) * k if k == 5 else None)
    (part,) = code.parts(k, 1)
    module = part.build(LeNet5(), (3, 32, 32), 10, lambda _: None).eval()
    queries = torch.rand(3, k, 3, 32, 32)
    picture = code.encode(queries, 1)
    assert picture.shape == (3, 1, 3, 32, 32)
    before = module(picture[:, 0]).reshape(3, k, 10)
    for slot in range(k):
        changed = queries.clone()
        changed[:, slot] += torch.rand(3, 3, 32, 32)
        after = module(code.encode(changed, 1)[:, 0]).reshape(3, k, 10)
        differs = (after != before).flatten(0, 1).any(-1).reshape(3, k)
        assert differs.tolist() == [[other == slot for other in range(k)]] * 3
    reconstructed = part.reconstruct(module, module, queries, torch.zeros(3, k, 10), torch.Generator())
    assert torch.equal(reconstructed, before)


def test_one_answer_restores_whatever_is_lost_and_leaves_the_rest() -> None:
    code, k, c = Thumbnails(), 3, 4
    outputs, answers = torch.rand(8, k, c), torch.rand(8, 1, k * c)
    patterns = torch.arange(8) + 8  # every set of own answers, with the coded one
    there = (patterns[:, None] >> torch.arange(k)) & 1 == 1
    assert all(code.sufficient(k, 1, int(pattern)) for pattern in patterns)
    decoded = code.decode(torch.where(there[..., None], outputs, torch.nan), answers, patterns)
    assert torch.equal(decoded, torch.where(there[..., None], outputs, answers.view(8, k, c)))
    assert [code.sufficient(k, 1, pattern) for pattern in range(8)] == [False] * 7 + [True]
    with pytest.raises(ValueError, match=r"0011 .* do not suffice for k = 3"):
        code.decode(outputs, answers, torch.full((8,), 3))
    with pytest.raises(ValueError, match="do not belong together"):
        code.decode(outputs, answers[..., :4], patterns)


@pytest.mark.parametrize("network", [ResNet18(width=8), Speedrun(width=8)])
def test_a_warm_start_with_the_fourth_channel_begins_as_without(network: Network) -> None:
    """Grey images have no colour to lose, so the picture's first three channels are those of plain averaging."""
    deployed = network.build((3, 32, 32), 10).eval()
    grey = torch.rand(2, 2, 1, 32, 32).expand(2, 2, 3, 32, 32)
    for code in (Concatenation(chroma=True), Conditional(base=Concatenation(chroma=True), features=5)):
        (part,) = code.parts(2, 1)
        module = part.build(network, (3, 32, 32), 10, lambda _: None)
        part.start_from(module, deployed)
        answer = module.eval()(code.encode(grey, 1)[:, 0])[:, :10]
        plain = Concatenation(layout=(1, 1)).encode(grey, 1)[:, 0]
        torch.testing.assert_close(answer, deployed(plain), rtol=1e-4, atol=1e-5)
    (part,) = Thumbnails(chroma=True).parts(2, 1)
    module = part.build(network, (3, 32, 32), 10, lambda _: None)
    part.start_from(module, deployed)
    answer = module.eval()(Thumbnails(chroma=True).encode(grey, 1)[:, 0]).reshape(2, 2, 10)
    halves = Concatenation(layout=(1, 1)).encode(grey, 1)[:, 0]
    torch.testing.assert_close(answer[:, 1], deployed(halves[:, :, 16:]), rtol=1e-4, atol=1e-5)


def test_layers_that_depend_on_the_images_size_begin_fresh() -> None:
    deployed, small = LeNet5().build((1, 28, 28), 10), LeNet5().build((1, 14, 28), 10)
    before = {name: value.clone() for name, value in small.state_dict().items()}
    adopt(small, deployed)
    other = [name for name, value in small.state_dict().items() if not torch.equal(value, before[name])]
    same_size = {name for name, value in deployed.state_dict().items() if value.shape == before[name].shape}
    assert set(other) == same_size < set(before)


def test_further_outputs_keep_their_fresh_weights_and_further_inputs_begin_without_effect() -> None:
    deployed, larger = nn.Linear(3, 2), nn.Linear(5, 4)
    fresh = larger.weight.detach().clone()
    adopt(larger, deployed)
    assert torch.equal(larger.weight[:2, :3], deployed.weight)
    assert torch.equal(larger.weight[:2, 3:], torch.zeros(2, 2))
    assert torch.equal(larger.weight[2:], fresh[2:])
    assert torch.equal(larger.bias[:2], deployed.bias)


def test_whitening_takes_further_channels_for_themselves() -> None:
    filters = whitening_filters(5, 2)
    assert filters.shape == (40, 5, 2, 2)
    assert torch.equal(filters[:24, :3], whitening_filters(3, 2))
    assert torch.equal(filters[24:32, 3:4], whitening_filters(1, 2))
    assert torch.equal(filters[32:, 4:], whitening_filters(1, 2))
    assert int((filters != 0).sum()) == int((whitening_filters(3, 2) != 0).sum()) + 2 * 8 * 4


def test_models_of_other_pictures_have_other_keys() -> None:
    codes = [Thumbnails(), Thumbnails(chroma=True), Thumbnails(layout=(1, 1)), Thumbnails(layout=(1, 1), chroma=True)]
    identities = [str(code.parts(2, 1)[0].identity()) for code in codes]
    assert identities[1] == identities[3]  # with chroma the layout is [1, 1] unless one is given
    assert len(set(identities)) == 3
    plain = Concatenation().identity(2, 1, 0)
    assert "chroma" not in plain and Concatenation(chroma=True).identity(2, 1, 0)["chroma"] is True


def test_smaller_places_repeat_their_last_row() -> None:
    seen: list[Tensor] = []

    class Look(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return x.flatten(1)[:, :1]

    picture = torch.rand(2, 1, 7, 4)
    assert [one.height for one in places((1, 1), 7, 4)] == [3, 4]
    PlaceByPlace(Look(), (1, 1), 7, 4, chroma=False)(picture)
    first, second = seen[0].reshape(2, 2, 1, 4, 4).unbind(1)
    assert torch.equal(first, torch.cat([picture[:, :, :3], picture[:, :, 2:3]], dim=2))
    assert torch.equal(second, picture[:, :, 3:])


def test_what_cannot_be_shown_is_refused() -> None:
    with pytest.raises(ValueError, match=r"chroma: layout \[2\] keeps every row already"):
        Thumbnails(chroma=True, layout=(2,)).check(2, 1)
    with pytest.raises(ValueError, match="thumbnails has layouts for k = 2, 3, 4"):
        Thumbnails().check(7, 1)
    with pytest.raises(ValueError, match="thumbnails makes one coded query per group, not r = 2"):
        Thumbnails().check(2, 2)
    with pytest.raises(ParmError, match="images of three colours are needed, and these have 1"):
        Thumbnails(chroma=True).encode(torch.rand(1, 2, 1, 8, 8), 1)
    (part,) = Thumbnails(chroma=True).parts(2, 1)
    with pytest.raises(ParmError, match="images of three colours"):
        part.build(LeNet5(), (1, 28, 28), 10, lambda _: None)
    with pytest.raises(ParmError, match="needs images"):
        Thumbnails().encode(torch.rand(1, 2, 5), 1)
    with pytest.raises(ParmError, match="cannot show 4 queries in an image of 8x3"):
        Thumbnails(chroma=True).encode(torch.rand(1, 4, 3, 8, 3), 1)


@pytest.mark.parametrize("engine", ["simpy", "compiled"])
def test_the_coded_answer_alone_replies_to_a_whole_group(engine: Engine) -> None:
    """Both own answers come at 9 and 8 s; a sum's group is known with the second of them, thumbnails at 1 s."""
    cluster = Cluster.model_validate({"instances": 2, "extra": 1, "service": {"kind": "deterministic", "value": 1.0}})

    def replies(code: Code | None) -> list[tuple[float, Route]]:
        stragglers = [Heterogeneous(factors=(9.0, 8.0, 1.0))]
        trace = simulate(
            cluster, Coded(k=2, code=code), stragglers, OpenSchedule(np.zeros(2)), Streams(0), engine=engine
        )
        return [(time, Route(route)) for time, route in zip(trace.queries.reply, trace.queries.route, strict=True)]

    assert replies(Thumbnails()) == [(1.0, Route.RECONSTRUCTION)] * 2
    assert replies(None) == [(8.0, Route.RECONSTRUCTION), (8.0, Route.OWN)]
