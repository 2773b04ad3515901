"""The contract that scripts rely on, through the command itself."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from experiments import cli
from tests.command import parm

ROOT = Path(cli.__file__).resolve().parents[1]
LATENCY = """\
name: tiny
trials: 2
workload: {arrivals: {kind: poisson, rate: 90}, queries: 400}
cluster: {instances: 4, extra: 2, service: {kind: exponential, mean: 0.03}}
stragglers: [{kind: slow_periods, factor: 4, mean_normal: 9, mean_slow: 1}]
policies:
  - equal_resources
  - {kind: coded, name: two, k: 2, parity_instances: budget}
sweep: {workload.arrivals.rate: [60, 90]}
figures: []
"""
MODEL = LATENCY + "model: {network: {kind: mlp, hidden: [16]}, dataset: digits, recipe: {kind: best, epochs: 1}}\n"
METRICS = (
    "mean", "p50", "p99", "p999", "gap", "unavailable", "accuracy_available", "accuracy_degraded", "accuracy_overall",
    "goodput", "goodput_per_instance", "goodput_per_price",
)  # fmt: skip
COUNTS = (
    "instances", "price", "utilisation", "busy_seconds_per_query", "bytes_per_query", "relative_cost", "equal_cost",
    "queries", "trials", "standing",
)  # fmt: skip
SPY = """\
import importlib.abc, multiprocessing, os, sys
class Spy(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            with open(os.environ["SPY"], "a") as file:
                file.write("main\\n" if multiprocessing.parent_process() is None else "worker\\n")
sys.meta_path.insert(0, Spy())
"""
PLUGIN = """\
from typing import Literal
from sim.policies import EqualResources
class Spare(EqualResources):
    '''Brought along.'''
    kind: Literal["{kind}"] = "{kind}"
"""


def write(folder: Path, text: str = LATENCY) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(text)
    return path


def started(*words: object, **environment: str) -> subprocess.Popen[str]:
    """Start the command in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.cli", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def living(group: int) -> list[str]:
    """Return the processes of a group that are not yet gone (as far as /proc tells)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(stat.parent.name)
    return found


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_what_scripts_rely_on(  # noqa: PLR0915 - one run, and all that is to be said of it
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, models = tmp_path / "out", tmp_path / "models"
    file = write(tmp_path, MODEL.replace("figures: []\n", ""))
    status = parm("run", file, "--out", out, "--models", models, "--workers", 1, monkeypatch=monkeypatch)
    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert printed.out.rstrip().endswith(str(out))

    table = rows(out / "summary.csv")
    assert list(table[0]) == [
        "policy",
        "workload.arrivals.rate",
        *(f"{metric}{end}" for metric in METRICS for end in ("", "_lo", "_hi")),
        *COUNTS,
    ]
    assert [(row["policy"], row["workload.arrivals.rate"]) for row in table] == [
        ("equal_resources", "60"), ("two", "60"), ("equal_resources", "90"), ("two", "90"),
    ]  # fmt: skip
    for row in table:
        assert float(row["p50"]) <= float(row["p99"]) <= float(row["p999"])
        assert 0 < float(row["accuracy_overall"]) <= 1
        assert (float(row["instances"]), int(row["trials"])) == (6, 2)
    assert float(table[1]["unavailable"]) > 0
    assert 10 < float(table[0]["p50"]) < 100, "milliseconds"

    differences = rows(out / "differences.csv")
    assert {row["policy"] for row in differences} == {"two"}
    summary = json.loads((out / "summary.json").read_text())
    assert len(summary["rows"]) == 4
    resolved = yaml.safe_load((out / "experiment.yaml").read_text())
    assert resolved["policies"][1]["k"] == 2
    assert resolved["workload"]["sampling"] == {"kind": "uniform"}
    drawn = {file.name for file in (out / "figures").iterdir()}
    for stem in ("latency_vs_sweep", "ccdf", "accuracy", "latency_accuracy", "timeline"):
        assert {f"{stem}.png", f"{stem}.pdf"} <= drawn

    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["seed"], manifest["complete"]) == (1, True)
    assert manifest["device"]
    assert manifest["versions"]["torch"]
    assert manifest["command"][:2] == ["parm", "run"]
    assert len(manifest["cells"]) == len(list((out / "queries").glob("*.parquet"))) == 8
    assert {card["role"] for card in manifest["models"]} == {"deployed", "parity"}
    for cell in manifest["cells"]:
        assert set(cell["seconds"]) == {"simulating", "predicting", "writing"}
        assert {"deployed", "parity", "backup"} == set(cell["passes"])
        assert (out / cell["trace"]).is_file()
    assert manifest["passes"]["deployed"] <= 360 + 1437

    # Again: nothing is simulated or trained, and the numbers stay.
    before = {file: file.stat().st_mtime_ns for file in (*out.glob("cells/*"), *out.rglob("*.parquet"))}
    numbers = (out / "summary.csv").read_bytes()
    manifest_before = (out / "manifest.json").read_bytes()
    words = ["run", file, "--out", out, "--models", models, "--set", "figures=[]"]
    assert parm(*words, monkeypatch=monkeypatch) == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert (out / "summary.csv").read_bytes() == numbers
    assert (out / "manifest.json").read_bytes() == manifest_before
    assert "8 of 8 cells are reused, " in capsys.readouterr().err

    # The other verbs read what it left.
    (out / "summary.csv").unlink()
    resolved["figures"] = ["ccdf"]
    (out / "experiment.yaml").write_text(yaml.safe_dump(resolved))
    (out / "figures" / "ccdf.png").unlink()
    assert parm("figures", out, monkeypatch=monkeypatch) == 0
    assert (out / "summary.csv").read_bytes() == numbers
    assert (out / "figures" / "ccdf.png").is_file()
    capsys.readouterr()
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "summary.json").write_bytes((out / "summary.json").read_bytes())
    assert parm("compare", out, copy, monkeypatch=monkeypatch) == 0
    assert "+0.00" in capsys.readouterr().out
    assert parm("train", write(tmp_path, MODEL), "--models", models, monkeypatch=monkeypatch) == 0
    said = capsys.readouterr()
    assert said.out.count("accuracy") == 2
    assert "epoch" not in said.err


@pytest.mark.parametrize(("text", "importers"), [(LATENCY, set()), (MODEL, {"main"})], ids=["latency", "model"])
def test_only_the_main_process_of_a_run_with_a_model_imports_torch(
    text: str, importers: set[str], tmp_path: Path
) -> None:
    """And a policy from a plugin beside the file runs in the workers."""
    (tmp_path / "my_running_module.py").write_text(PLUGIN.format(kind="spare_that_runs"))
    (tmp_path / "sitecustomize.py").write_text(SPY)
    spied = tmp_path / "spied"
    process = started(
        "run", write(tmp_path, text.replace("- equal_resources", "- spare_that_runs")), "--out", tmp_path / "out",
        "--models", tmp_path / "models", "--workers", 2, "--plugin", "my_running_module", "--set", "sweep={}",
        PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}", SPY=str(spied),
    )  # fmt: skip
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert set(spied.read_text().split() if spied.exists() else []) == importers
    table = rows(tmp_path / "out" / "summary.csv")
    assert [row["policy"] for row in table] == ["spare_that_runs", "two"]
    if text == LATENCY:
        assert all(row[f"accuracy_overall{end}"] == "" for row in table for end in ("", "_lo", "_hi"))
        assert json.loads((tmp_path / "out" / "manifest.json").read_text())["device"] is None


LONG = LATENCY.replace("queries: 400", "queries: 3000").replace("trials: 2", "trials: 5")


def wait_for_cells(out: Path, process: subprocess.Popen[str], count: int) -> None:
    while process.poll() is None and len(list(out.glob("cells/*.json"))) < count:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()


def test_a_killed_run_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    file = write(tmp_path, LONG)
    process = started("run", file, "--out", out, "--workers", 2)
    wait_for_cells(out, process, 3)
    process.kill()
    process.wait()
    patience = time.monotonic() + 30
    while (left := living(process.pid)) and time.monotonic() < patience:
        time.sleep(0.05)
    for worker in left:
        os.kill(int(worker), signal.SIGKILL)
    process.communicate()
    assert not left, "workers outlive the main process"
    finished = {file: file.stat().st_mtime_ns for file in out.glob("cells/*.json")}
    assert 3 <= len(finished) < 20

    assert parm("run", file, "--out", out, "--workers", 1, monkeypatch=monkeypatch) == 0
    assert f"{len(finished)} of 20 cells are reused, " in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    assert len(list(out.glob("cells/*.json"))) == 20
    assert parm("run", file, "--out", whole, "--workers", 1, monkeypatch=monkeypatch) == 0
    for one in whole.rglob("*.parquet"):
        assert (out / one.relative_to(whole)).read_bytes() == one.read_bytes()
    assert (out / "summary.csv").read_bytes() == (whole / "summary.csv").read_bytes()
    assert not [file for file in out.rglob("*") if file.name.endswith(".part")]


@pytest.mark.parametrize(("stop", "workers"), [(signal.SIGINT, 2), (signal.SIGTERM, 1)])
def test_an_interrupted_run_says_how_to_continue(stop: signal.Signals, workers: int, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = started("run", write(tmp_path, LONG), "--out", out, "--workers", workers)
    wait_for_cells(out, process, 2)
    os.killpg(process.pid, stop)  # the terminal sends Ctrl-C to the workers as well
    _, errors = process.communicate()
    assert process.returncode == 130
    last = errors.splitlines()[-1]
    assert last.startswith("Interrupted; ")
    assert f"parm run {tmp_path / 'experiment.yaml'} --out {out} --workers {workers}" in last
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "nowhere.yaml"], "nowhere.yaml: there is no such file."),
        (["check", "nowhere.yaml"], "nowhere.yaml: there is no such file."),
        (["run", "FILE", "--set", "trials=0"], "--set trials=0: trials: must be at least 1, but is 0."),
        (["run", "FILE", "--plugin", "not_there"], "--plugin not_there: there is no module 'not_there' in"),
        (["run", "FILE", "--out", "FILE"], "experiment.yaml cannot be written: "),
        (["run", "FILE", "--out", "FILE/below"], "below cannot be written: Not a directory."),
        (["train", "FILE"], "has no 'model', so there is nothing to train."),
        (["profile", "FILE"], "has no 'model' to measure; name one with --network."),
        (["profile"], "name either an experiment's FILE or a --network to measure, not both."),
        (["profile", "--network", "vgg"], "--network vgg: there is no network 'vgg'"),
        (["profile", "--network", "{kind: mlp, hidden: [-1]}"], "hidden.0: must be greater than 0, but is -1"),
        (["profile", "--network", "mlp", "--batches", "1,x"], "--batches 1,x: must be whole numbers above 0"),
        (["profile", "--network", "mlp", "--shape", "8,8"], "--shape 8,8: must be three numbers"),
        (["profile", "--network", "mlp", "--device", "tpu"], "there is no device 'tpu'"),
        (["figures", "/"], "is not a run directory: there is no experiment.yaml in it."),
        (["compare", "."], "comparing needs at least two run directories"),
        (["list", "polcy"], "there is nothing called 'polcy' (did you mean 'policy'?)"),
        (["run", "FILE", "--workers", "0"], "greater than or equal to 1"),
        (["run"], "Missing argument 'FILE'"),
        (["rnu"], "No such command 'rnu'"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_status_2(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = str(write(tmp_path))
    assert parm(*(word.replace("FILE", file) for word in words), monkeypatch=monkeypatch) == 2
    printed = capsys.readouterr()
    assert says in " ".join(printed.err.split())
    assert "Traceback" not in printed.err
    if not printed.err.startswith("Usage"):
        assert len(printed.err.splitlines()) == 1


def test_another_experiment_in_the_directory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", write(tmp_path), "--out", tmp_path / "out", "--workers", "1", "--set", "sweep={}"]
    assert parm(*words, monkeypatch=monkeypatch) == 0
    assert parm(*words, "--set", "seed=2", monkeypatch=monkeypatch) == 2
    assert "it differs in seed" in capsys.readouterr().err
    assert parm(*words, "--set", "seed=2", "--fresh", monkeypatch=monkeypatch) == 0
    assert yaml.safe_load((tmp_path / "out" / "experiment.yaml").read_text())["seed"] == 2


def test_a_bug_is_one_line_unless_debug_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        error = RuntimeError("a bug\nof ours")
        raise error

    monkeypatch.setattr("experiments.config.loader.load", broken)
    assert parm("check", write(tmp_path), monkeypatch=monkeypatch) == 1
    line = broken.__code__.co_firstlineno + 2  # the test stands for a plugin
    says = f"parm failed ({__file__}:{line}) (RuntimeError: a bug of ours); --debug shows where.\n"
    assert capsys.readouterr().err == says
    with pytest.raises(RuntimeError):
        parm("check", write(tmp_path), "--debug", monkeypatch=monkeypatch)


def test_check_says_what_would_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parm("check", write(tmp_path, MODEL), monkeypatch=monkeypatch) == 0
    said = capsys.readouterr().out
    assert "8 cells: 2 policies x 2 sweep points x 2 trials, of 400 queries each" in said
    assert "policy two: 6 instances" in said
    assert "model: deployed mlp on digits" in said
    assert "model: 1 parity mlp on digits for code addition, k = 2" in said
    assert [file.name for file in tmp_path.iterdir()] == ["experiment.yaml"]


def test_profile_measures_the_backup_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = "model: {dataset: digits, network: {kind: mlp, hidden: [64]}, backup: {network: {kind: mlp, hidden: [4]}}}"
    file, out = tmp_path / "experiment.yaml", tmp_path / "mine.json"
    file.write_text(f"{LATENCY}\n{model}\n")
    assert parm("profile", file, "--repeats", "3", "--out", out, monkeypatch=monkeypatch) == 0
    written = json.loads(out.read_text())
    coding = {"encode addition k=2 r=1", "decode addition k=2 r=1"}
    assert set(written["roles"]) == {"deployed", "parity", "backup"} | coding
    assert written["network"] == "mlp, backup mlp"


def test_profile_writes_what_a_cluster_can_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.json"
    words = ["profile", "--network", "mlp", "--shape", "1,8,8", "--batches", "1,2", "--repeats", "5", "--out", out]
    assert parm(*words, "--device", "cpu", monkeypatch=monkeypatch) == 0
    measured = json.loads(out.read_text())
    assert {"deployed", "parity", "encode addition k=2 r=1", "decode addition k=4 r=1"} <= set(measured["roles"])
    assert set(measured["roles"]["deployed"]) == {"1", "2"}
    assert "deployed, batch 2: mean " in capsys.readouterr().out
    text = LATENCY.replace("{kind: exponential, mean: 0.03}", "{kind: profile, file: mine.json}")
    assert parm("check", write(tmp_path, text), monkeypatch=monkeypatch) == 0
    encode = "cluster.encode={kind: profile, file: mine.json, role: encode, code: addition k=2 r=1}"
    assert parm("check", tmp_path / "experiment.yaml", "--set", encode, monkeypatch=monkeypatch) == 0


def test_every_refusal_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parm("compare", tmp_path, monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err == "comparing needs at least two run directories.\n"


def test_a_profile_that_cannot_be_written_is_refused_before_it_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = write(tmp_path) / "mine.json"
    assert parm("profile", "--network", "no_network", "--out", out, monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err.startswith(f"{out} cannot be written: ")


EXPERIMENTS = ROOT / "experiments"


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("calibration/fig10a.yaml", "k80-resnet18, a calibration; 'parm calibrate' runs it"),
        ("paper/two_losses.yaml", "two_losses, a study of accuracy; 'parm accuracy' runs it"),
        ("paper/fig12.yaml", "fig12, seed 1"),
    ],
)
def test_every_sort_of_file_can_be_checked(
    file: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = EXPERIMENTS / file
    assert parm("check", path, monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out.startswith(f"{path} is valid: {says}\n")


@pytest.mark.parametrize(
    ("verb", "file", "says"),
    [
        ("accuracy", "quickstart.yaml", "is an experiment; run it with 'parm run"),
        ("calibrate", "quickstart.yaml", "is an experiment; run it with 'parm run"),
        ("calibrate", "paper/fig8.yaml", "is a study of accuracy; run it with 'parm accuracy"),
        ("run", "calibration/fig10a.yaml", "is a calibration; run it with 'parm calibrate"),
        ("train", "paper/paper-latency.yaml", "is a bundle of experiments; run it with 'parm run"),
    ],
)
def test_a_file_of_another_sort_is_sent_to_its_verb(
    verb: str, file: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = EXPERIMENTS / file
    assert parm(verb, path, monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err == f"{path}: this {says} {path}'.\n"


@pytest.mark.parametrize(
    ("verb", "defaults"),
    [
        ("run", ("runs/NAME", "cores", ".parm/data")),
        ("accuracy", ("runs/NAME", ".parm/data")),
        ("calibrate", ("NAME.json", "cores")),
        ("plan", ("8 times the file's", "runs/NAME-plan", "cores")),
        ("validate", ("runs/NAME", "if there are enough")),
    ],
)
def test_the_help_says_what_an_option_is_without_being_given(
    verb: str, defaults: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parm(verb, "--help", monkeypatch=monkeypatch) == 0
    shown = " ".join(capsys.readouterr().out.replace("\u2502", " ").split())
    for default in defaults:
        assert f"[default: ({default})]" in shown


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["run", "--help"]])
def test_help_and_version_import_nothing_heavy(words: list[str]) -> None:
    code = (
        f"import atexit, sys, experiments.cli; sys.argv[1:] = {words}\n"
        "heavy = {'torch', 'numpy', 'pandas', 'matplotlib', 'pyarrow', 'scipy', 'yaml'}\n"
        "atexit.register(lambda: print('heavy:', *sorted(heavy & set(sys.modules))))\n"
        "experiments.cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "heavy:"


def test_a_verb_imports_its_own_module_alone() -> None:
    code = (
        "import sys, experiments.cli as cli; cli.verb('claims')\n"
        "print(*sorted(name for name in sys.modules if name.startswith('experiments.commands.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["experiments.commands.claims"]


def test_the_help_shows_every_verb_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert parm("--help", monkeypatch=monkeypatch) == 0
    shown = [line.strip("\u2502 ") for line in capsys.readouterr().out.splitlines()]
    for name in cli.VERBS:
        (line,) = [line for line in shown if line.split(" ")[0] == name]
        assert line.endswith(".")
        assert cli.verb(name).help.splitlines()[0] in line
        assert parm(name, "--help", monkeypatch=monkeypatch) == 0
        assert "--debug" in capsys.readouterr().out


def test_the_version_names_what_numbers_depend_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parm("--version", monkeypatch=monkeypatch) == 0
    assert re.fullmatch(r"parm \S+, Python 3\.\S+, torch \S+\n", capsys.readouterr().out)


def test_list_shows_families_and_plugins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_listed_module.py").write_text(PLUGIN.format(kind="spare_in_the_list"))
    assert parm("list", "policies", "--plugin", "my_listed_module", monkeypatch=monkeypatch) == 0
    said = capsys.readouterr().out
    for line in ("  coded: ", "  none: ", "  replication: ", "  spare_in_the_list: Brought along."):
        assert line in said


def test_the_engines_that_can_be_named_are_those_that_there_are() -> None:
    from typing import get_args

    from experiments.commands.arguments import ENGINES
    from sim.engines import Engine

    assert get_args(Engine) == ENGINES
