from __future__ import annotations

import errno
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

import parity.store
from parity.codes import Addition, Exact
from parity.networks import LeNet5, Mlp
from parity.objectives import Reconstruction, TrainingData, View
from parity.recipes import Best, Paper
from parity.store import ModelStore, TrainedModel, quiet
from parity.training import TrainingStatus
from sim.errors import ParmError
from workloads.datasets.digits import Digits

NETWORK = Mlp(hidden=(16,))
RECIPE = Best(epochs=2)


def refuse(status: TrainingStatus) -> None:
    raise AssertionError(f"trained again: {status}")


@pytest.fixture
def trained(data: TrainingData, tmp_path: Path) -> tuple[ModelStore, TrainedModel, TrainedModel]:
    store = ModelStore(tmp_path)
    deployed = store.classifier(NETWORK, data, RECIPE, 1)
    return store, deployed, store.parts(deployed, data, Addition(), 2, 1, RECIPE, 1)[0]


def test_what_is_trained_is_found(data: TrainingData, trained: tuple[ModelStore, TrainedModel, TrainedModel]) -> None:
    store, deployed, parity = trained
    again = ModelStore(store.root, progress=refuse).classifier(NETWORK, data, RECIPE, 1)
    assert (again.key, again.path, again.card) == (deployed.key, deployed.path, deployed.card)
    for name, value in deployed.module.state_dict().items():
        assert torch.equal(value, again.module.state_dict()[name])
    assert not again.module.training
    store.progress = refuse
    assert store.parts(again, data, Addition(), 2, 1, RECIPE, 1)[0].key == parity.key


def test_the_card_says_what_it_is(data: TrainingData, trained: tuple[ModelStore, TrainedModel, TrainedModel]) -> None:
    _, deployed, parity = trained
    assert deployed.path.name == f"deployed-mlp-blobs-{deployed.key[:12]}"
    assert sorted(p.name for p in deployed.path.iterdir()) == ["card.json", "weights.safetensors"]
    card = json.loads((parity.path / "card.json").read_text())
    assert card == parity.card
    assert card["identity"]["deployed"] == deployed.key
    assert card["identity"]["code"] == {"kind": "addition", "k": 2, "weights": [1.0, 1.0]}
    assert card["identity"]["seed"] == 1
    assert card["dataset"] == {"name": "blobs", "note": "synthetic", "fingerprint": data.fingerprint, "outputs": 4}
    assert card["validation"]["epochs"] == 2
    assert set(card["test"]) == {"accuracy_degraded", "agreement"}
    assert 0.25 < card["test"]["accuracy_degraded"] <= deployed.card["test"]["accuracy"] + 0.1
    assert card["seconds"] > 0


def test_a_backup_is_trained_like_a_deployed_model_and_kept_apart(
    data: TrainingData, trained: tuple[ModelStore, TrainedModel, TrainedModel]
) -> None:
    store, deployed, _ = trained
    seen: list[TrainingStatus] = []
    store.progress = seen.append
    backup = store.classifier(NETWORK, data, RECIPE, 1, role="backup")
    assert {(status.role, status.label) for status in seen} == {("backup", "backup mlp on blobs")}
    assert backup.key != deployed.key
    assert backup.path.name == f"backup-mlp-blobs-{backup.key[:12]}"
    assert backup.card["identity"] == deployed.card["identity"] | {"role": "backup"}
    assert backup.card["test"] == deployed.card["test"]
    assert (
        ModelStore(store.root, progress=refuse).classifier(NETWORK, data, RECIPE, 1, role="backup").card == backup.card
    )


def test_row_0_of_two_parities_is_the_model_of_one(
    data: TrainingData, trained: tuple[ModelStore, TrainedModel, TrainedModel]
) -> None:
    store, deployed, parity = trained
    seen: list[str] = []
    store.progress = lambda s: seen.append(s.label)
    both = store.parts(deployed, data, Addition(), 2, 2, RECIPE, 1)
    assert both[0].key == parity.key
    assert both[1].card["identity"]["code"]["weights"] == [1.0, 2.0]
    assert seen == ["parity mlp on blobs, k = 2, row 1"] * 2


