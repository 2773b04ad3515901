"""`summary.tex`: the summary as a LaTeX table, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.analysis import cost
from experiments.analysis.summary import Row
from experiments.analysis.tables import LATE, WRONG, column

LONGEST = 45
"""A table of more rows than this is a `longtable`, which breaks over pages."""
_ESCAPES = {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def escaped(text: str) -> str:
    """Return plain text as LaTeX writes it."""
    return "".join(_ESCAPES.get(letter, letter) for letter in text)


def table(rows: Sequence[Row]) -> str:
    r"""Return a table of the rows for `\input`: it needs the package booktabs, and longtable where it is long.

    A row per policy and sweep point: latencies in ms and fractions in percent with the margins of their 95% intervals,
    and the cost by the experiment's rule.
    """
    if not rows:
        return "% The run has no finished cell.\n"
    points = list(dict.fromkeys(row.point_key for row in rows))
    rows = sorted(rows, key=lambda row: points.index(row.point_key))
    rule = cost.RULES[rows[0].equal_cost]
    heads = ["policy", *(f"{name.split()[0]} (ms)" for name in LATE.values()), r"unavailable (\%)"]
    cells = [column(rows, metric, 1.0, r" \pm ") for metric in LATE]
    cells.append(column(rows, "unavailable", 100.0, r" \pm "))
    if any(row.metrics["accuracy_overall"] is not None for row in rows):
        heads += [f"${name.split()[0]}$ (\\%)" for name in WRONG.values()]
        cells += [column(rows, metric, 100.0, r" \pm ") for metric in WRONG]
    heads.append(escaped(rule.unit))
    cells.append([f"{cost.of(row.cost, row.equal_cost) * rule.factor:.4g}" for row in rows])
    keys = list(rows[0].point)
    lines = [" & ".join([*(escaped(key.rpartition(".")[2]) for key in keys), *heads]) + r" \\", r"\midrule"]
    before = rows[0].point_key
    for row, numbers in zip(rows, zip(*cells, strict=True), strict=True):
        first = row is rows[0] or row.point_key != before
        if row.point_key != before:
            lines.append(r"\addlinespace")
        before = row.point_key
        where = [escaped(str(at)) if first else "" for at in row.point.values()]
        written = ["--" if number == "-" else f"${number}$".replace("\n", "") for number in numbers]
        lines.append(" & ".join([*where, escaped(row.policy), *written]) + r" \\")
    kind = "longtable" if len(rows) > LONGEST else "tabular"
    shape = "l" * (len(keys) + 1) + "r" * len(cells)
    packages = "booktabs" + (" and longtable" if kind == "longtable" else "")
    trials = max(row.trials for row in rows)
    over = f" over {trials} trials" if trials > 1 else ""
    return "\n".join(
        [
            f"% \\usepackage: {packages}. Margins are 95% intervals{over}.",
            f"\\begin{{{kind}}}{{{shape}}}",
            r"\toprule",
            lines[0],
            *([r"\midrule", r"\endhead"] if kind == "longtable" else [r"\midrule"]),
            *lines[2:],
            r"\bottomrule",
            f"\\end{{{kind}}}",
            "",
        ]
    )
