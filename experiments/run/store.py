"""The run directory: what a run leaves behind, written so that it can be killed at any point and resumed.

    experiment.yaml   the resolved experiment, which runs again as it is
    manifest.json     versions, device, git revision, seed, and what each cell cost
    cells/*.json      one Outcome per finished cell; a cell counts as finished once its file is there
    traces/*.parquet  one row per query of each cell; traces/tasks/*.parquet one row per task
    summary.csv, summary.json, differences.csv, figures/
    reference.csv, claims.json, frontier.csv where the experiment has such

The bytes of a trace depend on the experiment and its seed alone: no times of day, no order of the workers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from experiments.analysis.outcome import Outcome
from experiments.run import inputs
from experiments.run.cells import Cell
from sim.errors import ParmError
from sim.trace import Batches, Ints, Queries, Role, Route, Tasks, TaskStatus, Trace

if TYPE_CHECKING:
    import pyarrow as pa

    from backends.answers import Answers
    from experiments.config.schema import Experiment

ROWS_PER_GROUP = 2**18
"""Rows in a Parquet row group; part of what makes the files' bytes the same everywhere."""
_OURS = (
    "experiment.yaml",
    "manifest.json",
    "summary.csv",
    "summary.json",
    "differences.csv",
    "reference.csv",
    "claims.json",
    "frontier.csv",
)
_OUR_FOLDERS = ("cells", "traces", "figures")
_WHOLE = b"parm"
"""Metadata key of a query table: what a trace knows of its whole cell."""
_TASK_WORDS: dict[str, type[IntEnum]] = {"role": Role, "fate": TaskStatus}
_COSMETIC = ("figures", "reference", "claims")
"""Options that may change between two runs in one directory: no cell depends on them."""


