"""How many queries the frontend sends together."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from sim.kinds import Kind


class Batching(Kind):
    """How the frontend forms batches. A batch that cannot fill, at the end of the run, is sent as it is."""

    family: ClassVar[str] = "batching"

    max_wait: NonNegativeFloat | None = None
    """Seconds from a batch's first query until it is sent though it is not full; without it, it waits to fill."""

    @abstractmethod
    def start(self) -> BatchSize:
        """Return the state for one simulation."""


class BatchSize:
    """The current batch size `now`; constant in this class."""

    __slots__ = ("now",)

    def __init__(self, size: int) -> None:
        self.now = size

    adapts: ClassVar[bool] = False

    def processed(self, size: int, seconds: float) -> None:
        """Called when a batch of `size` took `seconds` from start to answer."""


class Fixed(Batching):
    """Batches of one size."""

    kind: Literal["fixed"] = "fixed"
    size: PositiveInt = 1
    """Queries per batch."""

    def start(self) -> BatchSize:
        """Return the constant size."""
        return BatchSize(self.size)


class Aimd(Batching):
    """Additive increase, multiplicative decrease against a latency objective, as Clipper does."""

    kind: Literal["aimd"] = "aimd"
    objective: PositiveFloat
    """Seconds that processing a batch may take."""
    increase: PositiveFloat = 1.0
    """Queries by which the size grows after a full batch within the objective."""
    backoff: float = Field(default=0.9, gt=0, lt=1)
    """Factor by which the size shrinks after a batch beyond the objective."""
    max_size: PositiveInt = 64
    """The size never grows beyond this."""
    max_wait: NonNegativeFloat | None = 0.01

    def start(self) -> BatchSize:
        """Return a size that starts at one and follows the objective."""
        return AdaptiveSize(self)


class AdaptiveSize(BatchSize):
    """Clipper's rule (Crankshaw et al., NSDI 2017, section 4.3.1)."""

    __slots__ = ("_exact", "_options")

    adapts = True

    def __init__(self, options: Aimd) -> None:
        super().__init__(1)
        self._options = options
        self._exact = 1.0

    def processed(self, size: int, seconds: float) -> None:
        """Shrink after a batch beyond the objective, grow after a full one within it."""
        options = self._options
        if seconds > options.objective:
            self._exact = max(1.0, self._exact * options.backoff)
        elif size >= self.now:
            self._exact = min(float(options.max_size), self._exact + options.increase)
        self.now = int(self._exact)
