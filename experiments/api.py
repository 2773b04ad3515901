"""A run from Python: its tables as pandas frames, its figures as matplotlib figures, single cells simulated.

from experiments.api import load, run

finished = run("experiment.yaml", workers=4)
finished.summary()[["policy", "p999_ms"]]
finished.queries(policy="coded k=2", rate=300).latency_ms.quantile(0.999)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.analysis import perfetto, reversals, selection, summary
from experiments.analysis.estimates import known_metric
from experiments.analysis.outcome import LATENCIES, Outcome
from experiments.analysis.quantiles import MS
from experiments.analysis.reversals import Found, Reversals
from experiments.analysis.selection import Mark, Rule
from experiments.analysis.summary import Row
from experiments.analysis.tables import describe
from experiments.config import loader
from experiments.config.schema import Experiment
from experiments.config.select import rule
from experiments.figures.base import Figure
from experiments.figures.verdict import best, objective
from experiments.run import executors
from experiments.run.cells import Cell, cells
from experiments.run.runner import simulate_cell
from experiments.run.selecting import cells_of
from experiments.run.session import Session, figure_data
from experiments.run.store import RunStore, query_table, writing
from sim import atomic
from sim.errors import ParmError
from sim.trace import Route

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd
    import pyarrow as pa

    from experiments.figures.report import SlowQuery
    from sim.trace import Trace

Source = Experiment | Mapping[str, Any] | str | Path
"""An experiment, its plain data, or its YAML file."""


def load(source: Source, overrides: Mapping[str, Any] | None = None, plugins: Sequence[str] = ()) -> Experiment:
    """Return the experiment in a YAML file or in plain data, with options replaced: `{"workload.queries": 10_000}`.

    Raises ParmError with a sentence for each mistake.
    """
    if isinstance(source, Experiment):
        return load(source.resolved(), overrides, plugins) if overrides else source
    return loader.load_any(source, overrides or {}, plugins)


def run(
    source: Source,
    out: str | Path | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    plugins: Sequence[str] = (),
    workers: int | None = None,
    data: str | Path | None = None,
    models: str | Path = ".parm/models",
    device: str = "auto",
    fresh: bool = False,
    quiet: bool = True,
    executor: str = "local",
    address: str | None = None,
) -> Run:
    """Run an experiment into the directory `out` (`runs/NAME`), or what is left of it, and return the finished run.

    Progress goes to standard error; unless `quiet`, tables are printed as `parm run` prints them. Other arguments are
    the options of `parm run`. Raises ParmError, and KeyboardInterrupt if interrupted; the same call continues.
    """
    experiment = load(source, overrides, plugins)
    folder = Path(out) if out is not None else Path("runs") / experiment.name
    where = None if data is None else Path(data)
    with executors.opened(executor, address) as there:
        Session(workers, where, Path(models), device, fresh, quiet, there).run(experiment, folder)
    return Run(folder, experiment)


def open_run(folder: str | Path, plugins: Sequence[str] = ()) -> Run:
    """Return the run in a directory. Raises ParmError if there is none, or if cells are missing or damaged."""
    file = Path(folder) / "experiment.yaml"
    if not file.is_file():
        raise ParmError(f"{folder} is not a run directory: there is no experiment.yaml in it.")
    return Run(Path(folder), loader.load(file, (), plugins))


def simulate(
    source: Source, policy: str | None = None, trial: int = 0, *, plugins: Sequence[str] = (), **point: Any
) -> pd.DataFrame:
    """Simulate one cell, without a model's answers and without a run directory; return a row per query.

    `policy` is a policy's name (the first one if it is None), `point` the values of swept keys, as for `Run.queries`.
    The columns are those of `queries/*.parquet`.
    """
    experiment = load(source, plugins=plugins)
    name = experiment.policies[0].label if policy is None else policy
    found = _chosen(cells(experiment), name, point)
    cell = next((cell for cell in found if cell.trial == trial), None)
    if cell is None:
        raise ParmError(f"there is no trial {trial}: the experiment has trials 0 to {experiment.trials - 1}.")
    trace = simulate_cell(cell).trace
    warmup = cell.experiment.warmup_queries(trace.queries.arrival)
    return _frame(query_table(cell, trace, warmup))


def compare_runs(
    runs: Mapping[str, Run], metric: str = "p999", within: str | float = "1ms", confidence: float = 0.95
) -> list[str]:
    """Say of each policy and sweep point that runs have in common which run is best in a metric, by `selection`.

    `runs` are given by name; `within` is written as in YAML. Trials are paired by their number: with the same seed they
    share their random numbers, else the pairs are independent, which does no harm. Raises ParmError.
    """
    try:
        asked = rule(known_metric(metric), within, confidence)
    except ValueError as error:
        raise ParmError(str(error)) from None
    if not 0.5 < confidence < 1:
        raise ParmError(f"--confidence {confidence:g}: must be above 0.5 and below 1.")
    cells: dict[tuple[str, str], dict[str, list[Outcome]]] = {}
    for name, one in runs.items():
        for outcome in one.outcomes:
            place = summary.point_key(outcome.point), outcome.policy
            cells.setdefault(place, {}).setdefault(name, []).append(outcome)
    said = []
    for (_, policy), trials in cells.items():
        if len(trials) > 1:
            point = describe(next(iter(trials.values()))[0].point)
            where = f"{policy}, {point}" if point else policy
            said.append(selection.sentence(selection.standings(trials, asked), asked, where, " of "))
    return said


class Run:
    """A finished run. Nothing of it is read before it is asked for."""

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        self.folder = folder
        self.experiment = experiment
        self._store = RunStore(folder)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}: {len(self.policies)} policies x {len(self.points)} sweep points)"

    @property
    def policies(self) -> list[str]:
        """Names of the policies, in the order of the experiment."""
        return [policy.label for policy in self.experiment.policies]

    @property
    def points(self) -> list[dict[str, Any]]:
        """The sweep points, each a mapping from the swept keys to their values; one empty mapping without a sweep."""
        return [dict(point) for point in self.experiment.points()]

    @cached_property
    def cells(self) -> list[Cell]:
        """The cells: a policy at a sweep point in a trial."""
        return cells_of(self.experiment, self._store)

    @cached_property
    def outcomes(self) -> list[Outcome]:
        """What was measured of each cell, in the order of `cells`."""
        return self._store.outcomes(self.cells)

    @cached_property
    def rows(self) -> list[Row]:
        """The summary's rows, with their intervals as objects."""
        rows, asked = summary.rows(self.outcomes, self.experiment.equal_cost), self._rule
        return selection.marked(rows, selection.verdicts(self.outcomes, asked), asked)

    @property
    def _rule(self) -> Rule | None:
        select = self.experiment.select
        return None if select is None else select.rule(self.experiment.trials)

    def standings(
        self, metric: str = "p999", within: str | float = "1ms", confidence: float = 0.95
    ) -> list[tuple[dict[str, Any], list[Mark]]]:
        """Return of each sweep point which policy is best, or not worse than the best by more than a zone.

        `within` is written as in YAML, `1ms` or `5%`. The trials are taken as they are; what a run with `select` found
        is in the column `standing` of `summary`. Raises ParmError for a metric or a zone that is none.
        """
        try:
            return selection.verdicts(self.outcomes, rule(known_metric(metric), within, confidence))
        except ValueError as error:
            raise ParmError(str(error)) from None

    def summary(self) -> pd.DataFrame:
        """Return a row per policy and sweep point: latencies in ms, shares between 0 and 1, ends of 95% intervals."""
        import pandas as pd

        frame = pd.DataFrame(summary.records(self.rows))
        names = {f"{metric}{end}": f"{metric}_ms{end}" for metric in LATENCIES for end in ("", "_lo", "_hi")}
        return self._categorical(frame.rename(columns=names))

    def differences(self) -> pd.DataFrame:
        """Return each policy's difference to the first one, paired by trial; ms for latencies, else a share."""
        import pandas as pd

        columns, lines = summary.difference_table(summary.differences(self.outcomes), self.rows)
        return self._categorical(pd.DataFrame(lines, columns=columns))

    def reversals(self, against: Mapping[str, Any], metric: str = "p999", confidence: float = 0.95) -> Found:
        """Return for each pair of policies and sweep point whether their order is that of the reference, or reversed.

        `against` holds the reference's values of swept keys, each given as for `queries`. The answer's `frame()` has a
        row for each pair whose order is certain at the reference, with the columns of `reversals.csv`. Raises ParmError
        for what is not swept and for what is no metric.
        """
        keys = dict(_keys(against, list(self.points[0])))
        given = {"against": keys, "metric": metric, "confidence": confidence}
        return reversals.reversals(self.outcomes, loader.validated(Reversals, given, "reversals"))

    def queries(self, policy: str | None = None, columns: Sequence[str] | None = None, **point: Any) -> pd.DataFrame:
        """Return a row per query, of one policy or of all, at the sweep points where the swept keys have these values.

        A key is given by its last word, `rate=300` for `workload.arrivals.rate`, or as `**{"workload.arrivals.rate":
        300}`. Only the files and `columns` that are asked for are read. Raises ParmError for names and values that the
        run does not have, and if its traces were not kept.
        """
        return self._read(0, policy, columns, point)

    def tasks(self, policy: str | None = None, columns: Sequence[str] | None = None, **point: Any) -> pd.DataFrame:
        """Return a row per task, chosen as for `queries`."""
        return self._read(1, policy, columns, point)

    def trace(self, policy: str, trial: int = 0, **point: Any) -> Trace:
        """Return one cell's trace as arrays. Raises ParmError if it was not kept."""
        cell = next((one for one in _chosen(self.cells, policy, point) if one.trial == trial), None)
        trace = None if cell is None else self._store.trace(cell)
        if trace is None:
            raise ParmError(f"{self.folder} holds no trace of trial {trial} of {policy}.")
        return trace

    def figure(self, kind: str, **options: Any) -> matplotlib.figure.Figure:
        """Return a figure by its kind, `run.figure("ccdf")`, with the options that `parm list ccdf` shows.

        Raises ParmError for unknown kinds or options, and if the figure does not apply to this run.
        """
        figure = loader.validated(Figure, {"kind": kind, **options}, f"figure {kind}")
        material = figure_data(self._store, self.experiment, self.cells, self.outcomes, self.rows)
        drawn = figure.draw(material)
        if drawn is None:
            raise ParmError(f"there is no figure {kind} of this run: {figure.reason(material)}.")
        return drawn

    def slowest(
        self, count: int = 20, policy: str | None = None, trial: int | None = None, **point: Any
    ) -> list[perfetto.Excerpt]:
        """Return the neighbourhoods of the `count` slowest queries after the warm-up, one excerpt per cell."""
        found: list[tuple[float, int, Cell]] = []
        for cell, trace in self._traces(policy, trial, point):
            chosen = perfetto.slowest(trace, count, self._warmup[cell.id])
            found += [(float(trace.queries.latency[query]), int(query), cell) for query in chosen]
        found.sort(key=lambda one: -one[0])
        queries: dict[str, list[int]] = {}
        for _, query, cell in found[:count]:
            queries.setdefault(cell.id, []).append(query)
        return [
            perfetto.neighbourhood(str(cell), trace, queries[cell.id])
            for cell, trace in self._traces(policy, trial, point)
            if cell.id in queries
        ]

    def whole(self, policy: str | None = None, trial: int | None = None, **point: Any) -> list[perfetto.Excerpt]:
        """Return whole cells as excerpts."""
        return [perfetto.Excerpt(str(cell), trace) for cell, trace in self._traces(policy, trial, point)]

    def report(self, out: str | Path | None = None, slo_ms: float | None = None, metric: str = "p999") -> Path:
        """Write the run as one HTML page to `out` (`report.html` in its directory), and return where it is.

        With `slo_ms` the verdict says which policies keep `metric` at or below it.
        """
        from experiments.figures import report

        if not (self.folder / "summary.json").is_file():
            raise ParmError(f"{self.folder} holds no summary: finish it with 'parm run', or 'parm figures' its cells.")
        file = Path(out) if out is not None else self.folder / "report.html"
        slow = list(self._slow_queries()) if self.experiment.traces is True else []
        text = report.page(self.folder, self.rows, self.verdict(slo_ms, metric), slow)
        with writing(file):
            atomic.write(file, text)
        return file

    def _slow_queries(self) -> Iterator[SlowQuery]:
        """The slowest queries of each policy, where the first policy's p99.9 is highest."""
        from experiments.figures import timeline
        from experiments.figures.report import SLOWEST, SlowQuery

        first = [row for row in self.rows if row.policy == self.policies[0]]
        worst = max(first, key=lambda row: row.metrics["p999"].value if row.metrics["p999"] else 0.0).point
        for policy in self.policies:
            found = [
                (cell, trace, int(query))
                for cell, trace in self._traces(policy, None, worst)
                for query in perfetto.slowest(trace, SLOWEST, self._warmup[cell.id])
            ]
            found.sort(key=lambda one: -one[1].queries.latency[one[2]])
            for place, (cell, trace, query) in enumerate(found[:SLOWEST]):
                where = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in cell.point.items())
                latency, route = trace.queries.latency[query] * MS, Route(trace.queries.route[query])
                picture = "" if place else timeline.svg(trace, query, policy)  # of the slowest one
                yield SlowQuery(policy, where, cell.trial, query, float(latency), route.name.lower(), picture)

    @cached_property
    def _warmup(self) -> dict[str, int]:
        return {cell.id: outcome.warmup for cell, outcome in zip(self.cells, self.outcomes, strict=True)}

    def _traces(self, policy: str | None, trial: int | None, point: Mapping[str, Any]) -> Iterator[tuple[Cell, Trace]]:
        """Yield cells with their traces, one at a time."""
        chosen = [cell for cell in _chosen(self.cells, policy, point) if trial in (None, cell.trial)]
        if not chosen:
            raise ParmError(f"there is no trial {trial}: the run has trials 0 to {self.experiment.trials - 1}.")
        for cell in chosen:
            trace = self._store.trace(cell)
            if trace is None:
                kept = self.experiment.traces or "none"
                says = "" if kept is True else f": that needs 'traces: all', but its experiment says 'traces: {kept}'"
                raise ParmError(f"{self.folder} holds no trace of cell ({cell}){says}.")
            yield cell, trace

    def verdict(self, slo_ms: float | None = None, metric: str = "p999") -> list[str]:
        """Return a sentence per sweep point: the best policy, or which ones keep the latency at or below `slo_ms`.

        `metric` is a latency of the summary, such as `p99`. Raises ParmError for another.
        """
        if metric not in LATENCIES:
            raise ParmError(f"there is no '{metric}' in the summary; there are {', '.join(LATENCIES)}.")
        return best(self.rows, self.outcomes) if slo_ms is None else objective(self.rows, slo_ms, metric)

    def _repr_html_(self) -> str:
        """Return the verdict and the summary for a notebook."""
        point = self.rows[0].point if self.rows else ()
        shown = ["policy", *point, "p50_ms", "p99_ms", "p999_ms", "accuracy_overall"]
        frame = self.summary()[shown].dropna(axis=1, how="all")
        sentences = "".join(f"<p>{escape(sentence)}</p>" for sentence in self.verdict())
        table = frame.to_html(index=False, float_format="{:.4g}".format)
        return f"<h4>{escape(self.experiment.name)}</h4>{sentences}{table}"

    def _read(
        self, which: int, policy: str | None, columns: Sequence[str] | None, point: Mapping[str, Any]
    ) -> pd.DataFrame:
        import pyarrow as pa
        import pyarrow.parquet as pq

        files = [self._store.trace_files(cell)[which] for cell in _chosen(self.cells, policy, point)]
        missing = next((file for file in files if not file.is_file()), None)
        if missing is not None:
            needed = "'traces: queries' or 'all'" if which == 0 else "'traces: all'"
            raise ParmError(f"{missing} is not there: its experiment does not say {needed}, or is not finished.")
        try:
            parts = [pq.read_table(file, columns=None if columns is None else list(columns)) for file in files]
        except (OSError, pa.ArrowException) as error:
            raise ParmError(f"{self.folder}: a trace cannot be read: {' '.join(str(error).split())}.") from error
        return self._categorical(_frame(pa.concat_tables(part.replace_schema_metadata() for part in parts)))

    def _categorical(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the frame with policies in the order of the experiment."""
        import pandas as pd

        if "policy" in frame:
            frame["policy"] = pd.Categorical(frame["policy"], categories=self.policies)
        return frame


def _frame(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.unify_dictionaries().to_pandas()
    return frame


def _chosen(found: Sequence[Cell], policy: str | None, point: Mapping[str, Any]) -> list[Cell]:
    """Return the cells of a policy at the sweep points that match; raises ParmError where there is none."""
    labels = list(dict.fromkeys(cell.policy.label for cell in found))
    if policy is not None and policy not in labels:
        raise ParmError(f"there is no policy '{policy}'; there are {', '.join(labels)}.")
    wanted = dict(_keys(point, list(found[0].point)))
    chosen = [
        cell
        for cell in found
        if policy in (None, cell.policy.label) and all(cell.point[key] == value for key, value in wanted.items())
    ]
    if not chosen:
        values = {key: list(dict.fromkeys(cell.point[key] for cell in found)) for key in wanted}
        told = "; ".join(f"{key}: {', '.join(map(str, there))}" for key, there in values.items())
        raise ParmError(f"there is no sweep point {dict(point)}; there are {told}.")
    return chosen


def _keys(point: Mapping[str, Any], swept: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield the values by whole swept keys; raises ParmError for a word that names none or several."""
    for word, value in point.items():
        named = [key for key in swept if word in (key, key.rpartition(".")[2])]
        if len(named) != 1:
            there = ", ".join(swept) or "none"
            raise ParmError(f"'{word}' names {'no' if not named else 'more than one'} swept key; there are: {there}.")
        yield named[0], value
