"""What is said before a run: offered loads, which recorded instance is which, and what is probably a mistake."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from experiments.analysis.dependence import autocorrelation, intraclass
from experiments.config.schema import Experiment
from experiments.run import load
from sim.trace import Role

BASE = """
name: e
workload: {arrivals: {kind: poisson, rate: 100}, queries: 1000}
cluster: {instances: 4, extra: 2, service: 0.02, parity_service: 0.03, backup_service: 0.01}
policies: [none]
"""


def experiment(folder: Path, *changes: str) -> Experiment:
    data = yaml.safe_load(BASE)
    for change in changes:
        for key, value in yaml.safe_load(change).items():
            data[key] = data[key] | value if isinstance(value, dict) else value
    return Experiment.model_validate(data, context={"paths": [folder]})


@pytest.mark.parametrize(
    ("policy", "cluster", "right"),
    [
        ("none", "{}", {"deployed": 0.5}),
        ("equal_resources", "{}", {"deployed": 1 / 3}),
        ("{kind: replication, cancel: nothing}", "{}", {"deployed": 2 / 3}),
        ("{kind: replication, cancel: all}", "{}", {"deployed": 1 / 3}),
        ("{kind: coded, k: 2}", "{}", {"deployed": 0.5, "parity": 0.75}),
        ("{kind: coded, k: 2, parity_pool: low_priority}", "{}", {"deployed": 100 * (0.02 + 0.03 / 2) / 6}),
        ("{kind: approximate_backup, cancel: nothing}", "{}", {"deployed": 0.5, "backup": 0.5}),
        ("none", "{batching: {kind: fixed, size: 4}, batch_cost: 0.25}", {"deployed": 100 * 0.035 / 4 / 4}),
        # A transfer holds the instance: 2 x 5 ms besides the service of 20 ms.
        ("none", "{network: {latency: 0.005}}", {"deployed": 0.75}),
    ],
)
def test_offered_loads(tmp_path: Path, policy: str, cluster: str, right: dict[str, float]) -> None:
    one = experiment(tmp_path, f"policies: [{policy}]", f"cluster: {cluster}")
    assert load.offered_loads(one.machines, one.policies[0], 100.0) == pytest.approx(right)


def test_offered_load_is_what_a_run_measures(tmp_path: Path) -> None:
    from experiments.analysis.outcome import offered as offered_in
    from sim.simulation import simulate
    from sim.streams import Streams

    one = experiment(tmp_path, "policies: [{kind: coded, k: 2}]")
    schedule = one.workload.arrivals.schedule(20_000, np.random.default_rng(0))
    measured = offered_in([simulate(one.machines, one.policies[0], (), schedule, Streams(0))])
    offered = load.offered_loads(one.machines, one.policies[0], 100.0)
    assert set(offered) == {Role.DEPLOYED.name.lower(), Role.PARITY.name.lower()}
    assert measured == pytest.approx(offered, rel=0.03)


def test_lines_give_the_range_over_a_sweep(tmp_path: Path) -> None:
    low, high = experiment(tmp_path), experiment(tmp_path, "cluster: {instances: 1}")
    points = [(one, one.policies[0]) for one in (low, high)]
    assert [*load.lines(points[:1])] == ["offered load of the deployed pool 0.5"]
    assert [*load.lines(points)] == ["offered load of the deployed pool 0.5 to 2 (unstable: must be below 1)"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("cluster: {service: 20000}", "cluster.service: its median is 5.56 hours: is the unit right?"),
        (
            "workload: {arrivals: {kind: replay, file: log.csv}, queries: 3}",
            "workload.arrivals: queries are 278 hours apart on average: is the unit right?",
        ),
        (
            "workload: {arrivals: {kind: replay, file: log.csv, unit: ns}, queries: 3}",
            None,
        ),
        (
            "stragglers: [{kind: multitenancy, instances: 2, rate: 28, service: 0.1}]",
            "stragglers.0: the second service's load is 1.4 on each of its instances",
        ),
        ("stragglers: [{kind: multitenancy, instances: 2, rate: 18, service: 0.1}]", None),
    ],
)
def test_questions(tmp_path: Path, change: str, says: str | None) -> None:
    (tmp_path / "log.csv").write_text("timestamp\n0\n1000000\n2000000\n")
    found = [*load.questions(experiment(tmp_path, change))]
    assert len(found) == (says is not None)
    assert says is None or found[0].startswith(says)


def test_recordings_with_one_clock_are_asked_about(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("timestamp\n1700000005\n1700000006\n")
    (tmp_path / "slow.csv").write_text("time,factor,instance\n1700000000,1,b10\n1700000010,2,b10\n0,1,b9\n1,1,b9\n")
    one = experiment(
        tmp_path,
        "workload: {arrivals: {kind: replay, file: log.csv}, queries: 2}",
        "stragglers: [{kind: replay, file: slow.csv, aligned: true}]",
    )
    assert "recorded arrivals begin 1.7e+09 s after recorded slowness" in "".join(load.questions(one))
    assert [*load.assignments(one)] == ["stragglers.0: 2 recorded instances: 0 is 'b9', 1 is 'b10'"]
    kept = experiment(
        tmp_path,
        "workload: {arrivals: {kind: replay, file: log.csv, origin: 1700000000}, queries: 2}",
        "stragglers: [{kind: replay, file: slow.csv, aligned: true, origin: 1700000000}]",
    )
    assert not [*load.questions(kept)]


def log(folder: Path, stickiness: float, hosts: float, names: str = "time,host,ms") -> Path:
    """A log of 4000 latencies: an AR(1) process in the order of `time`, whose rows are shuffled, plus a host's own."""
    rng = np.random.default_rng(3)
    state, rows = 0.0, []
    levels = rng.standard_normal(8) * hosts
    for time in range(4000):
        state = stickiness * state + np.sqrt(1 - stickiness**2) * rng.standard_normal()
        host = rng.integers(8)
        rows.append(f"{time},h{host},{np.exp(2 * (state + levels[host]))}")
    file = folder / "times.csv"
    file.write_text("\n".join([names, *rng.permutation(rows)]) + "\n")
    return file


