"""`parm accuracy`: from a study's YAML to its table, figures and manifest."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from experiments import cli
from experiments.accuracy.options import StudiedCode, Study
from experiments.config import loader
from parity.codes import Addition, Approxifer, TensorCode, Thumbnails
from parity.networks import Mlp
from tests.command import parm

PAPER = Path(cli.__file__).parent / "paper"
STUDIES = sorted(file for file in PAPER.glob("*.yaml") if "study: accuracy" in file.read_text())
SMALL = """
study: accuracy
name: small
models:
  - {network: {kind: mlp, hidden: [24]}, dataset: digits, recipe: {kind: best, epochs: 3},
     recipes: {quick: {kind: best, epochs: 2}}}
  - {network: {kind: mlp, hidden: [24]}, dataset: {kind: image_folder, path: nowhere}}
codes:
  - {k: 2}
  - {k: 2, r: 2, losses: 2, code: exact}
recipes:
  other: {kind: best, epochs: 7}
reference:
  - {model: mlp on digits, coding: addition k=2, degraded: 0.9, source: somebody}
figures: [degraded, overall, flop]
"""


def test_a_study_leaves_a_table_figures_and_a_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    assert parm("accuracy", file, "--models", tmp_path / "models", monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr()
    folder = tmp_path / "runs/small"
    lines = list(csv.DictReader((folder / "accuracy.csv").read_text().splitlines()))
    # The data set that is missing is named and left out; the others are measured.
    assert "skipped mlp on image_folder" in shown.out + shown.err
    assert [(line["code"], line["r"], line["losses"], line["recipe"]) for line in lines] == [
        ("addition", "1", "1", "quick"),
        ("exact", "2", "2", ""),
    ]
    sum_, oracle = lines
    assert list(sum_)[:17] == [
        "dataset", "network", "width", "code", "k", "r", "recipe", "seed", "epochs", "device", "available", "degraded",
        "degraded_lo", "degraded_hi", "default", "train_seconds", "train_flop",
    ]  # fmt: skip
    assert float(oracle["agreement"]) == 1
    assert float(oracle["degraded"]) == pytest.approx(float(oracle["available"]), abs=0.01)
    assert 0.3 < float(sum_["degraded"]) < float(sum_["available"])
    assert float(sum_["degraded_lo"]) < float(sum_["degraded"]) < float(sum_["degraded_hi"])
    assert float(sum_["default"]) == pytest.approx(0.1, abs=0.03)
    assert min(float(sum_[name]) for name in ("train_seconds", "train_flop", "encode_us", "decode_us")) > 0
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["complete"]
    assert set(manifest["skipped"]) == {"mlp on image_folder"}
    assert {one["role"] for one in manifest["models"].values()} == {"deployed", "parity"}
    assert yaml.safe_load((folder / "study.yaml").read_text())["codes"][0]["code"]["kind"] == "addition"
    for stem in ("degraded", "overall", "flop"):
        assert (folder / "figures" / f"{stem}.png").stat().st_size > 10_000
        assert (folder / "figures" / f"{stem}.pdf").is_file()
    # Again: every model is found, and the table is the same but for what is timed.
    before = sum_
    assert parm("accuracy", folder / "study.yaml", "--models", tmp_path / "models", monkeypatch=monkeypatch) == 0
    (after, _) = csv.DictReader((folder / "accuracy.csv").read_text().splitlines())
    assert {k: v for k, v in before.items() if not k.endswith("_us")} == {
        k: v for k, v in after.items() if not k.endswith("_us")
    }


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("k: 2}", "k: 2, losses: 2}", r"small.yaml:8: codes.0: losses: 2 lost answers .* with 1 to spare"),
        ("k: 2}", "k: 1}", r"small.yaml:8: codes.0.k"),
        ("network: {", "netwrk: {", r"models.0.netwrk.*network"),
        ("figures: [degraded", "figures: [degrade", r"figures.0"),
        ("name: small", "name: a/b", "is not a valid name of a folder"),
        ("dataset: {kind: image_folder, path: nowhere}", "dataset: digits", "have the name 'mlp on digits'"),
        (
            "coding: addition k=2",
            "coding: addition k=3",
            "called 'addition k=3'; did you mean 'addition k=2'",
        ),
        (
            "r: 2, losses: 2, code: exact",
            "label: addition k=2, code: exact",
            "codes: two of them have the name",
        ),
        ("code: exact", "code: concatenation", "one coded query per group, not r = 2"),
    ],
)
def test_a_studys_mistakes_are_named_with_their_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    old: str,
    new: str,
    sentence: str,
) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(SMALL.strip().replace(old, new, 1))
    assert parm("accuracy", file, monkeypatch=monkeypatch) == 2
    said = capsys.readouterr().err
    assert re.search(sentence, said), said


def test_only_some_models_of_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    study = loader.load_as(Study, file, (), ()).only(["mlp on image_folder"])
    assert [one.title for one in study.models] == ["mlp on image_folder"]
    assert study.reference == ()
    words = ("accuracy", file, "--out", tmp_path / "o", "--models", tmp_path / "m", "--only")
    assert parm(*words, "mlp on digits", monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr()
    assert "skipped" not in shown.out + shown.err
    assert parm(*words, "mlp on digit", monkeypatch=monkeypatch) == 2
    said = "--only: no model of small is called 'mlp on digit'; did you mean 'mlp on digits'?"
    assert said in capsys.readouterr().err


def test_a_top_that_takes_in_every_class_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(SMALL.replace("dataset: digits, recipe", "dataset: digits, top: 10, recipe"))
    assert parm("accuracy", file, "--out", tmp_path / "o", monkeypatch=monkeypatch) == 2
    assert "mlp on digits: with 'top: 10' of 10 classes every answer is correct." in capsys.readouterr().err


def test_without_any_data_set_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "small.yaml"
    text = SMALL.replace(
        "dataset: digits, recipe", "label: mlp on digits, dataset: {kind: image_folder, path: no}, recipe"
    )
    file.write_text(text)
    assert parm("accuracy", file, "--out", tmp_path / "o", monkeypatch=monkeypatch) == 2
    said = capsys.readouterr()
    assert "small: none of its data sets could be loaded" in said.out + said.err
    assert "none of the data sets could be loaded" in said.err


def test_several_studies_share_a_table_and_one_without_data_stops_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = SMALL.replace("dataset: digits, recipe", "label: gone, dataset: {kind: image_folder, path: no}, recipe")
    texts = {"a": missing, "b": SMALL, "c": SMALL}
    files = [tmp_path / f"{name}.yaml" for name in texts]
    for file, (name, text) in zip(files, texts.items(), strict=True):
        file.write_text(re.sub(r"(?m)^name: .*$", f"name: {name}", re.sub(r"(?m)^reference:(\n  .*)*", "", text)))
    out, models = tmp_path / "o", tmp_path / "m"
    assert parm("accuracy", *files, "--out", out, "--models", models, monkeypatch=monkeypatch) == 0
    tables = [(out / name / "accuracy.csv").read_text().splitlines() for name in ("b", "c")]
    assert (out / "accuracy.csv").read_text().splitlines() == tables[0] + tables[1][1:]


def test_run_says_which_verb_a_study_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    assert parm("run", file, monkeypatch=monkeypatch) == 2
    assert f"is a study of accuracy; run it with 'parm accuracy {file}'" in capsys.readouterr().err


def test_the_papers_studies_are_valid_and_named_for_their_files() -> None:
    assert {file.stem for file in STUDIES} >= {
        "fig5", "fig6", "fig8", "concat", "localisation", "fashion_networks", "two_losses",
    }  # fmt: skip
    for file in STUDIES:
        assert loader.load_as(Study, file).name == file.stem


def test_fig8_is_the_papers_table() -> None:
    study = loader.load_as(Study, PAPER / "fig8.yaml")
    assert [coding.k for coding in study.codes] == [2, 3, 4]
    assert all(coding.code == Addition() for coding in study.codes)
    known = {(one.model, one.coding): one.degraded for one in study.reference}
    assert len(known) == 18
    assert known["CIFAR-10", "addition k=4"] == 0.5292
    for subject in study.models:
        assert subject.recipes is not None
        paper = subject.recipes["paper"]
        assert paper.epochs == (500 if str(subject.label) in ("MNIST", "Fashion-MNIST", "spoken digits") else 1000)


def test_cases_are_every_combination_model_by_model() -> None:
    study = Study.model_validate(
        {
            "study": "accuracy",
            "name": "x",
            "seeds": [1, 2],
            "models": [{"network": "mlp", "dataset": "digits"}, {"network": "lenet5", "dataset": "digits"}],
            "codes": [{"k": 2}, {"k": 3}],
            "recipes": {"a": "best", "b": "paper"},
        }
    )
    cases = list(study.cases())
    assert len(cases) == 16
    assert [case.subject.network == Mlp() for case in cases] == [True] * 8 + [False] * 8
    assert [case.seed for case in cases[:8]] == [1, 1, 1, 1, 2, 2, 2, 2]


@pytest.mark.parametrize(
    ("code", "k", "r", "spare"),
    [(Addition(), 3, 2, 2), (Thumbnails(), 3, 1, 3), (Approxifer(), 3, 5, 2)],
    ids=lambda value: getattr(value, "kind", value),
)
def test_as_many_answers_may_be_lost_as_the_code_can_restore(code: TensorCode, k: int, r: int, spare: int) -> None:
    assert StudiedCode(code=code, k=k, r=r, losses=spare).losses == spare
    with pytest.raises(ValidationError, match=f"losses: {spare + 1} lost answers .* with {spare} to spare"):
        StudiedCode(code=code, k=k, r=r, losses=spare + 1)
