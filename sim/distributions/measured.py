"""Distributions read from files: a column of recorded times, and a service-time profile measured on a device."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from sim.distributions.base import Distribution, Floats
from sim.distributions.files import read_times
from sim.kinds import find_file


class Empirical(Distribution):
    """Recorded times, one column of a CSV file, drawn again with replacement."""

    kind: Literal["empirical"] = "empirical"
    file: Path
    """A CSV file with a header."""
    column: str
    """The column that holds the times."""
    unit: Literal["s", "ms", "us"] = "s"
    """The unit of the column."""

    _sorted: array[float] = PrivateAttr()

    @field_validator("file")
    @classmethod
    def _found(cls, file: Path, info: ValidationInfo) -> Path:
        return find_file(file.expanduser(), info.context).absolute()

    @model_validator(mode="after")
    def _read(self) -> Self:
        self._sorted = array("d", sorted(read_times(self.file, self.column, self.unit)))
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
        """Return the recorded share of values up to x, shape of x."""
        return np.searchsorted(self.values, x, side="right") / len(self.values)

    def quantiles(self, p: Floats) -> Floats:
        """Return recorded values, shape of p."""
        found: Floats = np.quantile(self.values, p, method="inverted_cdf")
        return found

    def mean_up_to(self, x: float) -> float:
        """Return E[X; X <= x]."""
        values = self.values
        return float(values[: np.searchsorted(values, x, side="right")].sum() / len(values))


@dataclass(frozen=True, slots=True)
class Curve:
    """An inverse CDF, linear between its points."""

    probabilities: tuple[float, ...]
    """From 0 to 1, increasing."""
    seconds: tuple[float, ...]
    """Never decreasing; as many."""

    def at(self, p: Floats) -> Floats:
        """Return the quantiles, shape of p."""
        return np.interp(p, self.probabilities, self.seconds)

    def probability(self, x: Floats) -> Floats:
        """Return P(X <= x), shape of x; flat stretches of the curve are jumps here."""
        p, s = np.asarray(self.probabilities), np.asarray(self.seconds)
        above = np.searchsorted(s, x, side="right")
        right = np.clip(above, 1, len(s) - 1)
        rise = s[right] - s[right - 1]
        part = (np.clip(x, s[0], s[-1]) - s[right - 1]) / np.where(rise > 0, rise, 1)
        inside = p[right - 1] + part * (p[right] - p[right - 1])
        return np.where(above == 0, 0.0, np.where(above == len(s), 1.0, inside))

    def area(self, p: float) -> float:
        """Return the integral of the curve from 0 to p, by trapezia, which are exact for it."""
        grid = np.append([q for q in self.probabilities if q < p], p)
        heights = self.at(grid)
        return float(np.diff(grid) @ (heights[1:] + heights[:-1]) / 2)

    def times(self, factor: float) -> Curve:
        """Return the curve with all its times multiplied."""
        return Curve(self.probabilities, tuple(factor * value for value in self.seconds))

    def towards(self, other: Curve, share: float) -> Curve:
        """Return the curve that lies `share` of the way to `other`, quantile by quantile."""
        grid = np.union1d(self.probabilities, other.probabilities)
        return Curve(tuple(grid.tolist()), tuple(((1 - share) * self.at(grid) + share * other.at(grid)).tolist()))


class Profile(Distribution):
    """Service times measured on a device, by role and batch size, from a profile written by `parm profile`."""

    kind: Literal["profile"] = "profile"
    file: Path
    """A profile's name, such as `k80-resnet18`, or the path of its JSON file."""
    role: Literal["deployed", "parity", "backup", "backlog", "encode", "decode", "copy"] = "deployed"
    """Whose service times: the deployed, parity or backup model's; `backlog` is what a bulk flow leaves in a buffer,
    `encode` and `decode` are the frontend's work for a coding group, `copy` that of moving a batch to a device."""
    code: str | None = None
    """Which code's `encode` or `decode`, as 'addition k=2 r=1'; each policy's own where not given."""
    batch: int = Field(1, ge=1)
    """Queries in the batch, where nothing else tells."""

    _measured: dict[int, Curve] = PrivateAttr()
    _codes: dict[str, dict[int, Curve]] = PrivateAttr(default_factory=dict)
    """All that the role was measured with, where the code is left to the policy."""
    _at: Curve | None = PrivateAttr(default=None)

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
        if self.code is None and self.role in ("encode", "decode"):
            self._codes = read_codes(self.file, self.role)
            self._measured = next(iter(self._codes.values())) if len(self._codes) == 1 else {}
        else:
            self._measured = read_curves(self.file, self.role if self.code is None else f"{self.role} {self.code}")
        self._at = between(self._measured, self.batch) if self._measured else None
        return self

    @property
    def _curve(self) -> Curve:
        """The inverse CDF. Raises ValueError where several codes have one and the policy's is not known here."""
        if self._at is None:
            of = _named(self._codes)
            raise ValueError(f"{self.file} has the role '{self.role}' for several codes; choose a 'code' of {of}")
        return self._at

    def for_code(self, code: str | None) -> Distribution:
        """Return the times measured with the policy's code, where the profile names none itself.

        Raises ValueError, in one sentence, where that code was not measured.
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
        return self._curve.at(generator.random(n))

    def mean(self) -> float:
        """Return the mean, in seconds."""
        return self._curve.area(1)

    def cdf(self, x: Floats) -> Floats:
        """Return P(X <= x), shape of x."""
        return self._curve.probability(x)

    def quantiles(self, p: Floats) -> Floats:
        """Return the quantiles, linear between the measured ones; shape of p."""
        return self._curve.at(p)

    def mean_up_to(self, x: float) -> float:
        """Return E[X; X <= x]."""
        return self._curve.area(float(self._curve.probability(np.array([x]))[0]))

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


def between(measured: dict[int, Curve], size: int) -> Curve:
    """Return the service-time curve of a batch of `size` queries, from those of the measured sizes."""
    below = max((known for known in measured if known <= size), default=None)
    above = min((known for known in measured if known >= size), default=None)
    if below is None or above is None:
        return measured[above] if above is not None else measured[max(measured)].times(size / max(measured))
    return (
        measured[below]
        if below == above
        else measured[below].towards(measured[above], (size - below) / (above - below))
    )


def read_curves(path: Path, role: str) -> dict[int, Curve]:
    """Read a profile's inverse CDFs for one role, by batch size. Raises ValueError where it is no profile."""
    roles = _roles(path)
    if not isinstance(roles.get(role), dict) or not roles[role]:
        raise ValueError(f"{path} has no service times for the role '{role}'; it has {', '.join(roles) or 'none'}")
    return {
        _batch_size(size, path): _curve(entry, f"batch size {size} of {path}") for size, entry in roles[role].items()
    }


