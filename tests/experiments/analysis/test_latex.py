"""`summary.tex`: every row of the summary, ready for LaTeX."""

from __future__ import annotations

from experiments.analysis import latex, summary
from tests.outcomes import outcome

POINTS = [{"workload.arrivals.rate": rate, "queue": "a_b"} for rate in (100, 200)]


def rows(count: int = 2, model: bool = True) -> list[summary.Row]:
    policies = ("50% & more", *(f"coded_{number}" for number in range(count - 1)))
    cells = [
        outcome(policy, trial, 0.01, 0.1, model, point=at) for at in POINTS for policy in policies for trial in range(3)
    ]
    return summary.rows(cells)


def test_a_table_with_escaped_names_and_intervals() -> None:
    table = latex.table(rows())
    lines = table.splitlines()
    row = rows()[0].metrics["p999"]
    assert row is not None
    assert r"100 & a\_b & 50\% \& more & $" in table
    assert rf"${row.value:.1f} \pm {row.margin:.1f}$" in table
    assert lines[0] == r"% \usepackage: booktabs. Margins are 95% intervals over 3 trials."
    assert (lines[1], lines[-1]) == (r"\begin{tabular}{lllrrrrrrrrr}", r"\end{tabular}")
    assert [line for line in lines if line.startswith("\\") and line.endswith("rule")] == [
        r"\toprule", r"\midrule", r"\bottomrule",
    ]  # fmt: skip
    cells = [line.count(" & ") for line in lines if line.endswith(r"\\")]
    assert cells == [len("lllrrrrrrrrr") - 1] * 5


def test_without_a_model_there_are_no_accuracies_and_long_tables_break() -> None:
    assert "A_o" in latex.table(rows())
    table = latex.table(rows(30, model=False))
    assert "A_o" not in table
    assert r"\begin{longtable}" in table and r"\endhead" in table
    assert latex.table([]).startswith("%")


def test_every_special_sign_is_escaped() -> None:
    assert latex.escaped("a_b{1} #2 $3 ~ ^ \\ <") == (
        r"a\_b\{1\} \#2 \$3 \textasciitilde{} \textasciicircum{} \textbackslash{} \textless{}"
    )