@pytest.mark.parametrize(
    ("stickiness", "hosts", "names", "says"),
    [
        (0.0, 0.0, "time,host,ms", []),
        (0.7, 0.0, "time,host,ms", ["in the order of 'time' each correlates 0.6"]),
        (0.7, 0.0, "Started_At,host,ms", ["in the order of 'Started_At' each correlates 0.6"]),
        (0.0, 1.0, "time,host,ms", ["values of one 'host' correlate 0."]),
        (0.7, 1.0, "ts,instance_id,ms", ["in the order of 'ts'", "values of one 'instance_id'"]),
        (0.7, 1.0, "a,b,ms", []),
    ],
)
def test_a_log_that_is_not_independent_is_warned_of(
    tmp_path: Path, stickiness: float, hosts: float, names: str, says: list[str]
) -> None:
    log(tmp_path, stickiness, hosts, names)
    service = "{kind: scaled, of: {kind: empirical, file: times.csv, column: ms, unit: ms}, factor: 2}"
    found = [*load.questions(experiment(tmp_path, f"cluster: {{service: {service}}}"))]
    assert len(found) == bool(says)
    for part in says:
        assert found[0].startswith("cluster.service.of: ")
        assert part in found[0]
        assert "'parm fit times.csv'" in found[0]


def test_rare_slowness_that_lasts_is_warned_of_without_any_column_of_times(tmp_path: Path) -> None:
    """One value in a hundred is slow, in runs of twenty: a rank correlation of 3%, which is all of the tail."""
    rng = np.random.default_rng(1)
    values = rng.gamma(25, 1, 20_000) * np.where(np.arange(20_000) % 2000 < 20, 4, 1)
    options = "cluster: {service: {kind: empirical, file: times.csv, column: ms, unit: ms}}"
    (tmp_path / "times.csv").write_text("\n".join(["ms", *map(str, values)]))
    (found,) = load.questions(experiment(tmp_path, options))
    assert "in the order of the file each correlates 0.03" in found
    for independent in (rng.permutation(values), np.sort(values)):
        (tmp_path / "times.csv").write_text("\n".join(["ms", *map(str, independent)]))
        assert not [*load.questions(experiment(tmp_path, options))]


def test_correlations() -> None:
    """Against their definitions: AR(1) normal values, and groups that share half their variance."""
    rng = np.random.default_rng(0)
    noise, state = rng.standard_normal(20_000), np.zeros(20_000)
    for i in range(1, len(state)):
        state[i] = 0.5 * state[i - 1] + np.sqrt(0.75) * noise[i]
    spearman = 6 / np.pi * np.arcsin(0.25)  # of a bivariate normal with correlation 0.5
    assert autocorrelation(np.exp(5 * state)) == pytest.approx(spearman, abs=0.03)
    assert autocorrelation(np.ones(50)) == 0
    groups = np.repeat(np.arange(2000), 10)
    shared = np.repeat(rng.standard_normal(2000), 10) + rng.standard_normal(20_000)
    assert intraclass(shared, groups) == pytest.approx(spearman, abs=0.03)
    assert intraclass(noise, groups) == pytest.approx(0, abs=0.02)
    assert intraclass(noise, np.zeros(20_000, dtype=np.int64)) == 0
