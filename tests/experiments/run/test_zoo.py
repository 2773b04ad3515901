"""The models that come with parm: whole, small, and those that the joint experiments ask for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from experiments import cli
from experiments.config import loader
from experiments.run.cells import cells
from experiments.run.models import need
from parity import zoo
from parity.store import DEPLOYED_ONLY, canonical

FOLDERS = sorted(one for one in zoo.FOLDER.iterdir() if (one / "card.json").is_file())
EXPERIMENTS = Path(cli.__file__).parent


def card(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "card.json").read_text())
    return found


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_each_model_is_what_its_card_and_its_name_say(folder: Path) -> None:
    said = card(folder)
    key = hashlib.sha256(canonical(said["identity"])).hexdigest()
    assert said["key"] == key
    assert folder.name.endswith(key[:12])
    weights = (folder / "weights.safetensors").read_bytes()
    assert said["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert said["precision"] == "half"
    assert "JPEG" in said["dataset"]["note"] or said["dataset"]["name"] != "cifar10"
    assert said["test"]


def test_all_of_it_is_small() -> None:
    assert sum(file.stat().st_size for folder in FOLDERS for file in folder.iterdir()) < 12 * 2**20


@pytest.mark.parametrize("name", ["joint-fashion-mnist", "joint-cifar10", "joint-million", "joint-speedrun"])
def test_the_joint_experiments_need_no_training(name: str) -> None:
    """Seen without the data sets: network, recipe, code and seed are those of a card, on that data set."""
    file = EXPERIMENTS / f"{name}.yaml"
    experiment = loader.load(file)
    model = experiment.model
    assert model is not None
    identities = [(card(folder)["dataset"]["name"], card(folder)["identity"]) for folder in FOLDERS]
    mine = [one for dataset, one in identities if dataset == model.dataset.name_in_yaml()]
    recipe = model.recipe.model_dump(mode="json", exclude_none=True)
    parity_recipe = (model.parity_recipe or model.recipe).model_dump(mode="json", exclude_none=True)
    for option in DEPLOYED_ONLY:
        parity_recipe.pop(option, None)
    (deployed,) = [one for one in mine if (one["role"], one["recipe"]) == ("deployed", recipe)]
    assert deployed["network"] == model.network.model_dump(mode="json", exclude_none=True)
    for cell in cells(experiment):
        for one in need(cell):
            if one.backup is not None:
                network = one.backup.network.model_dump(mode="json", exclude_none=True)
                assert [
                    identity for identity in mine if (identity["role"], identity.get("network")) == ("backup", network)
                ]
            elif one.code is not None:
                for part in one.code.parts(one.k, one.r):
                    wanted = (part.identity(), parity_recipe, model.training_seed)
                    assert [i for i in mine if (i.get("code"), i["recipe"], i["seed"]) == wanted], part
