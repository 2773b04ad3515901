"""The run directory, written such that a run can be killed at any point and resumed.

    experiment.yaml   the experiment with all defaults, which can be run again
    manifest.json     versions, device, git revision, seed, and how long each cell took
    cells/*.json      one Outcome per finished cell; a cell is finished if and only if its file exists
    queries/*.parquet one row per query of each cell; tasks/*.parquet one row per task
    summary.csv, summary.json, summary.tex, differences.csv, figures/
    reference.csv, claims.json, reversals.csv, frontier.csv, selection.json where the experiment has such

The bytes of a trace depend only on the experiment and its seed, not on the time of day or the order of workers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from filelock import FileLock, Timeout

from experiments.analysis.outcome import Outcome
from experiments.analysis.quantiles import MS
from experiments.run import inputs
from experiments.run.cells import Cell
from sim import atomic
from sim.errors import ParmError
from sim.trace import Batches, Counts, Ints, Queries, Role, Route, Tasks, TaskStatus, Trace

if TYPE_CHECKING:
    import pyarrow as pa

    from backends.answers import Answers
    from experiments.config.schema import Experiment

ROWS_PER_GROUP = 2**18
"""Rows in a Parquet row group; fixed, so that the files' bytes are the same everywhere."""
_LEFT_OVER = tuple(
    f"{folder}.*.{ending}.[0-9]*.part"
    for folder, endings in {
        "": ("json", "csv", "tex", "yaml"),
        "cells/": ("json",),
        "queries/": ("parquet",),
        "tasks/": ("parquet",),
        "figures/": ("png", "pdf", "svg"),
    }.items()
    for ending in endings
)
"""Temporary files that a killed run leaves; `sim.atomic` names them."""
CELLS = f"cells/{'[0-9a-f]' * 16}.json"
"""The files of finished cells."""
_MARKER = "# Resolved by parm:"
"""First line of the experiment.yaml in a run directory; marks the directory as written by parm."""
_OURS = (
    "experiment.yaml",
    "manifest.json",
    "summary.csv",
    "summary.json",
    "summary.tex",
    "differences.csv",
    "reference.csv",
    "claims.json",
    "reversals.csv",
    "frontier*.csv",
    "selection.json",
    CELLS,
    "queries/*.parquet",
    "tasks/*.tasks.parquet",
    "figures/*.png",
    "figures/*.pdf",
    "figures/*.svg",
    *_LEFT_OVER,
)
_WHOLE = b"parm"
"""Metadata key of a query table for values of the whole cell."""
_TASK_WORDS: dict[str, type[IntEnum]] = {"role": Role, "fate": TaskStatus}
_COSMETIC = ("figures", "reference", "claims", "reversals", "target", "precision", "select", "plugins", "engine")
"""Options that may change between two runs in one directory: no cell depends on them."""
_NAMED = 3
"""Most cells that an error message names."""


