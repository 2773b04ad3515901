"""Writes an estimated cluster as an experiment that runs: YAML with what each number was estimated from."""

from __future__ import annotations

import csv
import io
import re
import textwrap
from importlib import resources
from pathlib import Path

from experiments.calibration.log.answers import Answers
from experiments.calibration.log.arrivals import ArrivalProcess
from experiments.calibration.log.cluster import DECIDES, Cluster, Z
from experiments.calibration.log.slowness import Slowness
from sim import atomic
from sim.distributions.profile import ServiceProfile

MADE = "# Made by 'parm fit' from"
"""How a file of ours begins."""
QUERIES = 50_000
"""Queries of each trial, if arrivals are not replayed."""


def write(cluster: Cluster, out: Path) -> list[Path]:
    """Write the experiment to `out`, and beside it what it reads; return all files. Raises OSError."""
    stem, files = out.stem, [out]
    if cluster.service.law is None:
        profile = ServiceProfile(
            how=f"measured: {cluster.service.count} services in {cluster.answers.file.name} that parm fit holds normal",
            roles={"deployed": {1: cluster.service.measured}},
        )
        files.append(out.with_name(f"{stem}.service.json"))
        profile.write(files[-1])
    if cluster.arrivals.kind == "replay":
        files.append(out.with_name(f"{stem}.arrivals.csv"))
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            [["seconds"], *([f"{at:.9f}"] for at in cluster.arrivals.times)]
        )
        atomic.write(files[-1], text.getvalue())
    atomic.write(out, text_of(cluster, stem))
    return files


def text_of(cluster: Cluster, stem: str) -> str:
    """Return the YAML of the experiment in a file of this stem."""
    answers, hosts = cluster.answers, len(cluster.answers.hosts)
    span = float(answers.start.max() - answers.start.min())
    names = ", ".join(answers.hosts[:8]) + (", ..." if hosts > 8 else "")
    lines = [
        f"{MADE} {answers.file.name}: {len(answers):,} answers of {_count(hosts, 'host')} over {span:.6g} s.",
        "# Numbers are estimates with their 95% intervals. 'parm check' says what this would run, 'parm run' runs it.",
        *_comment("; ".join(answers.notes)),
        f"name: {re.sub(r'[^A-Za-z0-9._-]+', '-', stem).strip('.-_')[:100] or 'fitted'}",
        "seed: 1",
        "trials: 5",
        "",
        "workload:",
        *_arrivals(cluster.arrivals, answers, stem),
        "",
        "cluster:",
        *_comment(f"The hosts of the log{': ' + names if answers.columns.host else ''}.", 2),
        f"  instances: {hosts}",
        *_comment("Not in the log: the budget for redundancy, which each policy spends in its own way.", 2),
        f"  extra: {max(1, round(hosts / 2))}",
        *_service(cluster, stem),
        *_queue(cluster),
        "",
        *_stragglers(cluster),
        "",
        *_policies(),
    ]
    return "\n".join(lines) + "\n"


def _arrivals(process: ArrivalProcess, answers: Answers, stem: str) -> list[str]:
    of = "starts of services, which a queue makes more regular than arrivals" if answers.arrival is None else "arrivals"
    low, high = process.rate - Z * process.rate_error, process.rate + Z * process.rate_error
    rate = f"{process.rate:.5g} queries per second ({low:.5g} to {high:.5g})"
    says = f"From {len(process.times):,} {of}: {rate}; {process.says}."
    queries = QUERIES
    if process.kind == "poisson":
        what = f"{{kind: poisson, rate: {process.rate:.6g}}}"
    elif process.kind == "gamma":
        ends = process.cv - Z * process.cv_error, process.cv + Z * process.cv_error
        says += f" Gaps are independent; their cv is {process.cv:.4g} ({ends[0]:.4g} to {ends[1]:.4g})."
        what = f"{{kind: gamma, rate: {process.rate:.6g}, cv: {process.cv:.4g}}}"
    else:
        says += " No renewal process is as bursty at all lengths, so the arrivals are replayed."
        what, queries = (
            f"{{kind: replay, file: {_quoted(stem + '.arrivals.csv')}, column: seconds}}",
            len(process.times),
        )
    return [*_comment(says, 2), f"  arrivals: {what}", f"  queries: {queries}"]


