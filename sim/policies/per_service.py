"""A redundancy policy for each of several services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sim.policies.base import Execution, Policy, PoolPlan

if TYPE_CHECKING:
    from sim.cluster import Cluster
    from sim.frontend import Frontend


class PerService(Policy):
    """Another policy for each service, such as coding for the one that is urgent and none for the other."""

    kind: Literal["per_service"] = "per_service"
    services: dict[str, Policy] = Field(min_length=1)
    """The policy of each service, by the service's name."""

    def of(self, service: str) -> Policy:
        """Return the service's policy, under this one's name. Raises ValueError where it has none."""
        if service not in self.services:
            raise ValueError(f"gives service '{service}' no policy")
        return self.services[service].model_copy(update={"name": self.label})

    def pools(self, cluster: Cluster) -> list[PoolPlan]:
        """Raise ValueError: it is each service's policy that has pools."""
        raise ValueError("gives each of several 'services' a policy, but there are none")

    def begin(self, frontend: Frontend) -> Execution:
        """Raise ValueError, likewise."""
        raise ValueError("gives each of several 'services' a policy, but there are none")