def read_codes(path: Path, role: str) -> dict[str, dict[int, Curve]]:
    """Read what `encode` or `decode` took with each code, at least one. Raises ValueError as `read_curves` does."""
    names = [name for name in _roles(path) if name.startswith(f"{role} ")]
    if not names:
        read_curves(path, role)  # it says what there is
    return {name.removeprefix(f"{role} "): read_curves(path, name) for name in names}


def _roles(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(content, dict) or content.get("format") != 1 or not isinstance(content.get("roles"), dict):
        raise ValueError(f"{path} is not a service-time profile of format 1")
    roles: dict[str, Any] = content["roles"]
    return roles


def _named(codes: Iterable[str]) -> str:
    return ", ".join(f"'{code}'" for code in codes)


def _batch_size(text: str, path: Path) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{path} has a batch size '{text}', which is not a whole number of at least 1")
    return int(text)


def _curve(entry: Any, where: str) -> Curve:
    try:
        p = np.asarray(entry["probabilities"], dtype=np.float64)
        seconds = np.asarray(entry["seconds"], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where} lacks a list of numbers 'probabilities' or 'seconds'") from error
    if p.ndim != 1 or p.shape != seconds.shape or len(p) < 2:
        raise ValueError(f"{where} needs as many 'seconds' as 'probabilities', at least two of each")
    if p[0] != 0 or p[-1] != 1 or not (np.diff(p) > 0).all():
        raise ValueError(f"{where} has 'probabilities' that do not increase from 0 to 1")
    if not (np.isfinite(seconds).all() and seconds[0] >= 0 and (np.diff(seconds) >= 0).all()):
        raise ValueError(f"{where} has 'seconds' that are negative or decrease, which no inverse CDF does")
    return Curve(tuple(p.tolist()), tuple(seconds.tolist()))
