"""Every way in which a file can be wrong is refused with sentences that name the place and the remedy."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from experiments.config import loader
from experiments.config.schema import Experiment
from sim.errors import ParmError

GOOD = """\
name: tiny
seed: 3
trials: 2
workload:
  arrivals: {kind: poisson, rate: 90}
  queries: 2000
cluster:
  instances: 4
  extra: 2
  service: {kind: exponential, mean: 0.03}
stragglers:
  - {kind: slow_periods, factor: 4, mean_normal: 9.0, mean_slow: 1.0}
policies:
  - equal_resources
  - {kind: coded, k: 2, parity_instances: budget}
sweep:
  workload.arrivals.rate: [60, 90]
"""
MODEL = "model: {network: mlp, dataset: digits}\n"


def changed(old: str, new: str) -> str:
    assert old in GOOD, old
    return GOOD.replace(old, new)


def added(text: str) -> str:
    return GOOD + text


REFUSED: dict[str, tuple[str, str]] = {
    # each: the text, and what the message must say after the file's name
    "empty": ("", ": is empty"),
    "only_comments": ("# nothing\n", ": is empty"),
    "a_list": ("- name: x\n", ":1: must be a mapping"),
    "a_word": ("experiment\n", ":1: must be a mapping"),
    "null": ("~\n", ":"),
    "syntax": (changed("{kind: poisson, rate: 90}", "{kind: poisson, rate: 90"), ":6: is not YAML"),
    "tab": (changed("  queries: 2000", "\tqueries: 2000"), ":6: is not YAML"),
    "two_documents": (added("---\nname: other\n"), ":18: is not YAML: but found another document"),
    "undefined_alias": (changed("seed: 3", "seed: *seed"), ":2: is not YAML: found undefined alias"),
    "alias_bomb": (
        "a0: &a0 [1,2,3,4,5,6,7,8,9]\n"
        + "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)),
        "values, with aliases expanded",
    ),
    "alias_in_itself": ("a: &a [1, *a]\n", ":1: nested more than"),
    "deep": ("a: " + "[" * 100 + "]" * 100, ":1: nested more than"),
    "very_deep": ("a: " + "[" * 20_000, "nested too deeply"),
    "python_object": (changed("seed: 3", "seed: !!python/name:os.system x"), ":2: seed: 'x' cannot be read as"),
    "tagged_mapping": (changed("arrivals: {", "arrivals: !custom {"), ":5: workload.arrivals: has the tag !custom"),
    "key_is_a_list": (added("[1, 2]: x\n"), ":18: a key must be plain text"),
    "duplicate_key": (changed("trials: 2", "trials: 2\nseed: 4"), ":4: seed: given twice, first on line 2"),
    "duplicate_nested": (changed("  extra: 2", "  extra: 2\n  extra: 3"), ":10: cluster.extra: given twice"),
    "bad_merge": (changed("  extra: 2", "  <<: 5"), ":9: '<<' can only merge mappings"),
    "unknown_key": (added("colour: red\n"), ":18: colour: unknown key; known keys are name, seed"),
    "misspelt_key": (
        changed("  instances: 4", "  instnces: 4"),
        ":8: cluster.instnces: unknown key; did you mean 'instances'?",
    ),
    "misspelt_option": (
        changed("rate: 90}", "rat: 90}"),
        ":5: workload.arrivals.rat: unknown key; did you mean 'rate'?",
    ),
    "misspelt_policy_option": (changed("k: 2,", "kk: 2,"), ":15: policies.1.kk: unknown key; "),
    "missing_name": (changed("name: tiny\n", ""), ":1: name: is missing"),
    "missing_option": (changed(", mean_slow: 1.0", ""), ":12: stragglers.0.mean_slow: is missing"),
    "missing_in_shorthand": (changed("{kind: poisson, rate: 90}", "poisson"), ":5: workload.arrivals.rate: is missing"),
    "missing_section": (changed("policies:\n", "x:\n"), "policies: is missing"),
    "no_policies": (
        changed("policies:\n  - equal_resources\n  - {kind: coded, k: 2, parity_instances: budget}", "policies: []"),
        ":13: policies: needs at least 1 item, but has 0",
    ),
    "policies_a_word": (
        changed("policies:\n  - equal_resources\n  - {kind: coded, k: 2, parity_instances: budget}", "policies: coded"),
        ":13: policies: must be a list, but is 'coded'",
    ),
    "unknown_kind": (
        changed("kind: poisson", "kind: poison"),
        "there is no arrival process 'poison' (did you mean 'poisson'?)",
    ),
    "unknown_policy": (changed("- equal_resources", "- equal_resource"), ":14: policies.0: there is no policy"),
    "kind_missing": (changed("kind: exponential, ", ""), ":10: cluster.service: "),
    "kind_is_a_list": (
        changed("kind: poisson", "kind: [poisson]"),
        ":5: workload.arrivals: there is no arrival process",
    ),
    "negative": (changed("queries: 2000", "queries: -3"), ":6: workload.queries: must be greater than 0, but is -3"),
    "zero_trials": (changed("trials: 2", "trials: 0"), ":3: trials: must be at least 1, but is 0"),
    "not_a_number": (changed("rate: 90", "rate: fast"), ":5: workload.arrivals.rate: must be a number, but is 'fast'"),
    "not_whole": (
        changed("instances: 4", "instances: 4.5"),
        ":8: cluster.instances: must be a whole number, but is 4.5",
    ),
    "infinite": (changed("rate: 90", "rate: .inf"), ":5: workload.arrivals.rate: must be a finite number"),
    "a_boolean_for_a_number": (changed("trials: 2", "trials: true"), ":3: trials: must be a number, but is true"),
    "nested_boolean": (changed("rate: 90", "rate: true"), ":5: workload.arrivals.rate: must be a number, but is true"),
    "a_mapping_for_a_number": (
        changed("seed: 3", "seed: {a: 1}"),
        ":2: seed: must be a whole number, but is a mapping",
    ),
    "a_number_for_a_section": (
        changed("stragglers:\n  - {kind: slow_periods, factor: 4, mean_normal: 9.0, mean_slow: 1.0}", "model: 5"),
        ":11: model: must be a mapping of options, but is 5",
    ),
    "nothing_for_a_section": (added("cluster_:\n"), ":18: cluster_: unknown key; did you mean 'cluster'?"),
    "bad_name": (changed("name: tiny", "name: ../up"), ":1: name: '../up' is not a valid name of a run directory"),
    "equal_labels": (
        changed("- equal_resources", "- coded"),
        ":15: policies.1: has the name 'coded', as has policies.0",
    ),
    "k_too_small": (changed("k: 2", "k: 1"), ":15: policies.1.k: must be at least 2, but is 1"),
    "union": (
        changed("parity_instances: budget", "parity_instances: all"),
        ":15: policies.1.parity_instances: must be a whole number or 'budget', but is 'all'",
    ),
    "budget_too_small": (changed("k: 2,", "k: 2, r: 3,"), ":15: policies.1: 3 parities need an instance each"),
    "impossible_code": (
        changed("k: 2,", "k: 2, code: {kind: addition, weights: [[1, 1, 1]]},"),
        ":15: policies.1: weights: 1 x 3 given",
    ),
    "warmup": (added("warmup: 2000\n"), ":18: warmup: must be less than workload.queries (2000), but is 2000"),
    "bad_choice": (added("execution: later\n"), ":18: execution: must be 'deferred' or 'in_the_loop', but is 'later'"),
    "loop_without_model": (added("execution: in_the_loop\n"), ":18: execution: in_the_loop needs a 'model' to run"),
    "backup_without_model": (
        MODEL + changed("  - equal_resources", "  - equal_resources\n  - approximate_backup"),
        ":16: policies.1: approximate_backup needs a 'model.backup'",
    ),
    "two_timeouts": (
        changed("  - equal_resources", "  - {kind: approximate_backup, after: 0.1, after_quantile: 0.5}"),
        ":14: policies.0: give 'after' or 'after_quantile', not both",
    ),
    "bad_deadline": (
        changed("  extra: 2", "  extra: 2\n  deadline: 0"),
        ":10: cluster.deadline: must be greater than 0",
    ),
    "crashes_without_deadline": (
        changed(
            "kind: slow_periods, factor: 4, mean_normal: 9.0, mean_slow: 1.0", "kind: crashes, mean_up: 9, retry: false"
        ),
        ":12: stragglers.0: loses work permanently, which leaves queries unanswered: give the cluster a",
    ),
    "unknown_figure": (added("figures: [pie]\n"), ":18: figures.0: there is no figure 'pie'"),
    "figure_without_model": (added("figures: [accuracy]\n"), ":18: figures.0: accuracy needs a 'model'"),
    "timeline_without_traces": (added("figures: [timeline]\ntraces: false\n"), "timeline needs 'traces: all'"),
    "timeline_without_tasks": (added("figures: [timeline]\ntraces: queries\n"), "timeline needs 'traces: all'"),
    "traces_of_no_kind": (added("traces: tasks\n"), "must be none, queries or all, but is 'tasks'"),
    "sweep_unknown": (
        changed("  workload.arrivals.rate:", "  workload.arrival.rate:"),
        "there is no 'workload.arrival.rate' to sweep; did you mean 'workload.arrivals.rate'?",
    ),
    "sweep_forbidden": (changed("  workload.arrivals.rate:", "  seed:"), ":17: sweep.seed: 'seed' cannot be swept"),
    "sweep_of_nothing": (changed("[60, 90]", "[]"), ":17: sweep.workload.arrivals.rate: needs at least one value"),
    "sweep_value": (
        changed("[60, 90]", "[60, -90]"),
        ":17: sweep.workload.arrivals.rate.1: workload.arrivals.rate must be greater than 0, but is -90",
    ),
    "sweep_twice": (changed("[60, 90]", "[60, 60]"), ":17: sweep.workload.arrivals.rate.1: 60 is given twice"),
    "sweep_null": (changed("[60, 90]", "[60, ~]"), "must be a number, text, true or false"),
    "sweep_no_list": (changed("[60, 90]", "60"), ":17: sweep.workload.arrivals.rate: must be a list, but is 60"),
    "sweep_together": (
        changed("workload.arrivals.rate: [60, 90]", "policies.coded.r: [1, 2]\n  cluster.extra: [2, 1]"),
        ":16: sweep: policies.coded.r=2, cluster.extra=1: policies.1 2 parities need an instance each",
    ),
    "sweep_too_large": (
        added(f"  cluster.extra: {list(range(1, 200))}\n  cluster.instances: {list(range(1, 200))}\n"),
        ":16: sweep: has more than 10000 points",
    ),
    "missing_file": (
        changed("{kind: exponential, mean: 0.03}", "{kind: empirical, file: nowhere.csv, column: seconds}"),
        ":10: cluster.service.file: ",
    ),
    "unknown_network": (
        added("model: {network: vgg, dataset: digits}\n"),
        ":18: model.network: there is no network 'vgg'",
    ),
    "unknown_dataset": (added("model: {network: mlp, dataset: digit}\n"), "did you mean 'digits'?"),
    "recipe_option": (
        added("model: {network: mlp, dataset: digits, recipe: {kind: best, epochs: 0}}\n"),
        ":18: model.recipe.epochs: must be greater than 0, but is 0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_file_is_refused_with_its_line(case: str, tmp_path: Path) -> None:
    text, says = REFUSED[case]
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ParmError) as refusal:
        loader.load(path)
    message = str(refusal.value)
    assert message.startswith(str(path))
    assert says in message
    assert "pydantic" not in message
    assert "Error" not in message
    expected = 2 if case == "missing_section" else 1
    lines = message.splitlines()
    assert len(lines) == expected, message
    assert all(line.endswith((".", "?")) for line in lines)


def make_folder(path: Path) -> None:
    path.mkdir()


def make_latin1(path: Path) -> None:
    path.write_bytes(GOOD.replace("tiny", "tin\xff").encode("latin-1"))


def make_large(path: Path) -> None:
    path.write_bytes(b"#" * (loader.MOST_BYTES + 1))


def make_binary(path: Path) -> None:
    path.write_bytes(b"name: a\x00b\n")


def make_nothing(path: Path) -> None:
    return None


def make_loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (make_nothing, "there is no such file"),
        (make_folder, "is a folder"),
        (make_latin1, ":1: is not UTF-8"),
        (make_large, "is larger than 4 MiB"),
        (make_binary, "is not YAML"),
        (make_loop, "cannot be read"),
    ],
)
def test_what_is_no_text_file_is_refused(make: Callable[[Path], None], says: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    make(path)
    with pytest.raises(ParmError) as refusal:
        loader.load(path)
    message = str(refusal.value)
    assert message.startswith(str(path))
    assert says in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("workload.queries", "must have the form key.subkey=value"),
        ("=5", "must have the form key.subkey=value"),
        ("a..b=5", "must have the form key.subkey=value"),
        ("workload.queries=[1", "is not YAML"),
        ("workload.queries=0", "--set workload.queries=0: workload.queries: must be greater than 0, but is 0"),
        ("workload.querries=5", "unknown key; did you mean 'queries'?"),
        ("policies.7.k=3", "'policies' has no item '7'"),
        ("policies.replication.copies=3", "'policies' has no item 'replication'"),
        ("seed.x=3", "'seed' is 3, which has no options"),
    ],
)
def test_a_bad_override_is_refused_by_its_text(override: str, says: str, tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(ParmError) as refusal:
        loader.load(path, [override])
    assert says in str(refusal.value)
    assert str(refusal.value).startswith(f"--set {override}: ")
    assert "\n" not in str(refusal.value)


def test_all_problems_are_said_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, changed("instances: 4", "instnces: 4").replace("rate: 90}", "rate: -1}"))
    with pytest.raises(ParmError) as refusal:
        loader.load(path, ["trials=0"])
    lines = str(refusal.value).splitlines()
    assert len(lines) == 3
    assert f"{path}:5: workload.arrivals.rate: must be greater than 0, but is -1." in lines
    assert f"{path}:8: cluster.instnces: unknown key; did you mean 'instances'?" in lines
    assert "--set trials=0: trials: must be at least 1, but is 0." in lines


def test_overrides_reach_lists_shorthands_and_what_was_left_out(tmp_path: Path) -> None:
    experiment = loader.load(
        write(tmp_path),
        [
            "policies.1.k=3",
            "policies.equal_resources.name=equal",
            "workload.queries=1e4",
            "model.network=mlp",
            "model.dataset=digits",
            "cluster.queue.kind=round_robin",
            "sweep={}",
        ],
    )
    plain = experiment.resolved()
    assert plain["policies"][1]["k"] == 3
    assert plain["policies"][0] == {"name": "equal", "kind": "equal_resources"}
    assert plain["workload"]["queries"] == 10_000
    assert plain["model"]["network"]["kind"] == "mlp"
    assert plain["cluster"]["queue"] == {"kind": "round_robin", "steal": False}
    assert plain["sweep"] == {}


@pytest.mark.parametrize("override", ["a.b.c=3", "cluster.instnces.count=3"])
def test_a_mapping_that_an_override_makes_is_the_overrides_mistake(override: str, tmp_path: Path) -> None:
    with pytest.raises(ParmError) as refusal:
        loader.load(write(tmp_path), [override])
    assert str(refusal.value).startswith(f"--set {override}: {override.rpartition('.')[0].removesuffix('.b')}: unknown")


def test_yaml_scalars_are_read_as_people_mean_them(tmp_path: Path) -> None:
    path = tmp_path / "scalars.yaml"
    path.write_text(
        "a: 1e5\nb: on\nc: 2024-01-01\nd: 010\ne: 1_000\nf: -.5\ng: 1:30\nh: 'true'\ni: True\nj:\nk: .inf\n"
    )
    assert loader.read(path).data == {
        "a": 1e5, "b": "on", "c": "2024-01-01", "d": 10, "e": 1000, "f": -0.5, "g": "1:30", "h": "true", "i": True,
        "j": None, "k": float("inf"),
    }  # fmt: skip


def test_anchors_and_merges_work(tmp_path: Path) -> None:
    text = changed(
        "- {kind: coded, k: 2, parity_instances: budget}", "- &two {kind: coded, k: 2, parity_instances: budget}"
    )
    text = text.replace("sweep:", "  - {<<: *two, name: three, k: 3}\nsweep:")
    third = loader.load(write(tmp_path, text)).resolved()["policies"][2]
    assert (third["kind"], third["name"], third["k"], third["parity_instances"]) == ("coded", "three", 3, "budget")


def test_the_resolved_experiment_loads_to_itself(tmp_path: Path) -> None:
    experiment = loader.load(write(tmp_path, added(MODEL)))
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(experiment.resolved(), sort_keys=False))
    assert loader.load(again) == experiment
    assert isinstance(experiment, Experiment)


PLUGIN = '''
from typing import Literal
from sim.policies import EqualResources

class Spare(EqualResources):
    """One that a user brought."""
    kind: Literal["{kind}"] = "{kind}"
'''


def test_a_plugin_beside_the_file_brings_a_kind(tmp_path: Path) -> None:
    (tmp_path / "my_spare_module.py").write_text(PLUGIN.format(kind="spare_for_the_loader"))
    path = write(tmp_path, changed("- equal_resources", "- spare_for_the_loader"))
    with pytest.raises(ParmError, match="there is no policy 'spare_for_the_loader'"):
        loader.load(path)
    assert loader.load(path, plugins=["my_spare_module"]).policies[0].label == "spare_for_the_loader"
    path.write_text(path.read_text() + "plugins: [my_spare_module]\n")
    named = loader.load(path)
    assert named.policies[0].label == "spare_for_the_loader"
    assert named.resolved()["plugins"] == ["my_spare_module"]
    assert loader.load(path, ["plugins=[]"], ["my_spare_module"]).plugins == ("my_spare_module",)


def test_plugins_that_are_no_list_of_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParmError, match="plugins"):
        loader.load(write(tmp_path, "plugins: 3\n"))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (None, "there is no module 'my_broken_plugin"),
        ("import nothing_of_that_name", "imports 'nothing_of_that_name', which is not installed ({plugin}:1)"),
        ("1 / 0", "import failed ({plugin}:1): ZeroDivisionError: division by zero"),
        ("def (:", "import failed ({plugin}:1): SyntaxError"),
    ],
)
def test_a_bad_plugin_is_one_sentence(source: str | None, says: str, tmp_path: Path) -> None:
    name = f"my_broken_plugin_{abs(hash(says)) % 10**6}"
    if source is not None:
        (tmp_path / f"{name}.py").write_text(source)
    with pytest.raises(ParmError) as refusal:
        loader.load(write(tmp_path), plugins=[name])
    assert str(refusal.value).startswith(f"--plugin {name}: ")
    assert says.format(plugin=tmp_path / f"{name}.py") in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_folder_that_is_looked_in_twice_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, added(MODEL))
    monkeypatch.chdir(tmp_path)
    for words in ({"plugins": ["no_such_module"]}, {"overrides": ["model.dataset={kind: npz, file: no.npz}"]}):
        with pytest.raises(ParmError) as refusal:
            loader.load(path, **words)
        assert str(refusal.value).count(f"in {tmp_path}") == 1
        assert f"or {tmp_path}" not in str(refusal.value)


def test_a_plugin_is_a_module_and_not_a_path(tmp_path: Path) -> None:
    with pytest.raises(ParmError, match=r"--plugin \.\./my_module\.py: name a module, such as my_module"):
        loader.load(write(tmp_path), plugins=["../my_module.py"])


def write(folder: Path, text: str = GOOD) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(text)
    assert os.access(path, os.R_OK)
    return path