def _service(cluster: Cluster, stem: str) -> list[str]:
    service = cluster.service
    of = (
        f"from {service.count:,} services that were probably not slowed down"
        if cluster.slowness
        else f"from {service.count:,} services"
    )
    if service.law is None:
        text = f"No gamma, lognormal or Weibull law is close enough: the measured quantiles, {of}."
        return [*_comment(text, 2), f"  service: {{kind: profile, file: {_quoted(stem + '.service.json')}}}"]
    said, options = [], []
    for which, name in enumerate(service.law.parameters):
        low, high = service.interval(which)
        said.append(f"{name} {service.values[which]:.5g} ({low:.5g} to {high:.5g})")
        options.append(f"{name}: {service.values[which]:.6g}")
    text = f"Seconds: {', '.join(said)}, {of}."
    return [*_comment(text, 2), f"  service: {{kind: {service.law.name}, {', '.join(options)}}}"]


def _queue(cluster: Cluster) -> list[str]:
    if cluster.queue is None:
        text = "How queries reach hosts cannot be told from the log; one queue for all is taken for granted."
    elif cluster.queue == "random":
        text = "Queries wait while other hosts are idle, and not in turns nor at the shortest queue."
    else:
        text = "As the waits in the log have it."
    return [*_comment(text, 2), f"  queue: {cluster.queue or 'single_queue'}"]


def _stragglers(cluster: Cluster) -> list[str]:
    lines = []
    if cluster.heterogeneous:
        wide = Z * float(cluster.factor_errors.max())
        order = ", ".join(cluster.answers.hosts[:8]) + (", ..." if len(cluster.answers.hosts) > 8 else "")
        lines += _comment(f"Factors of {order}, each within {wide:.2%}; differences are clear of chance.", 2)
        factors = ", ".join(f"{factor:.5g}" for factor in cluster.factors)
        lines += textwrap.wrap(
            f"- {{kind: heterogeneous, factors: [{factors}]}}", 118, initial_indent="  ", subsequent_indent="      "
        )
    if cluster.slowness is not None:
        assert cluster.other is not None
        options = ", ".join(_option(name, value, cluster.sigma) for name, value in cluster.slowness.values.items())
        said = slowness_says(cluster.slowness, cluster.other, cluster.periods)
        if cluster.sigma:
            said += f" Factors differ from run to run, by {cluster.sigma:.3g} in their logarithms (standard deviation)."
        lines += _comment(said, 2)
        lines.append(f"  - {{kind: {cluster.slowness.kind}, {options}}}")
    if cluster.slowness is None:
        text = f"No slow periods: services of a host correlate {cluster.correlation:.2g} with the next one, which is "
        text += "no more than chance." if abs(cluster.correlation) < 0.02 else "not explained by slow periods."
        lines += _comment(text, 2)
    return (
        ["stragglers:", *lines]
        if cluster.heterogeneous or cluster.slowness
        else [*_comment(lines[0].strip("# ")), "stragglers: []"]
    )


def _option(name: str, value: float, sigma: float) -> str:
    if name in ("factor", "slowdown") and sigma:
        return f"{name}: {{kind: lognormal, median: {value:.5g}, sigma: {sigma:.3g}}}"
    return f"{name}: {value:.5g}"


def slowness_says(slowness: Slowness, other: Slowness, periods: int) -> str:
    """Return the estimate of slowness in words."""
    said = []
    for name, value in slowness.values.items():
        low, high = slowness.interval(name)
        said.append(f"{name} {value:.4g} ({low:.4g} to {high:.4g})")
    apart = slowness.likelihood - other.likelihood
    estimates = f"From {periods:,} runs of slow services: {', '.join(said)}."
    if apart < DECIDES:
        return f"{estimates} The log does not tell whether slowness is '{slowness.kind}' or '{other.kind}': try both."
    names = {"slow_periods": "slow periods in time", "sticky": "sticky slowness, from service to service"}
    sure = "explain" if slowness.kind == "slow_periods" else "explains"
    return (
        f"{estimates} {names[slowness.kind].capitalize()} {sure} the log better than {names[other.kind]} by "
        f"{apart:.1f} in the logarithm of the likelihood."
    )


def _policies() -> list[str]:
    """Return the section of the template."""
    text = resources.files("experiments").joinpath("template.yaml").read_text(encoding="utf-8")
    found = re.search(r"^policies:.*?(?=\n\n)", text, flags=re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[0].splitlines()


def _comment(text: str, indent: int = 0) -> list[str]:
    lead = " " * indent + "# "
    return textwrap.wrap(text, 118, initial_indent=lead, subsequent_indent=lead, break_long_words=False) if text else []


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) else "'" + name.replace("'", "''") + "'"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
