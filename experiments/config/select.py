"""The best policy with a confidence: how sure a run shall be of it, and how many trials that may take."""

from __future__ import annotations

from pydantic import Field, model_validator

from experiments.analysis.estimates import Metric, unit
from experiments.analysis.selection import FIRST_LOOK, Rule, looks
from experiments.config.widths import MS, Width, parsed
from sim.kinds import Options


class Select(Options):
    """Trials are added until it is certain at each sweep point which policy is best, or as good as the best."""

    metric: Metric = "p999"
    """What is compared: a metric of the summary or a percentile such as p99.5."""
    within: Width
    """The indifference zone: the policy that is found may be worse than the best by so much. A time such as `1ms`, `5%`
    of the best value, or for shares a number such as 0.001."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Chance, at each sweep point, that it is not worse by more than that."""
    max_trials: int = Field(default=1000, ge=2, le=10_000)
    """No policy is given more trials than this."""
    max_minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """No trials are added once the run has taken this long."""

    @model_validator(mode="after")
    def _in_its_unit(self) -> Select:
        rule(self.metric, self.within, self.confidence)
        return self

    def rule(self, trials: int) -> Rule:
        """Return the rule of an experiment that says `trials`, the fewest."""
        counts = looks(max(trials, FIRST_LOOK), max(self.max_trials, trials))
        return rule(self.metric, self.within, self.confidence, counts)


def rule(metric: str, within: str | float, confidence: float, counts: tuple[int, ...] = ()) -> Rule:
    """Return the rule for a zone that is written as a width. Raises ValueError that says what is wrong with it."""
    number, given = parsed(within)
    if unit(metric) == "ms" and given is None:
        raise ValueError(f"within: '{within}' needs a unit: 5% of the best value, or a time such as 1ms")
    if unit(metric) != "ms" and given in MS:
        raise ValueError(f"within: '{within}' is a time, but {metric} is none: write 5% of it, or a number")
    factor = 0.01 if given == "%" else MS.get(given or "", 1.0)
    return Rule(metric, number * factor, given == "%", confidence, counts)
