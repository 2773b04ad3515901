"""Draws from recorded times, a column of a table."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import PrivateAttr, ValidationInfo, field_validator, model_validator

from sim.distributions.base import Distribution, Floats
from sim.files import Unit, read_times
from sim.kinds import find_file


class Empirical(Distribution):
    """Recorded times, a column of a CSV file or of JSON lines, drawn independently with replacement."""

    kind: Literal["empirical"] = "empirical"
    file: Path
    """A CSV file with a header, or JSON lines."""
    column: str
    """The column that holds the times."""
    unit: Unit = "s"
    """Unit of the times."""

    _sorted: bytes = PrivateAttr()

    @field_validator("file")
    @classmethod
    def _found(cls, file: Path, info: ValidationInfo) -> Path:
        return find_file(file, info.context).absolute()

    @model_validator(mode="after")
    def _read(self) -> Self:
        self._sorted = np.sort(read_times(self.file, self.column, self.unit)).tobytes()
        return self

    @property
    def values(self) -> Floats:
        """The recorded times in seconds, sorted, shape (recorded,)."""
        return np.frombuffer(self._sorted)

    def sample(self, generator: np.random.Generator, n: int) -> Floats:
        """Draw `n` of the recorded values with replacement, by the inverse CDF; shape (n,)."""
        values = self.values
        drawn: Floats = values[np.minimum((generator.random(n) * len(values)).astype(np.intp), len(values) - 1)]
        return drawn

    def mean(self) -> float:
        """Return the mean of the recorded values, in seconds."""
        return float(self.values.mean())

    def cdf(self, x: Floats) -> Floats:
        """Return the fraction of recorded values up to x, shape of x."""
        return np.searchsorted(self.values, x, side="right") / len(self.values)

    def quantiles(self, p: Floats) -> Floats:
        """Return recorded values, shape of p."""
        found: Floats = np.quantile(self.values, p, method="inverted_cdf")
        return found

    def mean_up_to(self, x: float) -> float:
        """Return E[X; X <= x]."""
        values = self.values
        return float(values[: np.searchsorted(values, x, side="right")].sum() / len(values))
