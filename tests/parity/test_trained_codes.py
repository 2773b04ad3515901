"""Codes beyond the weighted sum: concatenation, the conditional decoder, the learned encoder and decoder."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from parity.codes import Addition, Concatenation, Conditional, Exact, Learned, TensorCode
from parity.evaluation import degraded, predict, quality
from parity.modules import ConditionalParity, LearnedCoder
from parity.networks import Mlp
from parity.objectives import TrainingData
from parity.recipes import Best, Paper
from parity.store import ModelStore
from parity.tasks import TASKS, Classification
from sim.errors import ParmError


@pytest.mark.parametrize("k", [2, 3, 4, 6, 9])
def test_concatenation_shows_every_query_smaller(k: int) -> None:
    queries = torch.arange(1, k + 1.0).view(1, k, 1, 1, 1).expand(2, k, 3, 12, 18).clone()
    (picture,) = Concatenation().encode(queries, 1)[0]
    assert picture.shape == (3, 12, 18)
    assert set(picture[0].flatten().tolist()) == set(range(1, k + 1))
    # A constant query stays what it is, whatever its size: each is averaged, not summed.
    assert torch.equal(picture[0], picture[2])


def test_concatenation_of_two_halves_averages_pairs_of_columns() -> None:
    queries = torch.rand(1, 2, 1, 4, 6)
    picture = Concatenation().encode(queries, 1)[0, 0, 0]
    torch.testing.assert_close(picture[:, :3], queries[0, 0, 0].view(4, 3, 2).mean(-1))
    torch.testing.assert_close(picture[:, 3:], queries[0, 1, 0].view(4, 3, 2).mean(-1))


def test_a_layout_says_how_many_queries_stand_in_each_row() -> None:
    queries = torch.arange(2 * 4 * 4.0).view(1, 2, 1, 4, 4)
    stacked = Concatenation(layout=(1, 1))
    picture = stacked.encode(queries, 1)[0, 0, 0]
    assert torch.equal(picture[:2], (queries[0, 0, 0, ::2] + queries[0, 0, 0, 1::2]) / 2)
    assert torch.equal(picture[2:], (queries[0, 1, 0, ::2] + queries[0, 1, 0, 1::2]) / 2)
    assert stacked.identity(2, 1, 0) != Concatenation().identity(2, 1, 0)
    assert Concatenation(layout=(2,)).identity(2, 1, 0) == Concatenation().identity(2, 1, 0)
    Concatenation(layout=(1, 3, 3)).check(7, 1)
    with pytest.raises(ValueError, match=r"layout: \[1, 1\] has 2 places, but k = 3"):
        stacked.check(3, 1)


def test_concatenation_refuses_what_it_cannot_show() -> None:
    with pytest.raises(ValueError, match=r"layouts for k = 2, 3, 4, 5, 6, 9, not for k = 7"):
        Concatenation().check(7, 1)
    with pytest.raises(ValueError, match="one coded query per group, not r = 2"):
        Concatenation().check(2, 2)
    with pytest.raises(ParmError, match="needs images"):
        Concatenation().encode(torch.rand(1, 2, 5), 1)
    with pytest.raises(ParmError, match=r"cannot show 4 queries in an image of 1x8"):
        Concatenation().encode(torch.rand(1, 4, 1, 1, 8), 1)
    with pytest.raises(ValidationError, match="weights"):
        Concatenation.model_validate({"weights": [[1, 1]]})


def test_query_weights_belong_beside_weights_of_the_same_size() -> None:
    code = Addition(weights=((1, 1), (1, 2)), query_weights=((1, 1), (1, 1)))
    queries = torch.rand(3, 2, 5)
    torch.testing.assert_close(code.encode(queries, 2), queries.sum(1, keepdim=True).expand(3, 2, 5))
    torch.testing.assert_close(code.targets(queries, 2)[:, 1], (queries[:, 0] + 2 * queries[:, 1]).double())
    assert code.identity(2, 2, 1)["query_weights"] == [1, 1]
    with pytest.raises(ValidationError, match="give 'weights' too"):
        Addition(query_weights=((1, 1),))
    with pytest.raises(ValidationError, match="as many rows and columns"):
        Addition(weights=((1, 1), (1, 2)), query_weights=((1, 1),))


def conditional(k: int, rows: int) -> tuple[Conditional, list[ConditionalParity]]:
    torch.manual_seed(k)
    return Conditional(features=5, hidden=8), [
        ConditionalParity(nn.Flatten(), k, classes=4, features=5, hidden=8) for _ in range(rows)
    ]


def test_a_conditional_decoder_begins_as_subtraction_and_corrects_single_losses_only() -> None:
    code, rows = conditional(3, 2)
    coder, answering = code.bind(3, 2, rows, nn.Identity())
    assert [id(one) for one in answering] == [id(one) for one in rows]
    outputs, parities = torch.randn(6, 3, 4), torch.randn(6, 2, 9)
    masks = torch.tensor([0b01011, 0b10101, 0b11110, 0b11001, 0b00111, 0b11011])
    plain = code.decode(outputs, parities, masks)
    assert not torch.equal(coder.decode(outputs, parities, masks), plain)
    for row in rows:
        row.begin_with_subtraction()
    assert torch.equal(coder.decode(outputs, parities, masks), plain)
    nn.init.ones_(rows[1].decoder[-1].bias)  # type: ignore[arg-type]
    nn.init.ones_(rows[0].decoder[-1].bias)  # type: ignore[arg-type]
    changed = coder.decode(outputs, parities, masks) - plain
    expected = torch.zeros(6, 3, 4)
    for group, slot in ((0, 2), (1, 1), (2, 0), (5, 2)):
        expected[group, slot] = 1  # two losses (group 3) and none (group 4) are left to subtraction
    torch.testing.assert_close(changed, expected)


def test_decoders_never_read_what_did_not_return() -> None:
    code, rows = conditional(3, 1)
    torch.manual_seed(1)
    learned, coder_net = Learned(), LearnedCoder((1, 4, 4), 3, 1, 4, "mlp", 2)
    for coder, parities in (
        (code.bind(3, 1, rows, nn.Identity())[0], torch.randn(1, 1, 9)),
        (learned.bind(3, 1, [coder_net], nn.Identity())[0], torch.randn(1, 1, 4)),
    ):
        outputs = torch.randn(1, 3, 4)
        for slot in range(3):
            mask = torch.tensor([0b1111 & ~(1 << slot)])
            hidden = outputs.clone()
            hidden[0, slot] = torch.nan
            found = coder.decode(hidden, parities, mask)
            assert torch.equal(found, coder.decode(outputs, parities, mask))
            others = [one for one in range(3) if one != slot]
            assert torch.equal(found[0, others], outputs[0, others])


@pytest.mark.parametrize("encoder", ["mlp", "conv"])
def test_a_learned_code_makes_queries_of_the_same_shape_for_the_deployed_model(encoder: str) -> None:
    code = Learned.model_validate({"encoder": encoder, "width": 3})
    (part,) = code.parts(2, 2)
    module = part.build(Mlp(), (3, 8, 6), 4, lambda module: None)
    deployed = nn.Linear(1, 1)
    coder, answering = code.bind(2, 2, [module], deployed)
    assert answering == [deployed, deployed]
    assert coder.encode(torch.rand(5, 2, 3, 8, 6), 2).shape == (5, 2, 3, 8, 6)
    with pytest.raises(TypeError, match="bind"):
        code.encode(torch.rand(5, 2, 3, 8, 6), 2)


@pytest.mark.parametrize(
    ("code", "k", "r", "bar"),
    [
        (Addition(), 2, 1, 0.55),
        (Concatenation(), 2, 1, 0.40),
        (Conditional(), 2, 1, 0.55),
        (Conditional(base=Concatenation()), 2, 1, 0.45),
        (Learned(encoder="mlp"), 2, 1, 0.40),
        (Learned(encoder="mlp"), 2, 2, 0.35),
    ],
)
def test_every_trained_code_learns_to_reconstruct(
    data: TrainingData, tmp_path: Path, code: TensorCode, k: int, r: int, bar: float
) -> None:
    store = ModelStore(tmp_path)
    deployed = store.classifier(Mlp(hidden=(32,)), data, Best(epochs=8), 0)
    trained = store.parts(deployed, data, code, k, r, Best(epochs=30), 0)
    outputs = predict(deployed.module, data.test)
    found = degraded(
        code,
        k,
        r,
        [one.module for one in trained],
        deployed.module,
        data.test,
        outputs,
        data.test_labels,
        data.task,
        groupings=5,
    )
    assert found.quality > bar  # one class in four is right by chance
    # What the card says was measured with one row; with r = 1 that is the same.
    if r == 1:
        assert trained[0].card["test"]["accuracy_degraded"] == pytest.approx(found.quality)
    store.progress = lambda status: pytest.fail("again")
    again = store.parts(deployed, data, code, k, r, Best(epochs=30), 0)
    assert [one.key for one in again] == [one.key for one in trained]


def test_the_oracle_reconstructs_what_the_deployed_model_says_whatever_is_lost(data: TrainingData) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    outputs = predict(module, data.test)
    own = quality(module, data.test, data.test_labels, data.task)
    for losses in (1, 2):
        found = degraded(
            Exact(), 3, 2, [], module, data.test, outputs, data.test_labels, data.task, groupings=3, losses=losses
        )
        assert found.agreement == 1
        assert found.quality == pytest.approx(own)


def test_early_stopping_ends_a_training_that_gets_no_better(data: TrainingData, tmp_path: Path) -> None:
    epochs: list[int] = []
    recipe = Paper(epochs=40, lr=1e-6, patience=3)
    store = ModelStore(tmp_path, progress=lambda status: epochs.append(status.epoch))
    model = store.classifier(Mlp(hidden=(4,)), data, recipe, 0)
    assert model.card["validation"]["epochs"] == epochs[-1] == model.card["validation"]["epoch"] + 3


def test_mixed_precision_learns_as_well(data: TrainingData, tmp_path: Path) -> None:
    model = ModelStore(tmp_path).classifier(Mlp(hidden=(32,)), data, Best(epochs=8, mixed=True), 0)
    assert model.card["test"]["accuracy"] > 0.6
    assert {value.dtype for value in model.module.state_dict().values()} == {torch.float32}


def box(*corners: float) -> Tensor:
    return torch.tensor(corners)


def test_quality_of_a_box_is_intersection_over_union() -> None:
    task = TASKS["localisation"]
    label = box(0, 0, 0.5, 0.5)
    for given, iou in (
        (label, 1.0),
        (box(0.25, 0, 0.75, 0.5), 1 / 3),
        (box(0.5, 0.5, 1, 1), 0.0),
        (box(0, 0, 1, 1), 0.25),
        (box(0.4, 0.4, 0.1, 0.1), 0.0),  # inside out
    ):
        assert float(task.quality(given, label)) == pytest.approx(iou)
    assert float(task.quality(box(0, 0, 0, 0), box(0, 0, 0, 0))) == 0


def test_linear_codes_give_every_loss_pattern_to_the_decoder() -> None:
    seen: list[int] = []

    class Spy(Exact):
        kind: str = "spy"  # type: ignore[assignment]

        def decode(self, outputs: Tensor, parities: Tensor, returned: Tensor) -> Tensor:
            seen.extend(returned.tolist())
            return super().decode(outputs, parities, returned)

    outputs, labels = torch.randn(12, 4), torch.zeros(12, dtype=torch.int64)
    images = torch.randn(12, 2)
    degraded(Spy(), 4, 2, [], nn.Identity(), images, outputs, labels, TASKS["classification"], groupings=1, losses=2)
    expected = {0b111111 & ~(1 << a | 1 << b) for a, b in combinations(range(4), 2)}
    assert set(seen) == expected


def test_a_label_among_the_likeliest_classes_counts_where_that_is_asked_for() -> None:
    outputs = torch.tensor([[5.0, 4.0, 3.0, 2.0]] * 4)
    labels = torch.arange(4)
    for top in (1, 2, 3, 9):
        assert Classification(top).quality(outputs, labels).tolist() == [float(rank < top) for rank in range(4)]


def test_boxes_are_not_moved_away_from_their_images(data: TrainingData, tmp_path: Path) -> None:
    boxes = torch.rand(len(data.train), 4)
    found = replace(data, outputs=4, train_labels=boxes, test_labels=boxes[:120], task_name="localisation")
    with pytest.raises(ParmError, match="has boxes, which 'shift' and 'flip' do not move: leave both out"):
        ModelStore(tmp_path).classifier(Mlp(), found, Best(epochs=1, flip=True), 0)
    with pytest.raises(ParmError, match="has boxes, which 'mixup' cannot mix: leave it out"):
        ModelStore(tmp_path).classifier(Mlp(), found, Best(epochs=1, mixup=0.2), 0)
    with pytest.raises(ParmError, match="has boxes, whose object 'cutout' may hide: leave it out"):
        ModelStore(tmp_path).classifier(Mlp(), found, Best(epochs=1, cutout=4), 0)
    trained = ModelStore(tmp_path).classifier(Mlp(), found, Best(epochs=1), 0)
    assert 0 <= trained.card["test"]["accuracy"] <= 1
