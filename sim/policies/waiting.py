"""How long a policy waits before it does more: a fixed time, or a running quantile of the latencies it has seen."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, model_validator

from sim.kinds import Options
from sim.quantile import RunningQuantile


class Wait(Options):
    """One wait, given in one of two ways."""

    after: NonNegativeFloat | None = None
    """Seconds."""
    after_quantile: float | None = Field(default=None, gt=0, lt=1)
    """The same wait as a quantile of the latest 1000 latencies."""

    @model_validator(mode="after")
    def _one_wait(self) -> Wait:
        if self.after is not None and self.after_quantile is not None:
            raise ValueError("give 'after' or 'after_quantile', not both: there is one wait")
        return self

    def waiting(self, otherwise: float) -> Waiting:
        """Return the wait in one simulation: the quantile `otherwise` of the latencies where neither is given."""
        return Waiting(self.after, self.after_quantile or otherwise)


class Waiting:
    """A wait in one simulation."""

    __slots__ = ("_fixed", "_latencies", "_quantile", "_sees")

    def __init__(self, fixed: float | None, quantile: float) -> None:
        self._fixed = fixed
        self._quantile = quantile
        self._latencies = RunningQuantile(quantile)
        self._sees = fixed is None

    def beside(self, other: Waiting) -> None:
        """Leave it to `other` to see the latencies, where both have to."""
        if self._sees and other._sees:
            self._latencies = other._latencies.beside(self._quantile)
            self._sees = False

    def now(self) -> float | None:
        """Return the wait as it stands, in seconds, or None where too few latencies have been seen."""
        return self._latencies.now() if self._fixed is None else self._fixed

    def see(self, latency: float) -> None:
        """Take a latency in, where it matters."""
        if self._sees:
            self._latencies.see(latency)
