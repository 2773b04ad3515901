"""Tidy pandas frames of a run: what figures are drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.analysis.outcome import Outcome
from experiments.analysis.quantiles import Latencies
from experiments.analysis.summary import METRICS, Row

if TYPE_CHECKING:
    import pandas as pd


def metrics(rows: Sequence[Row], names: Sequence[str] = METRICS) -> pd.DataFrame:
    """Return a row per policy, sweep point and metric that was measured.

    Columns: `policy` (categorical, in the order of `rows`), a column for each swept key, `metric`, `value`, `lo` and
    `hi` (latencies in ms, else fractions; the ends NaN without an interval), `instances`.
    """
    return _frame(
        [
            {"policy": row.policy, **row.point, "metric": name}
            | {"value": one.value, "lo": one.lo, "hi": one.hi, "instances": row.cost["instances"]}
            for row in rows
            for name in names
            if (one := row.metrics[name]) is not None
        ]
    )


def quantiles(outcomes: Sequence[Outcome], floor: float = 0.0) -> pd.DataFrame:
    """Return each policy's latency distribution over all trials' queries: a row per policy and quantile.

    `outcomes` are of one sweep point. Columns: `policy`, `slower` (the share of queries above, at least `floor`),
    `value`, `lo` and `hi` in ms, with the intervals of every table; the ends NaN for a single trial.
    """
    trials: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        trials.setdefault(outcome.policy, []).append(outcome)
    records = []
    for policy, cells in trials.items():
        slower = 1 - np.asarray(cells[0].quantiles["probabilities"])
        kept = slower >= floor * 0.999
        found = Latencies(cells).curve(1 - slower[kept])
        for share, one in zip(slower[kept].tolist(), found, strict=True):
            records.append({"policy": policy, "slower": share, "value": one.value, "lo": one.lo, "hi": one.hi})
    return _frame(records)


def inside(frame: pd.DataFrame, point: Mapping[str, Any]) -> pd.Series[bool]:
    """Return which rows of a frame are at a sweep point, of which some keys may be given."""
    found = frame["policy"].notna()
    for key, at in point.items():
        found &= frame[key].map(lambda one, at=at: type(one) is type(at) and one == at)
    return found


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a frame's rows as plain mappings."""
    return [{str(name): one for name, one in row.items()} for row in frame.to_dict("records")]


def _frame(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame.from_records(records)
    if records:
        frame["policy"] = pd.Categorical(frame["policy"], list(dict.fromkeys(frame["policy"])))
    return frame