@dataclasses.dataclass(frozen=True, slots=True)
class RunStore:
    """A run directory."""

    folder: Path
    data: Path | None = None
    """Folder for data sets given by name; None: the default folder."""

    def open(self, experiment: Experiment, *, fresh: bool = False) -> None:
        """Create the directory, or continue the run in it; `fresh` discards that run first.

        The experiment may have more trials, policies and sweep points than the run in the directory; unchanged cells
        are kept. Raises ParmError, before anything is changed, if the directory holds another experiment's run or
        foreign files, or cannot be written.
        """
        data = experiment.resolved()
        before = self.holds()
        if before is not None and not fresh:
            free = {*_COSMETIC, "trials"} if data["select"] or before.get("select") else _COSMETIC
            other = [key for key in data if key not in free and not _keeps(key, before.get(key), data[key])]
            if other:
                raise ParmError(
                    f"{self.folder} holds the run of another experiment (it differs in {', '.join(other)}): "
                    "choose another directory with --out, or discard that run with --fresh."
                )
        with writing(self.folder):
            if before is not None:
                self._clear(_OURS if fresh else _LEFT_OVER)
        text = f"{_MARKER} all defaults are written out; it can be run again.\n"
        text += yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)
        self.write_text("experiment.yaml", text)  # first, since it marks the directory as parm's
        with writing(self.folder):
            for name in ("cells", "queries", "tasks"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)

    def holds(self) -> dict[str, Any] | None:
        """Return the plain data of the experiment whose run is in the directory; None if it is empty or missing.

        Raises ParmError if it holds files, but no run.
        """
        try:
            if not any(not file.name.startswith(".") for file in self.folder.iterdir()):
                return None
            with (self.folder / "experiment.yaml").open(encoding="utf-8") as file:
                text = file.read()
        except FileNotFoundError:
            text = ""
            if not self.folder.exists():
                return None
        except UnicodeDecodeError:
            text = ""
        except OSError as error:
            raise ParmError(f"{self.folder} cannot be written: {error.strerror or error}.") from error
        try:
            data = yaml.safe_load(text) if text.startswith(_MARKER) else None
        except (yaml.YAMLError, RecursionError):
            data = None
        if not isinstance(data, dict):
            raise ParmError(
                f"{self.folder} holds files, but no run of parm (its experiment.yaml is missing, damaged or not "
                "written by parm): choose another directory with --out. Nothing was changed, and --fresh would not "
                "change it either."
            )
        return data

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Create the directory and lock it. Raises ParmError if another command uses it."""
        holder = self.folder / ".lock.pid"
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock", timeout=0)
            try:
                lock.acquire()
            except Timeout as error:
                who = holder.read_text(encoding="utf-8") if holder.is_file() else "unknown"
                raise ParmError(
                    f"{self.folder} is in use by another parm command (process {who}): wait until it has ended, or "
                    "choose another directory with --out."
                ) from error
            holder.write_text(str(os.getpid()), encoding="utf-8")
        try:
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()

    def finished(
        self, cells: Sequence[Cell], *, traces: bool, check_inputs: bool = True
    ) -> tuple[dict[str, Outcome], list[str]]:
        """Return the outcomes of the valid finished cells, by id, and a warning for each damaged file.

        With `traces` a cell is valid only with its trace files; with `check_inputs` only if none of its input files
        and no code has changed since, otherwise there is a warning.
        """
        found: dict[str, Outcome] = {}
        warnings: list[str] = []
        stale: Counter[str] = Counter()
        for cell in cells:
            try:
                outcome = self._read(cell, traces)
            except ParmError as problem:
                warnings.append(f"{problem}; the cell runs again.")
                continue
            if outcome is None:
                continue
            if check_inputs and (other := inputs.changed(outcome.inputs, inputs.inputs(cell.experiment, self.data))):
                stale.update(other)
            else:
                found[cell.id] = outcome
        warnings.extend(
            f"{name} has changed: {count} cell{'s run' if count > 1 else ' runs'} again."
            for name, count in stale.items()
        )
        return found, warnings

    def outcomes(self, cells: Sequence[Cell]) -> list[Outcome]:
        """Return the outcomes of all cells, in the order of `cells`.

        Raises ParmError with the first missing or damaged cells, since tables of the others alone would mislead. Traces
        may be missing, but not damaged.
        """
        found: list[Outcome] = []
        problems: list[str] = []
        for cell in cells:
            try:
                outcome = self._read(cell, traces=False)
            except ParmError as problem:
                problems.append(str(problem))
                continue
            if outcome is None:
                problems.append(f"cell ({cell}) is not finished")
            else:
                found.append(outcome)
        if problems:
            more = f", and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
            raise ParmError(
                f"{len(problems)} of {len(cells)} cells are missing or damaged: {'; '.join(problems[:_NAMED])}{more}. "
                "Tables and figures were not changed; "
                f"'parm run {self.folder / 'experiment.yaml'} --out {self.folder}' runs these cells."
            )
        return found

    def _read(self, cell: Cell, traces: bool) -> Outcome | None:
        """Return a cell's outcome; None if it is not finished. Raises ParmError if its files are damaged.

        With `traces` the trace files that its experiment keeps must exist.
        """
        path = self._cell_file(cell)
        try:
            outcome = Outcome.from_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise ParmError(f"{path} cannot be read ({error})") from error
        except ParmError as error:
            raise ParmError(f"{path} is damaged or was edited") from error
        if (outcome.policy, outcome.point, outcome.trial) != (cell.policy.label, cell.point, cell.trial):
            raise ParmError(f"{path} holds another cell than ({cell})")
        for file in self.trace_files(cell):
            if not file.is_file():
                if traces and file in self._kept_files(cell):
                    raise ParmError(f"{file} is missing")
            elif inputs.digest(file) != outcome.files.get(file.name):
                raise ParmError(f"{file} is damaged or was edited")
        return dataclasses.replace(outcome, target=cell.experiment.at_most)  # asked of the result, not part of it

    def trace_files(self, cell: Cell) -> tuple[Path, Path]:
        """Return the cell's Parquet files: queries and tasks."""
        return self.folder / "queries" / f"{cell.name}.parquet", self.folder / "tasks" / f"{cell.name}.tasks.parquet"

    def _kept_files(self, cell: Cell) -> Sequence[Path]:
        """Return those of them that its experiment keeps."""
        traces = cell.experiment.traces
        return self.trace_files(cell)[: 2 if traces is True else 1 if traces else 0]

    def trace(self, cell: Cell) -> Trace | None:
        """Return the cell's simulated trace, or None if its files do not exist.

        Raises ParmError if they are damaged.
        """
        import pyarrow.parquet as pq

        files = self.trace_files(cell)
        if not all(file.is_file() for file in files):
            return None
        try:
            return read_trace(*(pq.read_table(file) for file in files))
        except (OSError, KeyError, ValueError) as error:
            raise ParmError(
                f"{files[0]} is damaged ({' '.join(str(error).split())}); delete it and run again."
            ) from error

    def keep(
        self,
        cell: Cell,
        trace: Trace,
        outcome: Outcome,
        samples: Ints | None = None,
        labels: Ints | None = None,
        answers: Answers | None = None,
    ) -> Outcome:
        """Write the cell's trace, if traces are kept, and then its outcome; return the outcome with the time it took.

        `samples` holds the test set's row of each query, `labels` the test set's true classes. Raises ParmError if the
        directory cannot be written.
        """
        began = perf_counter()
        written: Sequence[Path] = ()
        if cell.experiment.traces:
            queries, *tasks = written = self._kept_files(cell)
            self._write_table(queries, query_table(cell, trace, outcome.warmup, samples, labels, answers))
            for file in tasks:
                self._write_table(file, task_table(cell, trace))
        outcome = dataclasses.replace(
            outcome,
            seconds={**outcome.seconds, "writing": perf_counter() - began},
            inputs=inputs.inputs(cell.experiment, self.data),
            files={file.name: inputs.digest(file) for file in written},
        )
        self.write_text(f"cells/{cell.id}.json", outcome.to_json() + "\n")
        return outcome

    def receive(self, cell: Cell, outcome: Outcome, files: Mapping[str, bytes]) -> Outcome:
        """Write a cell that was run into another store, with the contents of its trace files by their place.

        Raises ParmError if the directory cannot be written.
        """
        for name, content in files.items():
            with writing(self.folder / name):
                atomic.write(self.folder / name, content)
        outcome = dataclasses.replace(outcome, inputs=inputs.inputs(cell.experiment, self.data))
        self.write_text(f"cells/{cell.id}.json", outcome.to_json() + "\n")
        return outcome

    def write_text(self, name: str, text: str) -> None:
        """Write one file of the directory atomically."""
        path = self.folder / name
        with writing(path):
            atomic.write(path, text)

    def _cell_file(self, cell: Cell) -> Path:
        return self.folder / "cells" / f"{cell.id}.json"

    def _clear(self, patterns: Sequence[str]) -> None:
        """Remove the run's files that match `patterns`, and folders that become empty."""
        for pattern in patterns:
            for file in self.folder.glob(pattern):
                if file.is_file():
                    file.unlink()
        for name in ("cells", "queries", "tasks", "figures"):
            with contextlib.suppress(OSError):  # it does not exist, or holds foreign files
                (self.folder / name).rmdir()

    def _write_table(self, path: Path, table: pa.Table) -> None:
        import pyarrow.parquet as pq

        with writing(path), atomic.replacing(path) as part:
            pq.write_table(
                table,
                part,
                compression="zstd",
                row_group_size=ROWS_PER_GROUP,
                use_dictionary=[field.name for field in table.schema if str(field.type).startswith("dictionary")],
            )


