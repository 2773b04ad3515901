"""The `workload` of an experiment's YAML."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from sim.kinds import Options
from workloads.arrivals import Arrivals
from workloads.sampling import Sampling, Uniform


class Workload(Options):
    """The queries that clients send: how many, when and with which samples."""

    arrivals: Arrivals
    """The arrival process."""
    sampling: Sampling = Uniform()
    """How each query's sample of the test set is chosen."""
    queries: int = Field(gt=0, le=1_000_000_000)
    """Number of queries per trial."""

    @model_validator(mode="after")
    def _enough(self) -> Self:
        available = self.arrivals.available()
        if available is not None and available < self.queries:
            raise ValueError(f"queries: must be at most the {available} recorded arrivals, but is {self.queries}")
        return self
