"""What a figure is: a kind that turns the material of a run into a matplotlib figure, or says why it does not apply."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from experiments.analysis.outcome import Outcome
from experiments.analysis.reference import Reference
from experiments.analysis.summary import Row
from experiments.figures.style import Look, Page, looks, palette
from sim.errors import ParmError
from sim.kinds import Kind, find_file

if TYPE_CHECKING:
    import matplotlib.figure

    from experiments.analysis.theory import Theory
    from sim.trace import Trace

Inches = Annotated[float, Field(ge=1, le=50)]
UNITS = {"s": 1000.0, "ms": 1.0, "us": 0.001, "µs": 0.001}
_TIME = re.compile(r"([0-9]*\.?[0-9]+) *(s|ms|us|µs)")
MOST_PANELS = 9
"""A figure with more panels than this shows some of them, evenly spread over the sweep."""


@dataclass(frozen=True)
class FigureData:
    """What figures are drawn from. Policies keep the order of `rows` and with it their colours."""

    rows: Sequence[Row]
    """The summary, latencies in ms."""
    outcomes: Sequence[Outcome] = field(default=())
    """The cells' outcomes, with their quantiles in seconds."""
    trace: Callable[[Outcome], Trace | None] | None = None
    """Loads a cell's trace; None, or returning None, where traces were not kept."""
    name: str = ""
    """The experiment's name, for titles."""
    references: Sequence[Reference] = ()
    """Numbers that others measured, latencies in ms."""
    theory: Callable[[str, dict[str, Any]], Theory | None] | None = None
    """What theory says exactly of a policy at a sweep point; None, or returning None, where it says nothing."""

    coloured: Sequence[str] = ()
    """All policies of the run, which decide the colours; those of `rows` where it is empty."""

    coloured_kinds: Sequence[str] = ()
    """The same for figures that colour by the policies' kinds."""

    simulated: Callable[[Outcome], Trace | None] | None = None
    """The same, simulating a cell again whose trace was not kept; None for times that were measured."""

    def of(self, policies: Sequence[str] | None) -> FigureData:
        """Return the material of these policies in this order, or all of it.

        Raises ParmError where one of them is not in the run.
        """
        if policies is None:
            return self
        unknown = [policy for policy in policies if policy not in self.policies]
        if unknown and self.rows:
            raise ParmError(f"there is no policy '{unknown[0]}'; there are {', '.join(self.policies)}")
        points = list(dict.fromkeys(row.point_key for row in self.rows))
        place = {policy: index for index, policy in enumerate(policies)}
        return replace(
            self,
            rows=sorted(
                (row for row in self.rows if row.policy in place),
                key=lambda row: (points.index(row.point_key), place[row.policy]),
            ),
            outcomes=sorted((one for one in self.outcomes if one.policy in place), key=lambda one: place[one.policy]),
            coloured=self.coloured or self.policies,
            coloured_kinds=self.coloured_kinds or self.kinds,
        )

    def predicted(self, policy: str, point: dict[str, Any]) -> Theory | None:
        """Return what theory says exactly of a policy at a sweep point, or None."""
        return self.theory(policy, point) if self.theory else None

    @property
    def policies(self) -> list[str]:
        """The policies in the order of the YAML."""
        return list(dict.fromkeys(row.policy for row in self.rows))

    @property
    def kinds(self) -> list[str]:
        """The policies' kinds in the order of the YAML."""
        return list(dict.fromkeys(row.kind for row in self.rows))

    @property
    def swept(self) -> list[str]:
        """The swept keys; empty without a sweep."""
        return list(self.rows[0].point) if self.rows else []


WIDTHS = {"column": 3.35, "text": 5.5, "full": 7.0}
"""Inches: one column of a two-column page, the text of a one-column page, both columns."""
SMALL = 8.0
"""Points of labels in a figure as wide as a column."""


