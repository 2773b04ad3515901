"""Service-time profiles: measured times per batch of a model on a device, as a JSON file and as a distribution.

`ServiceProfile` reads and writes the file, and `Profile` is the distribution that YAML names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import (
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sim import atomic
from sim.distributions.base import Distribution, Floats
from sim.kinds import Options, find_file

RoleName = Literal["deployed", "parity", "backup", "preprocess", "backlog"]
"""Whose times: a model's service times, of which `preprocess` makes one query ready, or (`backlog`) a bulk flow's
queueing delay in a buffer."""

Measured = Annotated[
    str, StringConstraints(pattern=r"^(deployed|parity|backup|preprocess|backlog|copy|(en|de)code \S+ k=\d+ r=\d+)$")
]
"""Keys of a profile: a role, the `copy` to the device, or `encode` or `decode` of a code at k and r."""

_TAIL = tuple(1 - sign * 10.0**-digits for digits in range(2, 6) for sign in (1, 0.5, 0.2))


class Quantiles(Options):
    """A service-time distribution as its quantile function, linear between the given probabilities."""

    probabilities: tuple[float, ...] = Field(min_length=2)
    """Strictly increasing, from 0 to 1."""
    seconds: tuple[float, ...] = Field(min_length=2)
    """The quantile at each probability, in seconds; finite, positive, nondecreasing."""

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
    def of(cls, seconds: Floats) -> Self:
        """Return the quantiles of measured times, shape (n,): every percent, finer in the tail, and the extremes.

        A tail probability is included only if at least one measurement lies beyond it.
        """
        tail = [p for p in _TAIL if (1 - p) * len(seconds) >= 1 - 1e-9]
        grid = np.unique(np.round([*np.linspace(0, 0.99, 100), *tail, 1.0], 9))
        times = np.maximum.accumulate(np.quantile(seconds, grid).round(9))
        return cls(probabilities=tuple(grid.tolist()), seconds=tuple(times.tolist()))

    @property
    def mean(self) -> float:
        """The mean, in seconds."""
        return self.area(1)

    def at(self, probability: float) -> float:
        """Return the quantile at a probability, in seconds."""
        return float(np.interp(probability, self.probabilities, self.seconds))

    def quantiles(self, p: Floats) -> Floats:
        """Return the quantiles in seconds, shape of p."""
        return np.interp(p, self.probabilities, self.seconds)

    def probability(self, x: Floats) -> Floats:
        """Return P(X <= x), shape of x; it jumps where quantiles are equal."""
        p, s = np.asarray(self.probabilities), np.asarray(self.seconds)
        above = np.searchsorted(s, x, side="right")
        right = np.clip(above, 1, len(s) - 1)
        rise = s[right] - s[right - 1]
        part = (np.clip(x, s[0], s[-1]) - s[right - 1]) / np.where(rise > 0, rise, 1)
        inside = p[right - 1] + part * (p[right] - p[right - 1])
        return np.where(above == 0, 0.0, np.where(above == len(s), 1.0, inside))

    def area(self, p: float) -> float:
        """Return the integral of the quantile function from 0 to p, exact by the trapezoidal rule."""
        grid = np.append([q for q in self.probabilities if q < p], p)
        heights = self.quantiles(grid)
        return float(np.diff(grid) @ (heights[1:] + heights[:-1]) / 2)

    def times(self, factor: float) -> Quantiles:
        """Return the distribution with all its times multiplied by `factor`."""
        seconds = tuple(factor * value for value in self.seconds)
        return Quantiles.model_construct(probabilities=self.probabilities, seconds=seconds)

    def towards(self, other: Quantiles, share: float) -> Quantiles:
        """Return the interpolation towards `other` by `share`, quantile by quantile."""
        grid = np.union1d(self.probabilities, other.probabilities)
        between = (1 - share) * self.quantiles(grid) + share * other.quantiles(grid)
        # Not validated, since rounding may make quantiles decrease in the last digit.
        return Quantiles.model_construct(probabilities=tuple(grid.tolist()), seconds=tuple(between.tolist()))


class ServiceProfile(Options):
    """Measured or calibrated service times of one network on one device, by role and batch size."""

    format: Literal[1] = 1
    """Version of this layout."""
    device: str = ""
    """The measured device, in words."""
    network: str = ""
    """The measured model, in words."""
    how: str = ""
    """Whether measured or calibrated, and how."""
    made: dict[str, str] = Field(default_factory=dict)
    """Versions of the measuring software; no date, so that the same measurement gives the same file."""
    roles: dict[Measured, dict[int, Quantiles]] = Field(min_length=1)
    """Times by role, or other work, and batch size."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for role, sizes in self.roles.items():
            if not sizes or min(sizes) < 1:
                raise ValueError(f"role '{role}' needs batch sizes, each at least 1")
        return self

    def write(self, path: Path) -> None:
        """Write the profile as JSON, one list per line; a missing folder is created."""
        text = json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False)
        # JSON strings hold no line break, so only lists match.
        text = re.sub(r"\[\n[^\]]*\]", lambda found: f"[{' '.join(found[0][1:-1].split())}]", text)
        atomic.write(path, text + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a profile. Raises ValueError if it cannot be read or is malformed."""
        try:
            # Parsed by `json` first, which gives the line of a syntax error; pydantic's parser does not.
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except ValidationError as error:
            first = error.errors()[0]
            place = " at " + ".".join(map(str, first["loc"])) if first["loc"] else ""
            message = first["msg"].removeprefix("Value error, ")
            raise ValueError(f"the service-time profile {path} is malformed{place}: {message}") from error
        except json.JSONDecodeError as error:
            raise ValueError(
                f"the service-time profile {path} is not JSON: {error.msg} in line {error.lineno}"
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ValueError(f"the service-time profile {path} cannot be read: {reason}") from error


class Profile(Distribution):
    """Service times measured on a device, by role and batch size, from a profile written by `parm profile`."""

    kind: Literal["profile"] = "profile"
    file: Path
    """A profile's name, such as `k80-resnet18`, or the path of its JSON file."""
    role: Literal["deployed", "parity", "backup", "preprocess", "backlog", "encode", "decode", "copy"] = "deployed"
    """Which times: service times of the deployed, parity or backup model; `preprocess`: the part of them that makes one
    query ready, such as decoding its picture; `backlog`: queueing delay that a bulk flow causes in a buffer; `encode`
    and `decode`: the frontend's time per coding group; `copy`: of a batch to a device."""
    code: str | None = None
    """Code whose `encode` or `decode` it is, as 'addition k=2 r=1'; default: each policy's own."""
    batch: int = Field(1, ge=1)
    """Batch size if nothing else determines it."""

    _measured: dict[int, Quantiles] = PrivateAttr()
    _codes: dict[str, dict[int, Quantiles]] = PrivateAttr(default_factory=dict)
    """Times by code, if the policy determines the code."""
    _at: Quantiles | None = PrivateAttr(default=None)

    @field_validator("file")
    @classmethod
    def _found(cls, file: Path, info: ValidationInfo) -> Path:
        name = file.expanduser()
        try:
            return find_file(name, info.context).absolute()
        except ValueError:
            if name.suffix == ".json":
                raise
            return find_file(name.with_name(f"{name.name}.json"), info.context).absolute()

    @model_validator(mode="after")
    def _read(self) -> Self:
        if self.code is not None and self.role not in ("encode", "decode"):
            raise ValueError(f"code: only the roles 'encode' and 'decode' have one, not '{self.role}'")
        roles = ServiceProfile.read(self.file).roles
        wanted = self.role if self.code is None else f"{self.role} {self.code}"
        if self.code is None and self.role in ("encode", "decode"):
            self._codes = {name.removeprefix(f"{wanted} "): roles[name] for name in roles if name.startswith(wanted)}
            found = list(self._codes.values())
        else:
            found = [roles[wanted]] if wanted in roles else []
        if not found:
            raise ValueError(f"{self.file} has no service times for the role '{wanted}'; it has {', '.join(roles)}")
        self._measured = found[0] if len(found) == 1 else {}
        self._at = between(self._measured, self.batch) if self._measured else None
        return self

    @property
    def _times(self) -> Quantiles:
        """Return the times. Raises ValueError if several codes were measured and the policy's is unknown here."""
        if self._at is None:
            of = _named(self._codes)
            raise ValueError(f"{self.file} has the role '{self.role}' for several codes; choose a 'code' of {of}")
        return self._at

    def for_code(self, code: str | None) -> Distribution:
        """Return the times measured with the policy's code, unless this names one itself.

        Raises ValueError if that code was not measured.
        """
        if self.code is not None or self.role not in ("encode", "decode"):
            return self
        if code not in self._codes:
            whose = f"'{code}'" if code else "a policy without a code"
            raise ValueError(
                f"{self.file} has no '{self.role}' times for {whose}, only for {_named(self._codes)}: measure it with "
                "`parm profile`, or choose a 'code'"
            )
        changed = self.model_copy(update={"code": code})
        changed._measured = self._codes[code]
        changed._at = between(changed._measured, self.batch)
        return changed

    def sample(self, generator: np.random.Generator, n: int) -> Floats:
        """Draw `n` values by the inverse CDF, shape (n,)."""
        return self._times.quantiles(generator.random(n))

    def mean(self) -> float:
        """Return the mean, in seconds."""
        return self._times.area(1)

    def cdf(self, x: Floats) -> Floats:
        """Return P(X <= x), shape of x."""
        return self._times.probability(x)

    def quantiles(self, p: Floats) -> Floats:
        """Return the quantiles, linear between the measured ones; shape of p."""
        return self._times.quantiles(p)

    def mean_up_to(self, x: float) -> float:
        """Return E[X; X <= x]."""
        return self._times.area(float(self._times.probability(np.array([x]))[0]))

    def at_batch(self, size: int) -> Distribution | None:
        """Return the service time of a batch of `size` queries, or None where only another size was measured.

        Between two measured sizes every quantile is interpolated linearly; beyond the largest it grows in proportion to
        the size; below the smallest it stays, since a batch that is not full still costs a pass. Raises ValueError for
        a size below 1.
        """
        return None if len(self._measured) == 1 and size not in self._measured else _at_batch(self, size)


@lru_cache(maxsize=1024)
def _at_batch(profile: Profile, size: int) -> Profile:
    if size < 1:
        raise ValueError(f"a batch has at least one query, not {size}")
    changed = profile.model_copy(update={"batch": size})
    changed._at = between(profile._measured, size)
    return changed


def between(measured: dict[int, Quantiles], size: int) -> Quantiles:
    """Return the service times of a batch of `size` queries, from those of the measured sizes; see `at_batch`."""
    below = max((known for known in measured if known <= size), default=None)
    above = min((known for known in measured if known >= size), default=None)
    if below is None or above is None:
        return measured[above] if above is not None else measured[max(measured)].times(size / max(measured))
    return (
        measured[below]
        if below == above
        else measured[below].towards(measured[above], (size - below) / (above - below))
    )


def _named(codes: Iterable[str]) -> str:
    return ", ".join(f"'{code}'" for code in codes)