@dataclasses.dataclass(frozen=True, slots=True)
class RunStore:
    """A run directory."""

    folder: Path

    def open(self, experiment: Experiment, *, fresh: bool = False) -> None:
        """Make the directory, or take up the run of the same experiment in it; `fresh` empties it first.

        Raises ParmError where it holds another experiment's run or cannot be written.
        """
        data = experiment.resolved()
        with writing(self.folder):
            if fresh:
                self._clear()
            for name in ("cells", "traces/tasks"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            for left_over in self.folder.glob("**/.*.part"):
                left_over.unlink()
        before = self._before()
        changed = [key for key in data if before is not None and before.get(key) != data[key] and key not in _COSMETIC]
        if changed:
            raise ParmError(
                f"{self.folder} holds the run of another experiment (it differs in {', '.join(changed)}): "
                "choose another directory with --out, or discard that run with --fresh."
            )
        text = "# Resolved by parm: every default is written out. It runs again as it is.\n"
        text += yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)
        self.write_text("experiment.yaml", text)

    def finished(
        self, cells: Sequence[Cell], *, traces: bool, check_inputs: bool = True
    ) -> tuple[dict[str, Outcome], list[str]]:
        """Return the outcomes of the cells that need not run again, by id, and a warning for each damaged file.

        With `check_inputs` a cell runs again, with a warning, where a file or the code that it was computed from has
        changed since.
        """
        found: dict[str, Outcome] = {}
        warnings: list[str] = []
        stale: Counter[str] = Counter()
        for cell in cells:
            path = self._cell_file(cell)
            try:
                text = path.read_text(encoding="utf-8")
            except FileNotFoundError:
                continue
            except (OSError, UnicodeDecodeError) as error:
                warnings.append(f"{path} cannot be read ({error}); the cell runs again.")
                continue
            try:
                outcome = Outcome.from_json(text)
            except ParmError:
                warnings.append(f"{path} is damaged; the cell runs again.")
                continue
            missing = [file for file in self.trace_files(cell) if traces and not file.is_file()]
            if missing:
                warnings.append(f"{missing[0]} is gone; the cell runs again.")
            elif check_inputs and (other := inputs.changed(outcome.inputs, inputs.inputs(cell.experiment))):
                stale.update(other)
            else:
                found[cell.id] = outcome
        warnings.extend(
            f"{name} is not what it was: {count} cell{'s run' if count > 1 else ' runs'} again."
            for name, count in stale.items()
        )
        return found, warnings

    def outcomes(self, cells: Sequence[Cell]) -> list[Outcome]:
        """Return the outcomes of all finished cells, in the order of `cells`."""
        found, _ = self.finished(cells, traces=False, check_inputs=False)
        return [found[cell.id] for cell in cells if cell.id in found]

    def trace_files(self, cell: Cell) -> tuple[Path, Path]:
        """Return the cell's Parquet files: its queries and its tasks."""
        traces = self.folder / "traces"
        return traces / f"{cell.name}.parquet", traces / "tasks" / f"{cell.name}.tasks.parquet"

    def trace(self, cell: Cell) -> Trace | None:
        """Return the cell's trace as it was simulated, or None where its files are not there.

        Raises ParmError where they are damaged.
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
        """Write the cell's trace, where traces are kept, and then its outcome; return that with the seconds it took.

        `samples` are the test set's rows that the queries carried, `labels` the test set's true classes. Raises
        ParmError where the disk is full or the directory cannot be written.
        """
        began = perf_counter()
        if cell.experiment.traces:
            queries, tasks = self.trace_files(cell)
            self._write_table(queries, query_table(trace, cell.trial, samples, labels, answers))
            self._write_table(tasks, task_table(trace))
        outcome = dataclasses.replace(
            outcome,
            seconds={**outcome.seconds, "writing": perf_counter() - began},
            inputs=inputs.inputs(cell.experiment),
        )
        self.write_text(f"cells/{cell.id}.json", outcome.to_json() + "\n")
        return outcome

    def write_text(self, name: str, text: str) -> None:
        """Write one file of the directory at once or not at all."""
        path = self.folder / name
        with writing(path), _replacing(path) as part:
            part.write_text(text, encoding="utf-8")

    def _cell_file(self, cell: Cell) -> Path:
        return self.folder / "cells" / f"{cell.id}.json"

    def _before(self) -> dict[str, Any] | None:
        """Return the plain data of the experiment whose run is here, or None; damaged files count as another's."""
        try:
            data = yaml.safe_load((self.folder / "experiment.yaml").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return {}
        return data if isinstance(data, dict) else {}

    def _clear(self) -> None:
        """Remove what a run writes, and nothing else."""
        for name in _OURS:
            (self.folder / name).unlink(missing_ok=True)
        for name in _OUR_FOLDERS:
            if (self.folder / name).exists():
                shutil.rmtree(self.folder / name)

    def _write_table(self, path: Path, table: pa.Table) -> None:
        import pyarrow.parquet as pq

        with writing(path), _replacing(path) as part:
            pq.write_table(
                table,
                part,
                compression="zstd",
                row_group_size=ROWS_PER_GROUP,
                use_dictionary=[field.name for field in table.schema if str(field.type).startswith("dictionary")],
            )


def query_table(
    trace: Trace, trial: int, samples: Ints | None = None, labels: Ints | None = None, answers: Answers | None = None
) -> pa.Table:
    """Return one row per query; what only a model knows is null without one."""
    import pyarrow as pa

    queries = trace.queries
    count = len(queries)
    label = labels[samples] if labels is not None and samples is not None else None
    columns: dict[str, pa.Array] = {
        "query": pa.array(np.arange(count, dtype=np.int64)),
        "trial": pa.array(np.full(count, trial, dtype=np.int32)),
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
    whole = {"k": trace.k, "r": trace.r, "instances": trace.instances, "end": trace.end, "bytes": trace.bytes}
    return pa.table(columns, metadata={_WHOLE: json.dumps(whole)})


def task_table(trace: Trace) -> pa.Table:
    """Return one row per task, in the order in which they ended.

    Without `together` each task was served alone; without `sent` each was sent when it started.
    """
    import pyarrow as pa

    columns: dict[str, pa.Array] = {}
    tasks = trace.tasks
    for field in dataclasses.fields(tasks):
        values = getattr(tasks, field.name)
        if field.name == "together" and np.all(values == 1):
            continue
        if field.name == "sent" and np.array_equal(values, tasks.start, equal_nan=True):
            continue
        words = _TASK_WORDS.get(field.name)
        columns[field.name] = pa.array(values) if words is None else _words(values, words)
    return pa.table(columns)


def read_trace(queries: pa.Table, tasks: pa.Table) -> Trace:
    """Return the trace that `query_table` and `task_table` were made of."""
    if "together" not in tasks.column_names:
        tasks = tasks.append_column("together", [np.ones(len(tasks), dtype=np.int32)])
    if "sent" not in tasks.column_names:
        tasks = tasks.append_column("sent", tasks["start"])
    batch = queries["batch"].to_numpy()
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
            }
        ),
        **json.loads(queries.schema.metadata[_WHOLE]),
    )


def _numbers(column: pa.ChunkedArray, words: type[IntEnum]) -> np.ndarray[Any, Any]:
    """Return what `_words` was made of."""
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
def _replacing(path: Path) -> Iterator[Path]:
    """Give a name to write to that becomes `path` once it is whole; what is left of a failure is removed."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the operating system says about writing `path` into one sentence."""
    try:
        yield
    except OSError as error:
        raise ParmError(f"{path} cannot be written: {error.strerror or error}.") from error


def ensure_writable(file: Path) -> None:
    """Make the folder of a file, and raise ParmError where the file cannot be written: before the work, not after."""
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        there = file.exists()
        with file.open("ab"):
            pass
        if not there:
            file.unlink()
