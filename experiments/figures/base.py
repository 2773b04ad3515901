"""What a figure is: a kind that turns the material of a run into a matplotlib figure, or says why it does not apply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from experiments.analysis.outcome import Outcome
from experiments.analysis.reference import Reference
from experiments.analysis.summary import Row
from sim.kinds import Kind

if TYPE_CHECKING:
    import matplotlib.figure

    from experiments.analysis.theory import Theory
    from sim.trace import Trace

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

    def predicted(self, policy: str, point: dict[str, Any]) -> Theory | None:
        """Return what theory says exactly of a policy at a sweep point, or None."""
        return self.theory(policy, point) if self.theory else None

    @property
    def policies(self) -> list[str]:
        """The policies in the order of the YAML."""
        return list(dict.fromkeys(row.policy for row in self.rows))

    @property
    def swept(self) -> list[str]:
        """The swept keys; empty without a sweep."""
        return list(self.rows[0].point) if self.rows else []


class Figure(Kind):
    """A figure of a run, written as PNG and PDF."""

    family: ClassVar[str] = "figure"

    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]+$")
    """File name without its ending; the figure's kind where it is left out."""

    @property
    def stem(self) -> str:
        """The file name without its ending."""
        return self.name or self.name_in_yaml() or self.family

    def reason(self, material: FigureData) -> str | None:
        """Return why the figure cannot be drawn from this material, as a clause, or None where it can."""
        return None if material.rows else "the run has no finished cell"

    def draw(self, material: FigureData) -> matplotlib.figure.Figure | None:
        """Return the figure, or None where `reason` says why it does not apply."""
        from experiments.figures import style

        if self.reason(material) is not None:
            return None
        with style.applied():
            return self._draw(material)

    def _draw(self, material: FigureData) -> matplotlib.figure.Figure:
        raise TypeError(f"{type(self).__name__} does not say how to draw {material.name}")


def spread(count: int, most: int = MOST_PANELS) -> list[int]:
    """Return at most `most` of the indices 0 .. count-1, evenly spaced with both ends."""
    if count <= most:
        return list(range(count))
    return sorted({round(index * (count - 1) / (most - 1)) for index in range(most)})