def _keeps(key: str, old: Any, new: Any) -> bool:
    """Return whether an option is unchanged, or only has more trials, policies or sweep points."""
    if key == "trials" and isinstance(old, int):
        return bool(old <= new)
    if key == "policies" and isinstance(old, list):
        return all(one in new for one in old)
    if key == "sweep" and isinstance(old, dict) and old.keys() == new.keys():
        return all(_keeps_values(values, new[name]) for name, values in old.items())
    if key == "services" and isinstance(old, dict):
        return _without_targets(old) == _without_targets(new)
    return bool(old == new)


def _without_targets(services: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the services in their order, without what is asked of their results."""
    return [
        (name, {key: value for key, value in one.items() if key != "target"} if isinstance(one, dict) else one)
        for name, one in services.items()
    ]


def _keeps_values(old: Any, new: Any) -> bool:
    """Return whether a swept key has the old values among the new ones, and under their names if they have names."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(name in new and new[name] == value for name, value in old.items())
    return isinstance(old, list) and isinstance(new, list) and all(one in new for one in old)


def query_table(
    cell: Cell,
    trace: Trace,
    warmup: int,
    samples: Ints | None = None,
    labels: Ints | None = None,
    answers: Answers | None = None,
) -> pa.Table:
    """Return one row per query; the first `warmup` are not counted. Columns of answers are null without a model."""
    import pyarrow as pa

    queries = trace.queries
    count = len(queries)
    label = labels[samples] if labels is not None and samples is not None else None
    columns: dict[str, pa.Array] = {
        **_whose(cell, count),
        "query": pa.array(np.arange(count, dtype=np.int64)),
        "warmup": pa.array(np.arange(count) < warmup),
        "latency_ms": pa.array(queries.latency * MS),
        "sample": _nullable(samples, count, pa.int32()),
        "arrival": pa.array(queries.arrival),
        "dispatch": pa.array(queries.dispatch),
        "reply": pa.array(queries.reply),
        "route": _words(queries.route, Route),
        "batch": pa.array(queries.batch),
        "group": pa.array(trace.group),
        "slot": pa.array(trace.slot),
        "used": pa.array(queries.used),
        "label": _nullable(label, count, pa.int16()),
        "answer": _nullable(None if answers is None else answers.answer, count, pa.int16()),
        "correct": _nullable(None if answers is None else answers.correct, count, pa.bool_()),
    }
    whole: dict[str, Any] = {
        "k": trace.k,
        "r": trace.r,
        "instances": trace.instances,
        "end": trace.end,
        "bytes": trace.bytes,
    }
    if trace.counts is not None:
        columns_of = dataclasses.fields(Counts)
        whole["counts"] = {column.name: getattr(trace.counts, column.name).tolist() for column in columns_of}
    return pa.table(columns, metadata={_WHOLE: json.dumps(whole)})


def task_table(cell: Cell, trace: Trace) -> pa.Table:
    """Return one row per task, in the order in which they ended; `sent` is null if it equals `start`."""
    import pyarrow as pa

    tasks = trace.tasks
    columns: dict[str, pa.Array] = _whose(cell, len(tasks))
    for field in dataclasses.fields(tasks):
        values = getattr(tasks, field.name)
        words = _TASK_WORDS.get(field.name)
        if values is None:
            continue
        if field.name == "sent":
            columns["sent"] = pa.array(values, mask=(values == tasks.start) | np.isnan(values))
        else:
            columns[field.name] = pa.array(values) if words is None else _words(values, words)
    return pa.table(columns)


def _whose(cell: Cell, count: int) -> dict[str, pa.Array]:
    """Return the columns that identify the cell, so that files of several cells can be read together."""
    import pyarrow as pa

    def same(value: str) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, dtype=np.int8)), pa.array([value]))

    columns = {"policy": same(cell.policy.label)}
    for key, value in cell.point.items():
        columns[key] = same(str(value)) if key in cell.words else pa.array(np.full(count, float(value)))
    return columns | {"trial": pa.array(np.full(count, cell.trial, dtype=np.int32))}


