"""Default answers: whoever has no prediction by a deadline gets the likeliest answer, and nothing else is done."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat

from sim.policies.uncoded import EqualResources


class DefaultAnswer(EqualResources):
    """No redundancy, with the budget spent on more instances; whoever waits too long gets a default answer."""

    kind: Literal["default_answer"] = "default_answer"  # type: ignore[assignment]
    after: PositiveFloat
    """Seconds after its arrival at which a query without a reply gets a default answer. Where `cluster.deadline` is
    earlier, that one counts."""

    @property
    def deadline(self) -> float | None:
        """Seconds after its arrival at which a query gets a default answer."""
        return self.after
