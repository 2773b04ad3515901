"""Notes of a run name what has no effect, at which sweep points, in `check` and in the manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.cli import main
from experiments.config.schema import Experiment
from experiments.run.cells import cells
from experiments.run.manifest import notes

TIED = """
name: tied
trials: 1
workload: {arrivals: {kind: poisson, rate: 50}, queries: 500}
cluster: {instances: 4, extra: 2, service: 0.02}
policies: [equal_resources, tied]
"""


def test_check_says_that_tied_on_a_single_queue_is_equal_resources(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tied.yaml"
    file.write_text(TIED, encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["parm", "check", str(file)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert "note: tied: 'tied' on a single queue is the same as 'equal_resources'" in capsys.readouterr().out


def test_a_note_that_holds_at_some_sweep_points_says_at_how_many() -> None:
    data = {
        "name": "swept",
        "workload": {"arrivals": {"kind": "poisson", "rate": 50}, "queries": 500},
        "cluster": {"instances": 4, "extra": 2, "service": 0.02},
        "policies": ["equal_resources", "tied"],
        "sweep": {"cluster.queue": ["single_queue", "round_robin", "random"]},
    }
    experiment = Experiment.model_validate(data)
    (note,) = notes(experiment, cells(experiment))
    assert note.startswith("tied: 'tied' on a single queue")
    assert note.endswith("(at 1 of 3 sweep points)")