def read_trace(queries: pa.Table, tasks: pa.Table) -> Trace:
    """Return the trace from which `query_table` and `task_table` were made."""
    import pyarrow.compute as pc

    sent = pc.coalesce(tasks["sent"], tasks["start"])
    tasks = tasks.set_column(tasks.column_names.index("sent"), "sent", sent)
    batch = queries["batch"].to_numpy()
    whole = json.loads(queries.schema.metadata[_WHOLE])
    if "counts" in whole:
        whole["counts"] = Counts.of(whole["counts"])
    _, first, size = np.unique(batch, return_index=True, return_counts=True)
    return Trace(
        Queries(
            arrival=queries["arrival"].to_numpy(),
            dispatch=queries["dispatch"].to_numpy(),
            reply=queries["reply"].to_numpy(),
            route=_numbers(queries["route"], Route),
            batch=batch,
            used=queries["used"].to_numpy(),
        ),
        Batches(first, size.astype(np.int32), queries["group"].to_numpy()[first], queries["slot"].to_numpy()[first]),
        Tasks(
            **{
                field.name: _numbers(tasks[field.name], _TASK_WORDS[field.name])
                if field.name in _TASK_WORDS
                else tasks[field.name].to_numpy()
                for field in dataclasses.fields(Tasks)
                if field.name in tasks.column_names
            }
        ),
        **whole,
    )


