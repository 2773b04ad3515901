"""How long queries and replies travel between the frontend and the instances."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, PositiveFloat

from sim.kinds import Options
from sim.trace import Role


class Network(Options):
    """Links of one bandwidth between the frontend and every instance; without `gbps`, transfers take no time."""

    gbps: PositiveFloat | None = None
    """Bandwidth of an instance's link, gigabits per second; without it, bytes are counted but cost no time."""
    latency: NonNegativeFloat = 0.0
    """Seconds that a message takes besides its transmission, one way."""
    overhead: NonNegativeFloat = 0.0
    """Seconds that the frontend takes for a query before it is dispatched (parsing, remote procedure calls). No
    instance is taken meanwhile, and nothing waits for it."""
    query_bytes: int = Field(default=30_000, ge=0)
    """Bytes of one query."""
    parity_bytes: int | None = Field(default=None, ge=0)
    """Bytes of one parity query; the same as `query_bytes` where not given."""
    reply_bytes: int = Field(default=4_000, ge=0)
    """Bytes of one prediction."""

    def bytes_to(self, role: Role) -> int:
        """Return the bytes of one query on its way to a pool of `role`."""
        return self.parity_bytes if role is Role.PARITY and self.parity_bytes is not None else self.query_bytes

    def seconds(self, bytes_each: int, count: int) -> float:
        """Return how long a message with `count` queries or answers travels, one way."""
        return self.latency + (8e-9 * bytes_each * count / self.gbps if self.gbps else 0.0)
