"""Meaning and unit of every column of every table: printed tables, CSV files and Parquet files.

`parm list column` prints this, and the reference of the documentation is made from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.analysis import percentiles


@dataclass(frozen=True)
class Column:
    """One column, or several with one meaning, such as a value and the ends of its interval."""

    names: tuple[str, ...]
    unit: str
    """Empty for words."""
    meaning: str

    def __str__(self) -> str:
        return f"{', '.join(self.names)}{f' ({self.unit})' if self.unit else ''}: {self.meaning}"


@dataclass(frozen=True)
class Table:
    """A table that is printed or written."""

    name: str
    """The file, or the verb that prints it."""
    rows: str
    """Meaning of a row, and of all columns in common."""
    columns: tuple[Column, ...]

    def text(self, columns: Sequence[Column] | None = None) -> str:
        """Return a heading and a line for each column, or for some of them."""
        lines = (f"    {column}" for column in (self.columns if columns is None else columns))
        return "\n".join([f"{self.name}: {self.rows}", *lines])


def find(wanted: str) -> str:
    """Return the text of all tables, for `column` or `columns`; of one table; or of all columns with a name.

    After `column.` a verb names its table, and a name does not mean a kind. Percentiles may be
    written either way. Empty if there is nothing of that name.
    """
    name = wanted.removeprefix("column.")
    if name in ("column", "columns"):
        return "\n\n".join(table.text() for table in TABLES)
    names = (name,) if name == wanted else (name, f"parm {name}")
    whole = [table.text() for table in TABLES if table.name in names]
    some = [
        table.text(columns)
        for table in TABLES
        if (columns := [one for one in table.columns if _key(name) in map(_key, one.names)])
    ]
    return "\n\n".join(whole or some)


def _key(name: str) -> str:
    try:
        return percentiles.canonical(name)
    except ValueError:
        return name.lower()


def _measured(name: str, unit: str, meaning: str) -> Column:
    """Return a column with those of its interval."""
    return Column((name, f"{name}_lo", f"{name}_hi"), unit, meaning)


_LATENCY = {
    "mean": "Mean latency: time from a query's arrival to its reply.",
    "p50": "Median latency: half of the queries have their reply within it.",
    "p99": "99th percentile of latency: one query in 100 takes longer.",
    "p999": "99.9th percentile of latency: one query in 1000 takes longer.",
    "gap": "p99.9 minus p50: how much longer slow answers take than usual ones.",
}
_UNAVAILABLE = "Share of queries whose reply is a reconstruction, a backup model's answer or the default answer."
_ACCURACY = {
    "available": "Share of correct answers among the queries that the deployed model answered (A_a).",
    "degraded": "Share of correct answers among the other queries, the unavailable ones (A_d).",
    "overall": "Share of correct answers among all queries (A_o); with f the share unavailable, (1 - f) A_a + f A_d.",
}
_WRONG = {
    "wrong": "Share of wrong answers among all that replies were made from or chosen among: one for a plain reply, all "
    "that were awaited for a reconstruction or a vote.",
    "false_alarms": "Share of the right ones among them that a code or a vote took for wrong.",
    "misses": "Share of the wrong ones among them that no code and no vote took for wrong.",
}
_STANDING = (
    "What is certain of the policy among all of its sweep point, by `select`, else in p99.9 and within 1 ms: best, "
    "within the zone (of the best), worse (than another), or undecided. All are right at once at the confidence that "
    "stands below the table."
)
_GOODPUT = {
    "goodput": "Queries per second that were answered rightly and within the time `goodput`, or else the cluster's "
    "deadline; without a model: answered in time and not by the default answer.",
    "goodput_per_instance": "Goodput divided by the number of instances.",
    "goodput_per_price": "Goodput divided by the price of all instances.",
}
_LAUNCHED = (
    "Instances launched, all pools together; with a scaler their average over the measured time, each counted from "
    "when it is asked for until it is done."
)
_POLICY = Column(("policy",), "", "Name of the policy: its `name` in the YAML, or its kind.")
_KEY = Column(
    ("KEY",), "", "For each swept key a column of its name, such as `workload.arrivals.rate`: its value here."
)
_SERVICE = Column(("service",), "", "Name of the service, in experiments with several `services`; a row is of one.")
_METRIC = Column(("metric",), "", "Which metric the row is about: a metric of summary.csv or another percentile.")
_TRIALS = "over the queries of all trials after their warm-up"

TABLES = (
    Table(
        "parm run",
        f"Printed by `parm run` and `parm figures`: a row for each policy, {_TRIALS}; the number below another "
        "is the longer arm of its 95% interval. One table for each sweep point.",
        (
            _POLICY,
            Column(("standing",), "", f"Below the policy's name. {_STANDING}"),
            *(
                Column(({"p999": "p99.9"}.get(name, name),), "ms", _LATENCY[name])
                for name in _LATENCY
                if name != "mean"
            ),
            Column(("unavail.",), "%", _UNAVAILABLE),
            *(Column((f"A_{name[0]}",), "%", meaning) for name, meaning in _ACCURACY.items()),
            Column(
                ("wrong",),
                "%",
                f"{_WRONG['wrong']} These three are shown in a run with `corruption`, where gap and kB/query are not.",
            ),
            Column(("false al.",), "%", _WRONG["false_alarms"]),
            Column(("misses",), "%", _WRONG["misses"]),
            Column(("goodput",), "/s", f"{_GOODPUT['goodput']} Shown where there is such a time."),
            Column(("instances",), "", _LAUNCHED),
            Column(("price",), "", "Price of all instances by `cluster.prices`; shown if a price is not 1."),
            Column(("busy",), "ms/query", "Time for which instances were busy, per query, wasted work included."),
            Column(("kB/query",), "", "Kilobytes sent over the cluster's network per query, replies included."),
        ),
    ),
    Table(
        "summary.csv",
        f"Written by `parm run`: a row for each policy at each sweep point, {_TRIALS}; NAME_lo and NAME_hi are the "
        "ends of the 95% interval. An empty cell is a number that was not measured.",
        (
            _POLICY,
            _KEY,
            _SERVICE,
            *(_measured(name, "ms", meaning) for name, meaning in _LATENCY.items()),
            _measured("unavailable", "fraction", _UNAVAILABLE),
            *(_measured(f"accuracy_{name}", "fraction", meaning) for name, meaning in _ACCURACY.items()),
            *(_measured(name, "1/s", meaning) for name, meaning in _GOODPUT.items()),
            *(
                _measured(name, "fraction", f"{meaning} Only in a run with `corruption`.")
                for name, meaning in _WRONG.items()
            ),
            Column(("instances",), "count", _LAUNCHED),
            Column(("price",), "unit of `cluster.prices`", "Price of all instances, each 1 by default."),
            Column(
                ("utilisation",),
                "fraction",
                "Share of time for which instances were busy, from the first arrival to the end of the run; for a "
                "service the share for which they were busy with it.",
            ),
            Column(("busy_seconds_per_query",), "s", "Time for which instances were in service, per query."),
            Column(("bytes_per_query",), "B", "Bytes sent over the cluster's network per query, replies included."),
            Column(
                ("relative_cost",),
                "ratio",
                "Cost by the rule in equal_cost, as a multiple of the first policy's there.",
            ),
            Column(("equal_cost",), "", "Rule by which costs are compared: instances, price or busy_seconds."),
            Column(("queries",), "count", "Queries that were measured, all trials together."),
            Column(("trials",), "count", "Number of trials."),
            Column(("standing",), "", _STANDING),
            Column(("target",), "", "Latencies to keep, by `target`; only where an experiment asks for some."),
            Column(("target_met",), "", "Whether they are kept, at 95% confidence: yes, no or undecided."),
        ),
    ),
    Table(
        "differences.csv",
        "Written by `parm run`: a row for each metric of each policy but the first, at each sweep point. Both policies "
        "use the same random numbers, so that differences are paired by trial.",
        (
            _POLICY,
            Column(("against",), "", "Policy that it is compared with: the first of the experiment."),
            _KEY,
            _SERVICE,
            _METRIC,
            Column(
                ("difference", "lo", "hi"),
                "ms, or fraction",
                "The policy's value minus that of `against`, and the ends of the 95% interval of this difference.",
            ),
            Column(("relative_percent",), "%", "The difference in percent of the value of `against`."),
        ),
    ),
    Table(
        "reference.csv",
        "Written by `parm run` if an experiment has a `reference`: a row for each published number.",
        (
            Column(("source",), "", "Where the number comes from."),
            _POLICY,
            Column(("key",), "", "Swept key over which the numbers are given."),
            Column(("at",), "", "Value of that key."),
            _METRIC,
            _measured("simulated", "ms, or fraction", "Simulated value, and the ends of its 95% interval."),
            Column(("reference",), "ms, or fraction", "The published number."),
            Column(("ratio",), "ratio", "Simulated value divided by the reference."),
        ),
    ),
    Table(
        "frontier.csv",
        "Written by `parm run` with the figure `frontier`: a row for each policy with each combination of swept "
        "options. The latency is that of the figure's `metric`, p999 by default.",
        (
            _POLICY,
            _KEY,
            _SERVICE,
            _measured("p999", "ms", _LATENCY["p999"]),
            _measured("accuracy_overall", "fraction", _ACCURACY["overall"]),
            Column(("cost",), "see cost_in", "Cost by the experiment's rule `equal_cost`."),
            Column(("cost_in",), "", "Column of summary.csv that holds this cost, with its unit."),
            Column(
                ("on_frontier",),
                "",
                "yes: no other row dominates it; no: another surely does, at 95% confidence for all rows at once; "
                "undecided: another does by the interval of this pair alone.",
            ),
            Column(
                ("dominated_by",), "", "Rows that are better in latency, accuracy or cost, and worse in none of them."
            ),
        ),
    ),
    Table(
        "queries/*.parquet",
        "Written by `parm run` for each cell: a row for each query in order of arrival, warm-up included. Times are "
        "simulated seconds from the beginning.",
        (
            _POLICY,
            _KEY,
            _SERVICE,
            Column(("trial",), "", "Number of the trial, from 0."),
            Column(("query",), "", "Number of the query, from 0."),
            Column(("warmup",), "yes or no", "Whether the query belongs to the warm-up, which is not measured."),
            Column(("latency_ms",), "ms", "reply - arrival."),
            Column(("sample",), "", "Row of the test set that the query carried; null without a model."),
            Column(("arrival",), "s", "When the query arrived at the frontend."),
            Column(("dispatch",), "s", "When the frontend gave the query's batch to the policy."),
            Column(("reply",), "s", "When the reply was sent."),
            Column(
                ("route",),
                "",
                "Whose answer the reply is: own (the deployed model, first copy), replica (the deployed model, a later "
                "copy), reconstruction, backup (the cheaper model) or default (none came before the deadline).",
            ),
            Column(("batch",), "", "Number of the query's batch, from 0 in order of dispatch."),
            Column(("group",), "", "Number of the batch's coding group, from 0; -1 for none."),
            Column(("slot",), "", "Place of the batch in its coding group, 0 to k - 1; -1 for none."),
            Column(
                ("used",),
                "bits",
                "Answers from which it was reconstructed: bit i < k for slot i, bit k + j for parity row j. After a "
                "vote bit j for copy j if it won, bit 31 + j if it was outvoted; else 0.",
            ),
            Column(("label",), "", "True class of the sample; null without a model."),
            Column(("answer",), "", "Class that the client was given; null without a model."),
            Column(("correct",), "yes or no", "Whether the answer counts as correct; null without a model."),
        ),
    ),
    Table(
        "tasks/*.parquet",
        "Written by `parm run` for each cell: a row for each task (one batch, or one parity query of a group, on one "
        "instance) in the order in which tasks ended. Times are simulated seconds from the beginning.",
        (
            _POLICY,
            _KEY,
            _SERVICE,
            Column(("trial",), "", "Number of the trial, from 0."),
            Column(("owner",), "", "Number of the batch; of a parity task that of the coding group."),
            Column(("role",), "", "Which model the task was for: deployed, parity or backup."),
            Column(("row",), "", "Parity row of a parity task, 0 to r - 1; else 0."),
            Column(("attempt",), "", "0 for the first copy; later copies and retries count up."),
            Column(("size",), "count", "Queries in the task."),
            Column(
                ("together",), "count", "Number of tasks that its instance served in the same batch, including itself."
            ),
            Column(("instance",), "", "Number of the instance that ran it, over the whole cluster; -1 for none."),
            Column(("queued",), "s", "When the task was submitted to its pool."),
            Column(("sent",), "s", "When it was sent to its instance; null if its service began then."),
            Column(("start",), "s", "When its service began; NaN if it never did."),
            Column(("finish",), "s", "When its service ended, or when it was removed from the queue."),
            Column(("back",), "s", "When the frontend received its answer; NaN if none came."),
            Column(("fate",), "", "How it ended: done, cancelled (in the queue or in service) or lost (in a crash)."),
            Column(
                ("wrong",),
                "",
                "0 for a right answer, else the number of the cause in `corruption`, from 1; only in a run with it.",
            ),
        ),
    ),
    Table(
        "parm compare",
        "Printed: a row for each metric of each policy and sweep point that runs have in common; after each value "
        "half of its 95% interval.",
        (
            _POLICY,
            Column(("metric",), "", "The metric and its unit; see summary.csv."),
            Column(("BASE",), "ms, or %", "The value in the first run; the column has the run's name."),
            Column(("run",), "", "Name of the other run."),
            Column(("value",), "ms, or %", "The value in the other run."),
            Column(("difference",), "ms, or %", "The other run's value minus the first run's."),
            Column(("intervals",), "", "Whether the two 95% intervals overlap or are apart."),
        ),
    ),
    Table(
        "parm claims",
        "Printed by `parm claims`, and by `parm run` if an experiment has `claims`: a row for each claim.",
        (
            Column(("run",), "", "Name of the experiment."),
            Column(("claim",), "", "The statement, in words."),
            Column(("claimed",), "ms, % or x", "Claimed range of the value; x is a factor."),
            Column(("simulated",), "ms, % or x", "Mean over the sweep, and half of its 95% interval."),
            Column(("over the sweep",), "ms, % or x", "Least and greatest value of all sweep points."),
            Column(("verdict",), "", "Whether the claim is reproduced by the rule below the table, or why not."),
        ),
    ),
    Table(
        "parm reversals",
        "Printed by `parm reversals`, and by `parm run` if an experiment has `reversals`: a row for each pair of "
        "policies whose order is reversed at some point of the sweep.",
        (
            Column(("better at\nthe reference",), "", "The policy that is better at the reference."),
            Column(("than",), "", "The policy that is worse there."),
            Column(("reversed",), "count", "Points at which it is surely better than the first one."),
            Column(("kept",), "count", "Points at which it is surely worse, as at the reference."),
            Column(("open",), "count", "Points at which neither is certain."),
            Column(("by, there",), "ms, or fraction", "Its difference at the reference, with its interval."),
            Column(("by, here",), "ms, or fraction", "The same at the point in the last column: below 0."),
            Column(("clearest reversal at",), "", "The point at which the reversal is furthest from being uncertain."),
        ),
    ),
    Table(
        "reversals.csv",
        "Written by `parm run` if an experiment has `reversals`: a row for each pair of policies at each point whose "
        "order is certain at the reference.",
        (
            _KEY,
            Column(("better",), "", "The policy that is better at the reference."),
            Column(("worse",), "", "The policy that is worse there."),
            Column(("order",), "", "kept, reversed, or open: not certain here."),
            _measured("there", "ms, or fraction", "Difference at the reference, above 0."),
            _measured("here", "ms, or fraction", "Difference here: below 0 if the order is reversed."),
        ),
    ),
    Table(
        "parm plan",
        "Printed: a row for each policy, the cheapest first.",
        (
            _POLICY,
            Column(
                ("standing",),
                "",
                "What is certain of the policy among all, at the confidence above the table: best, as cheap, dearer, "
                "undecided (it may be cheaper than the best), or none (it surely does not meet the targets).",
            ),
            Column(
                ("deployed",),
                "count",
                "Fewest deployed instances that meet all targets with confidence; 'a?..b' where "
                "it could not be told of a to b - 1.",
            ),
            Column(("in all",), "count", "Total instances of all pools in that case."),
            Column(("price",), "unit of `cluster.prices`", "Their total price, each 1 by default."),
            Column(("trials",), "count", "Trials simulated, all numbers of instances together."),
            Column(
                ("measured there, and what is certain",),
                "ms, or fraction",
                "For each target the value over all trials, "
                "and the one-sided bound that holds with the confidence asked for.",
            ),
            Column(
                ("with one fewer",), "", "Which targets one deployed instance fewer misses, or cannot be told to meet."
            ),
        ),
    ),
    Table(
        "parm plan --rate",
        "Printed: a row for each policy, the one with the highest rate first.",
        (
            _POLICY,
            Column(
                ("queries/s",),
                "",
                "Highest arrival rate that meets all targets with confidence, to 1% of the file's; 'a..b?' where it "
                "could not be told up to b.",
            ),
            Column(("standing",), "", "What is certain of the policy: best, as high, lower, undecided or none."),
            Column(("trials",), "count", "Trials simulated, all rates together."),
            Column(
                ("measured there, and what is certain",),
                "ms, or fraction",
                "For each target the value over all trials, and the one-sided bound that holds with the confidence.",
            ),
            Column(("at 1% more",), "", "Which targets are missed at 1% more of the file's rate, or cannot be told."),
        ),
    ),
    Table(
        "parm accuracy",
        "Printed: a row for each code with each model, recipe and seed; a selection of accuracy.csv in percent.",
        (
            Column(("model",), "", "Name of the deployed model in the study."),
            Column(("code",), "", "Name of the code with its group size."),
            Column(("recipe",), "", "How what the code needs was trained; empty where it needs nothing."),
            Column(("seed",), "", "Seed of training."),
            Column(("A_a",), "%", _ACCURACY["available"]),
            Column(("A_d",), "%", "Accuracy of reconstructions, and its 95% interval over the test images."),
            Column(("default",), "%", "Accuracy of the one answer that is most often right."),
        ),
    ),
    Table(
        "accuracy.csv",
        "Written by `parm accuracy`: a row for each code with each model, recipe and seed, on the whole test set. "
        "For boxes an accuracy is the mean of intersection over union.",
        (
            Column(("dataset",), "", "Kind of the data set."),
            Column(("network",), "", "Kind of the deployed model's network."),
            Column(("width",), "channels", "The network's `width`; empty where it has none."),
            Column(("code",), "", "Kind of the code."),
            Column(("k",), "count", "Queries in a coding group."),
            Column(("r",), "count", "Parity queries of a coding group."),
            Column(("recipe",), "", "How what the code needs was trained; empty where it needs nothing."),
            Column(("seed",), "", "Seed of training."),
            Column(("epochs",), "count", "Epochs of training what the code needs; empty where it needs nothing."),
            Column(("device",), "", "Device on which that was trained, or else the deployed model."),
            Column(("available",), "fraction", "Accuracy of the deployed model (A_a)."),
            Column(
                ("degraded", "degraded_lo", "degraded_hi"),
                "fraction",
                "Accuracy of reconstructions (A_d), over all ways to lose `losses` answers of a group and several "
                "random groupings of the test set; and its 95% interval over the test images.",
            ),
            Column(
                ("default",), "fraction", "Accuracy of the one answer that is most often right in the training set."
            ),
            Column(("train_seconds",), "s", "Time spent on training what the code needs."),
            Column(
                ("train_flop",),
                "",
                "Floating-point operations of that training, each multiplication and addition.",
            ),
            Column(("losses",), "count", "Answers of each group that are lost and reconstructed."),
            Column(("agreement",), "fraction", "How often a reconstruction equals the deployed model's answer."),
            Column(
                ("encode_us", "decode_us"),
                "us",
                "Median time to encode, and to decode, one group on the study's device.",
            ),
            Column(("model",), "", "Name of the deployed model in the study."),
            Column(("coding",), "", "Name of the code with its group size."),
            Column(("note",), "", "Caveat about the data set; usually empty."),
        ),
    ),
    Table(
        "parm calibrate",
        "Printed: a row for each measured value that was fitted.",
        (
            _POLICY,
            Column(("metric",), "", "Mean of the latencies, or a percentile of them."),
            Column(("at",), "", "Sweep point: the values of the swept keys."),
            Column(("measured",), "ms", "The value on the real cluster."),
            Column(("simulated",), "ms", "The value with the fitted options: the median over the trials."),
            Column(("ratio",), "", "Simulated value divided by the measured one."),
            Column(("within",), "", "Whether it is within the metric's tolerance, which is given in parentheses."),
        ),
    ),
    Table(
        "parm validate",
        "Printed: a row for each percentile of each policy, over the queries of all trials.",
        (
            _POLICY,
            Column(("metric",), "", "Percentile of latency."),
            Column(("real",), "ms", "The value on real worker processes."),
            Column(("simulated",), "ms", "The mean of the values in all simulations of the same queries."),
            Column(("error",), "", "Simulated value divided by the real one, minus 1."),
            Column(("95% interval",), "", "Interval of this error over the trials; empty with one trial."),
            Column(
                ("model expects",),
                "ms",
                "Range that holds the real value in 95 of 100 cases if the simulation is right; 'not there' otherwise.",
            ),
        ),
    ),
)