class Figure(Kind):
    """A figure of a run, written as PNG and PDF."""

    family: ClassVar[str] = "figure"
    has_latency_axis: ClassVar[bool] = True
    """Whether an SLO can be drawn in it."""

    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]+$")
    """File name without its ending; the figure's kind where it is left out."""
    width: Literal["column", "text", "full"] | None = None
    """How wide it is in a paper: a column (3.35 inches), the text of a one-column page (5.5), both columns (7)."""
    size: tuple[Inches, Inches] | None = None
    """Width and height in inches, instead of `width`."""
    formats: tuple[Literal["png", "pdf", "svg"], ...] = Field(default=("png", "pdf"), min_length=1)
    """Files to write."""
    font: str | None = None
    """Font family that is installed, such as Times New Roman, or `serif`; DejaVu Sans where it is left out."""
    font_size: float | None = Field(default=None, ge=4, le=40)
    """Points of the axes' labels, other text in proportion; 9 where it is left out, 8 with `width: column`."""
    title: bool = True
    """Whether the headline and the small print are drawn; without them, the run prints them for the caption."""
    style: Path | None = None
    """A matplotlib style sheet (.mplstyle), applied over the figure's own style."""
    slo: str | None = None
    """A latency that is promised, such as 50ms, drawn as a line."""
    policies: tuple[str, ...] | None = Field(default=None, min_length=1)
    """The policies to draw, in this order; all where it is left out. Each keeps its colour."""

    @field_validator("style")
    @classmethod
    def _find_style(cls, style: Path | None, info: ValidationInfo) -> Path | None:
        if style is None:
            return None
        from experiments.figures.style import read_sheet

        found = find_file(style, info.context)
        try:
            read_sheet(found)
        except ParmError as error:
            raise ValueError(str(error)) from error
        return found

    @field_validator("slo", mode="before")
    @classmethod
    def _slo_is_a_time(cls, slo: Any) -> Any:
        if slo is None:
            return None
        if not cls.has_latency_axis:
            raise ValueError(f"{cls.name_in_yaml()} has no axis of latencies to draw it on")
        if not isinstance(slo, str) or not _TIME.fullmatch(slo) or not _milliseconds(slo) > 0:
            raise ValueError(f"must be a time above 0 with its unit (s, ms or us), such as 50ms, but is '{slo}'")
        return slo

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.size is not None and self.width is not None:
            raise ValueError("'width' and 'size' both say how wide it is: leave one out")
        if self.policies is not None and len(set(self.policies)) < len(self.policies):
            raise ValueError("'policies' names one twice")
        return self

    @property
    def stem(self) -> str:
        """The file name without its ending."""
        return self.name or self.name_in_yaml() or self.family

    @property
    def page(self) -> Page:
        """How large the figure and its letters are."""
        width, height = self.size or (WIDTHS.get(self.width or ""), None)
        points = self.font_size or (SMALL if self.width == "column" else None)
        return Page(width, height, self.title, self.font, points, self.style)

    @property
    def slo_ms(self) -> float | None:
        """The SLO in ms, if there is one."""
        return None if self.slo is None else _milliseconds(self.slo)

    def reason(self, material: FigureData) -> str | None:
        """Return why the figure cannot be drawn from this material, as a clause, or None where it can."""
        return None if material.rows else "the run has no finished cell"

    def draw(self, material: FigureData) -> matplotlib.figure.Figure | None:
        """Return the figure, or None where `reason` says why it does not apply.

        Raises ParmError where the run has no such policies, or the figure is too small.
        """
        from experiments.figures import style

        material = material.of(self.policies)
        if self.reason(material) is not None:
            return None
        with style.applied(self.page):
            return self._draw(material)

    def looks(self, material: FigureData) -> dict[str, Look]:
        """Return how the policies of `material` are drawn."""
        every = looks(material.coloured or material.policies, palette(self.page))
        return {policy: every[policy] for policy in material.policies}

    def _draw(self, material: FigureData) -> matplotlib.figure.Figure:
        raise TypeError(f"{type(self).__name__} does not say how to draw {material.name}")


def _milliseconds(time: str) -> float:
    found = _TIME.fullmatch(time)
    assert found is not None
    return float(found[1]) * UNITS[found[2]]


def spread(count: int, most: int = MOST_PANELS) -> list[int]:
    """Return at most `most` of the indices 0 .. count-1, evenly spaced with both ends."""
    if count <= most:
        return list(range(count))
    return sorted({round(index * (count - 1) / (most - 1)) for index in range(most)})
