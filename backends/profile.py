"""Service-time profiles: how long a model takes per batch on some device, as a file that a simulation can draw from."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StringConstraints, ValidationError, model_validator

from sim.errors import ParmError
from sim.kinds import Options

RoleName = Literal["deployed", "parity", "backup", "backlog"]
"""Whose service times: a model's, or (`backlog`) what a bulk flow leaves in a buffer."""

Measured = Annotated[
    str, StringConstraints(pattern=r"^(deployed|parity|backup|backlog|copy|(en|de)code \S+ k=\d+ r=\d+)$")
]
"""What a profile has times of: a role, the `copy` to the device, or `encode` or `decode` of a code at k and r."""

_TAIL = tuple(1 - sign * 10.0**-digits for digits in range(2, 6) for sign in (1, 0.5, 0.2))


class Quantiles(Options):
    """A service-time distribution as its inverse: linear between the given probabilities."""

    probabilities: tuple[float, ...] = Field(min_length=2)
    """Strictly increasing, from 0 to 1."""
    seconds: tuple[float, ...] = Field(min_length=2)
    """The service time that is not exceeded with each of them; positive, never decreasing."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.probabilities) != len(self.seconds):
            raise ValueError(f"there are {len(self.probabilities)} probabilities but {len(self.seconds)} seconds")
        if self.probabilities[0] != 0 or self.probabilities[-1] != 1:
            raise ValueError("the probabilities must go from 0 to 1")
        if any(right <= left for left, right in pairwise(self.probabilities)):
            raise ValueError("the probabilities must increase from each to the next")
        if self.seconds[0] <= 0 or any(right < left for left, right in pairwise(self.seconds)):
            raise ValueError("the seconds must be positive and never decrease")
        return self

    @classmethod
    def of(cls, seconds: NDArray[np.float64]) -> Self:
        """Keep the whole distribution of measured times, shape (n,): every percent, finer in the tail, the extremes.

        A tail probability is kept only where at least one measurement lies beyond it.
        """
        tail = [p for p in _TAIL if (1 - p) * len(seconds) >= 1 - 1e-9]
        grid = np.unique(np.round([*np.linspace(0, 0.99, 100), *tail, 1.0], 9))
        times = np.maximum.accumulate(np.quantile(seconds, grid).round(9))
        return cls(probabilities=tuple(grid.tolist()), seconds=tuple(times.tolist()))

    def at(self, probability: float) -> float:
        """Return the service time, in seconds, that is not exceeded with this probability."""
        return float(np.interp(probability, self.probabilities, self.seconds))

    @property
    def mean(self) -> float:
        """The mean of the interpolated distribution, in seconds."""
        seconds = np.asarray(self.seconds)
        return float(np.diff(self.probabilities) @ (seconds[1:] + seconds[:-1]) / 2)


class ServiceProfile(Options):
    """Measured or calibrated service times of one network on one device, by role and batch size."""

    format: Literal[1] = 1
    """Version of this layout."""
    device: str = Field(min_length=1)
    """On what the times hold, in words."""
    network: str = Field(min_length=1)
    """Of which model."""
    how: str = Field(min_length=1)
    """Measured or calibrated, and in which way."""
    made: dict[str, str] = Field(default_factory=dict)
    """Versions of what measured it. No date: the same measurement gives the same file."""
    roles: dict[Measured, dict[int, Quantiles]] = Field(min_length=1)
    """Times by role, or other work, and batch size."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for role, sizes in self.roles.items():
            if not sizes or min(sizes) < 1:
                raise ValueError(f"role '{role}' needs batch sizes, each at least 1")
        return self

    def write(self, path: Path) -> None:
        """Write the profile as JSON, one list per line, making the folder where it is missing."""
        text = json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False)
        # No string of JSON holds a line break, so only true lists match.
        text = re.sub(r"\[\n[^\]]*\]", lambda found: f"[{' '.join(found[0][1:-1].split())}]", text)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a profile; raises ParmError, in one sentence, where there is none or where it is malformed."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ParmError(f"the service-time profile {path} cannot be read: {reason}") from error
        try:
            # Parsed by `json` first: it tells the line of a syntax error, and pydantic's own parser does not.
            return cls.model_validate(json.loads(text))
        except json.JSONDecodeError as error:
            raise ParmError(
                f"the service-time profile {path} is not JSON: {error.msg} in line {error.lineno}"
            ) from error
        except ValidationError as error:
            first = error.errors()[0]
            place = " at " + ".".join(map(str, first["loc"])) if first["loc"] else ""
            message = first["msg"].removeprefix("Value error, ")
            raise ParmError(f"the service-time profile {path} is malformed{place}: {message}") from error