def test_the_oracle_needs_no_model(data: TrainingData, trained: tuple[ModelStore, TrainedModel, TrainedModel]) -> None:
    store, deployed, _ = trained
    store.progress = refuse
    assert store.parts(deployed, data, Exact(), 2, 2, RECIPE, 1) == []
    with pytest.raises(ValueError, match="weights: 1 x 2 given"):
        store.parts(deployed, data, Addition(weights=((1.0, 1.0),)), 3, 1, RECIPE, 1)


def test_everything_that_determines_training_changes_the_key(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[str] = []

    def obtain(self: ModelStore, work: Any, *_: object) -> TrainedModel:
        keys.append(work.key)
        module = work.network.build(data.shape, data.outputs)
        return TrainedModel(module, work.network, {}, tmp_path, work.key)

    monkeypatch.setattr(ModelStore, "_obtain", obtain)
    store = ModelStore(tmp_path)
    other = TrainingData(**{**vars(data), "fingerprint": "other"})
    deployed = store.classifier(NETWORK, data, RECIPE, 1)
    store.classifier(Mlp(hidden=(17,)), data, RECIPE, 1)
    store.classifier(LeNet5(), data, RECIPE, 1)
    store.classifier(NETWORK, other, RECIPE, 1)
    store.classifier(NETWORK, data, RECIPE, 2)
    for recipe in (Best(epochs=3), Best(epochs=2, lr=1e-3), Best(epochs=2, flip=True), Paper(epochs=2)):
        store.classifier(NETWORK, data, recipe, 1)
    second = store.classifier(NETWORK, data, RECIPE, 3)
    for model, k, recipe, seed in (
        (deployed, 2, RECIPE, 1),
        (second, 2, RECIPE, 1),
        (deployed, 3, RECIPE, 1),
        (deployed, 2, Best(epochs=2, kl=0.5), 1),
        (deployed, 2, RECIPE, 2),
    ):
        store.parts(model, data, Addition(), k, 1, recipe, seed)
    store.parts(deployed, data, Addition(weights=((1.0, 2.0),)), 2, 1, RECIPE, 1)
    store.classifier(NETWORK, data, RECIPE, 1, role="backup")
    assert len(set(keys)) == len(keys) == 17
    store.classifier(NETWORK, TrainingData(**{**vars(data), "name": "renamed"}), RECIPE, 1)
    assert keys[-1] == keys[0]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_last_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def edit_seed(file: Path) -> None:
    card = json.loads(file.read_text())
    card["identity"]["seed"] = 5
    file.write_text(json.dumps(card))


def empty_list(file: Path) -> None:
    file.write_text("[]")


@pytest.mark.parametrize(
    ("name", "harm", "sentence"),
    [
        ("weights.safetensors", cut, "is damaged .its hash is not the card's"),
        ("weights.safetensors", flip_last_byte, "is damaged .its hash is not the card's"),
        ("weights.safetensors", Path.unlink, "cannot be read .No such file"),
        ("card.json", cut, "is damaged .not a whole card"),
        ("card.json", empty_list, "is damaged .not a whole card"),
        ("card.json", edit_seed, "does not describe the model"),
        ("card.json", Path.unlink, "cannot be read .No such file"),
    ],
)
def test_damaged_files_are_named_with_what_to_do(
    data: TrainingData, trained: tuple[ModelStore, TrainedModel, TrainedModel], name: str, harm: Any, sentence: str
) -> None:
    store, deployed, _ = trained
    harm(deployed.path / name)
    store.progress = refuse
    with pytest.raises(ParmError, match=sentence) as caught:
        store.classifier(NETWORK, data, RECIPE, 1)
    assert str(deployed.path / name) in str(caught.value)
    assert f"delete the folder {deployed.path} to have it trained anew" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x08" * 40, None])
def test_a_damaged_half_trained_model_is_named_with_what_to_do(
    data: TrainingData, tmp_path: Path, content: bytes | None
) -> None:
    def stop(status: TrainingStatus) -> None:
        raise KeyboardInterrupt

    store = ModelStore(tmp_path, progress=stop, checkpoint_seconds=0)
    with pytest.raises(KeyboardInterrupt):
        store.classifier(NETWORK, data, RECIPE, 1)
    store.progress = quiet
    (state,) = tmp_path.glob("*.part/state.safetensors")
    whole = state.read_bytes()
    state.write_bytes(whole[:-100] if content is None else content)
    with pytest.raises(ParmError, match=r"half-trained model in .* is damaged") as caught:
        store.classifier(NETWORK, data, RECIPE, 1)
    assert f"delete the folder {state.parent} " in str(caught.value)
    # Whole again, beside what a kill in the middle of writing leaves: it goes on, and only the model is kept.
    state.write_bytes(whole)
    state.with_name(".state.safetensors.123").write_bytes(b"part")
    model = store.classifier(NETWORK, data, RECIPE, 1)
    assert sorted(p.name for p in model.path.iterdir()) == ["card.json", "weights.safetensors"]


def test_a_full_disk_is_one_sentence(data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes, *, durable: bool) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(parity.store, "atomic_write", full)
    with pytest.raises(ParmError, match=r"cannot write the model .*No space left on device.*make room"):
        ModelStore(tmp_path).classifier(NETWORK, data, RECIPE, 1)


def test_a_model_asked_for_twice_at_once_is_trained_once(data: TrainingData, tmp_path: Path) -> None:
    epochs: list[int] = []
    found: list[TrainedModel] = []

    def ask() -> None:
        found.append(
            ModelStore(tmp_path, progress=lambda s: epochs.append(s.epoch)).classifier(NETWORK, data, RECIPE, 1)
        )

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert epochs == [1, 2]


def test_digits_parity_models_reconstruct(tmp_path: Path) -> None:
    digits = Digits().load(None)
    data = TrainingData(
        name=digits.name,
        fingerprint=digits.fingerprint,
        note=digits.note,
        outputs=digits.classes,
        train=torch.as_tensor(digits.normalised(digits.x_train)),
        train_labels=torch.as_tensor(digits.y_train),
        test=torch.as_tensor(digits.normalised(digits.x_test)),
        test_labels=torch.as_tensor(digits.y_test),
    )
    store = ModelStore(tmp_path)
    deployed = store.classifier(Mlp(), data, Best(epochs=20), 0)
    assert deployed.card["test"]["accuracy"] > 0.95
    for k, bar in ((2, 0.93), (3, 0.90)):
        for model in store.parts(deployed, data, Addition(), k, 2, Best(epochs=25), 0):
            assert model.card["test"]["accuracy_degraded"] > bar


def test_what_is_published_is_found_like_a_trained_model_and_says_what_rounding_left(
    data: TrainingData, trained: tuple[ModelStore, TrainedModel, TrainedModel], tmp_path: Path
) -> None:
    store, deployed, parity = trained
    shelf = tmp_path / "shelf"
    publishing = ModelStore(store.root, progress=refuse, publish=shelf)
    rounded = publishing.classifier(NETWORK, data, RECIPE, 1)
    both = [rounded, *publishing.parts(rounded, data, Addition(), 2, 1, RECIPE, 1)]
    assert sorted(one.name for one in shelf.iterdir() if one.is_dir()) == sorted(
        one.path.name for one in (deployed, parity)
    )
    for before, model in zip((deployed, parity), both, strict=True):
        card = json.loads((shelf / before.path.name / "card.json").read_text())
        assert card["precision"] == "half"
        assert card["test"] == model.card["test"]
        assert card["identity"] == before.card["identity"]
        for name, value in load((shelf / before.path.name / "weights.safetensors").read_bytes()).items():
            assert value.dtype == torch.float16
            assert torch.equal(value.float(), model.module.state_dict()[name])
            torch.testing.assert_close(value.float(), before.module.state_dict()[name], atol=1e-3, rtol=1e-3)
    elsewhere = ModelStore(tmp_path / "empty", zoo=shelf, progress=refuse)
    found = elsewhere.classifier(NETWORK, data, RECIPE, 1)
    assert found.path.parent == shelf
    assert torch.equal(found.module(data.test), rounded.module(data.test))
    assert not (tmp_path / "empty").exists()


def test_publishing_that_is_killed_leaves_nothing_that_is_taken_for_a_model(
    data: TrainingData,
    trained: tuple[ModelStore, TrainedModel, TrainedModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, _, _ = trained
    write = parity.store.atomic_write

    def killed(path: Path, content: bytes, *, durable: bool) -> None:
        if path.name == "card.json":
            raise KeyboardInterrupt
        write(path, content, durable=durable)

    shelf = tmp_path / "shelf"
    monkeypatch.setattr(parity.store, "atomic_write", killed)
    with pytest.raises(KeyboardInterrupt):
        ModelStore(store.root, publish=shelf).classifier(NETWORK, data, RECIPE, 1)
    monkeypatch.undo()
    assert ModelStore(store.root, zoo=shelf, progress=refuse).classifier(NETWORK, data, RECIPE, 1).path.parent != shelf
    ModelStore(store.root, publish=shelf).classifier(NETWORK, data, RECIPE, 1)
    assert ModelStore(tmp_path / "empty", zoo=shelf, progress=refuse).classifier(NETWORK, data, RECIPE, 1)


def test_parts_of_several_codes_learn_from_the_same_views_of_images(data: TrainingData, tmp_path: Path) -> None:
    """The deployed model answers a view once for all of them, and no part's weights depend on which came first."""
    recipe = Best(epochs=3, shift=1, flip=True, views=2)

    def trained(folder: str, *sizes: int) -> tuple[list[str], int]:
        """Return the weights' hashes, and how many views the deployed model was asked for in training."""
        store = ModelStore(tmp_path / folder)
        deployed = store.classifier(Mlp(hidden=(8,)), data, Best(epochs=1), 0)
        asked = 0

        def count(self: Reconstruction, number: int) -> View:
            nonlocal asked
            asked += 1
            return original(self, number)

        original = Reconstruction._make_view
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Reconstruction, "_make_view", count)
            parts = [store.parts(deployed, data, Addition(), k, 1, recipe, 0)[0] for k in sizes]
        return [part.card["weights_sha256"] for part in parts], asked

    together, asked = trained("together", 2, 3)
    assert asked == 2
    assert [trained("second", 3)[0][0], trained("first", 2)[0][0]] == together[::-1]


@pytest.mark.parametrize(
    "changed", [{"shift": 0}, {"flip": False}, {"holdout": 50}, {"mixed": True}], ids=lambda one: next(iter(one))
)
def test_views_of_another_recipe_are_made_anew(data: TrainingData, tmp_path: Path, changed: dict[str, Any]) -> None:
    store = ModelStore(tmp_path)
    deployed = store.classifier(Mlp(hidden=(8,)), data, Best(epochs=1), 0)
    recipe = Best(epochs=1, shift=1, flip=True, views=2)
    kept = store._views_for(deployed, recipe)
    assert store._views_for(deployed, recipe.model_copy(update={"epochs": 9, "lr": 1.0})) is kept
    assert store._views_for(deployed, recipe.model_copy(update=changed)) is not kept
    other = store.classifier(Mlp(hidden=(8,)), data, Best(epochs=1), 1)
    kept = store._views_for(deployed, recipe)
    assert store._views_for(other, recipe) is not kept
