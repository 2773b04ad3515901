"""From a log to an experiment, in one call: what `parm fit` does.

from experiments.calibration.log.fit import Columns, fit

fitted = fit("log.csv", "mine.yaml", Columns(latency="ms", unit="ms"))
print(*fitted.lines, sep="\\n")
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from experiments.calibration.log import figure, written
from experiments.calibration.log.answers import Columns, Mark, read_answers
from experiments.calibration.log.cluster import Cluster, estimate
from experiments.calibration.log.comparison import Comparison, compare
from experiments.config import loader
from experiments.config.schema import Experiment
from experiments.run.store import ensure_writable, writing
from sim.errors import ParmError

__all__ = ["Columns", "Fitted", "Mark", "fit"]
FORMATS = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class Fitted:
    """A fitted cluster."""

    cluster: Cluster
    experiment: Experiment
    """As it was written."""
    comparison: Comparison
    """The log beside the simulation."""
    files: tuple[Path, ...]
    """The experiment's YAML, what it reads, and the figure."""

    @property
    def lines(self) -> list[str]:
        """What was estimated and how good it is, in sentences."""
        return [*_estimates(self.cluster), *self.comparison.lines()]


def fit(
    log: str | Path, out: str | Path | None = None, columns: Columns | None = None, drawn: str | Path | None = None
) -> Fitted:
    """Estimate a cluster from a log of answers; write the experiment to `out` and the figure to `drawn`.

    By default they are the log's name with the endings `.yaml` and `.fit.png`. Raises ParmError where the log cannot be
    read or contradicts a cluster whose hosts serve one query at a time, and where files cannot be written.
    """
    log = Path(log).expanduser()
    name = log.name.removesuffix(".gz").rpartition(".")[0] or log.name
    target = log.with_name(f"{name}.yaml") if out is None else Path(out)
    picture = target.with_name(f"{target.stem}.fit.png") if drawn is None else Path(drawn)
    if picture.suffix not in FORMATS:
        raise ParmError(f"{picture}: the figure's name has to end in one of {', '.join(FORMATS)}.")
    if target.suffix not in (".yaml", ".yml"):
        raise ParmError(f"{target}: the experiment's name has to end in .yaml.")
    if target.exists() and not target.read_text(encoding="utf-8", errors="replace").startswith(written.MADE):
        raise ParmError(f"{target} exists already and was not made by parm fit: choose another name with --out.")
    for file in (target, picture):
        ensure_writable(file)
    cluster = estimate(read_answers(log, columns or Columns()))
    with writing(target):
        files = written.write(cluster, target)
    experiment = loader.load(target)
    comparison = compare(cluster.answers, experiment)
    with writing(picture):
        figure.save(figure.draw(comparison, log.name), picture)
    return Fitted(cluster, experiment, comparison, (*files, picture))


def _estimates(cluster: Cluster) -> list[str]:
    """Return the comments of the YAML with the numbers that they are about."""
    text = written.text_of(cluster, "")
    lines: list[str] = []
    said = ""
    for line in text.splitlines()[2:]:
        stripped = line.strip()
        if stripped.startswith("#"):
            said = f"{said} {stripped.lstrip('# ')}".strip()
            continue
        if said and not stripped.startswith(("extra", "policies")):
            lines.append(said)
        said = ""
    return lines
