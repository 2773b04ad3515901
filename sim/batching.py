"""How queries form batches: at an instance that takes what waits, or at the frontend before they wait."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from sim.kinds import Kind


class Batching(Kind):
    """How many queries an instance serves together, and where such batches form."""

    family: ClassVar[str] = "batching"

    formed_at: Literal["instance", "frontend"] = "instance"
    """`instance`: an idle instance takes what waits in its queue, up to the size, as in Clipper, Triton and Ray Serve;
    every query is dispatched, answered and coded by itself. `frontend`: the frontend collects a batch before it
    dispatches it, as ParM's artifact does; the batch is dispatched, answered and coded as a whole."""
    max_wait: NonNegativeFloat | None = None
    """Seconds for which a batch may wait to fill, counted from its first query. At an instance 0 if not given: it takes
    at once what waits. At the frontend without limit if not given, but for `aimd` 0.01."""

    @property
    def forms_at_instances(self) -> bool:
        """Whether instances may take more than one task at once."""
        return self.formed_at == "instance"

    @property
    def frontend_wait(self) -> float | None:
        """Seconds for which a batch that forms at the frontend may wait to fill; None: without limit."""
        return self.max_wait

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
    """Queries per batch, at most."""

    @property
    def forms_at_instances(self) -> bool:
        """Whether instances may take more than one task at once."""
        return super().forms_at_instances and self.size > 1

    def start(self) -> BatchSize:
        """Return the constant size."""
        return BatchSize(self.size)


class Aimd(Batching):
    """Sizes by additive increase, multiplicative decrease against a latency objective, as in Clipper; one for each
    model."""

    kind: Literal["aimd"] = "aimd"
    objective: PositiveFloat
    """Seconds that processing a batch may take."""
    increase: PositiveFloat = 1.0
    """Queries by which the size grows after a full batch within the objective."""
    backoff: float = Field(default=0.9, gt=0, lt=1)
    """Factor by which the size shrinks after a batch beyond the objective."""
    max_size: PositiveInt = 64
    """The size never grows beyond this."""

    @property
    def frontend_wait(self) -> float:
        """Seconds for which a batch that forms at the frontend may wait to fill."""
        return 0.01 if self.max_wait is None else self.max_wait

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
