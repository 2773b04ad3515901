"""What docs/data-and-networks.md shows is run, so that it stays true."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from scipy.io import wavfile

from experiments.config import loader
from parity.networks import Network
from tests.command import parm
from workloads.datasets.base import Dataset

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "data-and-networks.md").read_text(encoding="utf-8")
REST = """
workload: {arrivals: {kind: poisson, rate: 50}, queries: 200}
cluster: {instances: 2, extra: 1, service: 0.01}
policies: [none, {kind: coded, k: 2}]
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.parametrize("family", [Dataset, Network])
def test_every_member_is_in_the_tables(family: type[Dataset | Network]) -> None:
    ours = {
        kind for kind, member in family.members().items() if member.__module__.startswith(("parity.", "workloads."))
    }
    rows = "".join(line.split("|")[1] for line in TEXT.splitlines() if line.startswith("| `"))
    assert ours <= set(re.findall(r"`(\w+)`", rows))


def write_data(folder: Path) -> None:
    """A folder of two spoken words and one of cats and dogs, with little in them."""
    generator = np.random.default_rng(0)
    for number in range(30):
        for word, pet in (("yes", "Cat"), ("no", "Dog")):
            for parent in (folder / "spoken-digits" / word, folder / "PetImages" / pet):
                parent.mkdir(parents=True, exist_ok=True)
            sound = generator.normal(0, 1000, 4000).astype(np.int16)
            wavfile.write(folder / "spoken-digits" / word / f"{number}.wav", 8000, sound)
            Image.new("RGB", (40 + number, 50), (number, 100, 0)).save(folder / "PetImages" / pet / f"{number}.jpg")


@pytest.mark.parametrize("example", blocks("yaml"))
def test_every_example_is_a_model_that_can_be_built_for_its_data(example: str, tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    (tmp_path / "experiment.yaml").write_text(f"name: documented\n{example}{REST}")
    model = loader.load(tmp_path / "experiment.yaml").model
    assert model is not None
    data = model.dataset.load(tmp_path / "data")
    assert model.network.build(data.shape, data.outputs)(torch.zeros(2, *data.shape)).shape == (2, data.outputs)


def test_a_network_from_a_plugin_is_trained_from_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (source,) = blocks("python")
    (tmp_path / "my_network.py").write_text(source)
    recipe = "recipe: {kind: best, epochs: 2}"
    (tmp_path / "experiment.yaml").write_text(
        f"name: mine\nmodel: {{network: {{kind: wide, hidden: 40}}, dataset: digits, {recipe}}}{REST}"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert parm("list", "wide", "--plugin", "my_network", monkeypatch=monkeypatch) == 0
    said = capsys.readouterr().out
    assert "wide (network): One wide hidden layer." in said
    assert "hidden: whole number, default 500 - Its width." in said
    words = ("train", "experiment.yaml", "--plugin", "my_network", "--models", "models")
    assert parm(*words, monkeypatch=monkeypatch) == 0
    folders = sorted(folder.name.rsplit("-", 1)[0] for folder in (tmp_path / "models").iterdir() if folder.is_dir())
    assert folders == ["deployed-wide-digits", "parity-wide-digits"]
    weights = list((tmp_path / "models").rglob("weights.safetensors"))
    assert [load_file(file)["1.weight"].shape for file in weights] == [(40, 64)] * 2
    assert "accuracy_degraded" in capsys.readouterr().out


def test_a_network_that_torchvision_does_not_have_ends_the_command_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(tmp_path / "data")
    model = (
        "model: {network: {kind: torchvision, name: resnet19}, "
        "dataset: {kind: image_folder, path: PetImages, size: [32, 32]}}"
    )
    (tmp_path / "experiment.yaml").write_text(f"name: mine\n{model}{REST}")
    monkeypatch.chdir(tmp_path)
    words = ("train", "experiment.yaml", "--data", "data", "--models", "models")
    assert parm(*words, monkeypatch=monkeypatch) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "torchvision has no classifier 'resnet19'; did you mean 'resnet18'?" in said[0]