def _numbers(column: pa.ChunkedArray, words: type[IntEnum]) -> np.ndarray[Any, Any]:
    """Return the numbers from which `_words` made the column."""
    names = column.combine_chunks()
    if hasattr(names, "chunks"):
        names = names.chunk(0) if names.num_chunks else names
    codes = np.array([words[name.upper()] for name in names.dictionary.to_pylist()], dtype=np.uint8)
    numbers: np.ndarray[Any, Any] = codes[names.indices.to_numpy()]
    return numbers


def _words(values: np.ndarray[Any, Any], words: type[IntEnum]) -> pa.Array:
    import pyarrow as pa

    names = pa.array([word.name.lower() for word in words])
    return pa.DictionaryArray.from_arrays(pa.array(values.astype(np.int8)), names)


def _nullable(values: np.ndarray[Any, Any] | None, count: int, kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    return pa.nulls(count, kind) if values is None else pa.array(values).cast(kind)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert an OSError while writing `path` into a ParmError."""
    try:
        yield
    except OSError as error:
        raise ParmError(f"{path} cannot be written: {error.strerror or error}.") from error


def ensure_writable(file: Path) -> None:
    """Create the folder of a file. Raises ParmError if the file cannot be written, before any work is done."""
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        there = file.exists()
        with file.open("ab"):
            pass
        if not there:
            file.unlink()
