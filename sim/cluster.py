"""The serving cluster: the `cluster` section of an experiment's YAML."""

from __future__ import annotations

import math

from pydantic import Field, NonNegativeFloat, PositiveFloat, field_validator

from sim.batching import Batching, Fixed
from sim.dispatching import Discipline, SingleQueue
from sim.distributions import Distribution
from sim.distributions.combined import Scaled
from sim.distributions.families import Deterministic
from sim.kinds import Options
from sim.network import Network
from sim.scalers import Scaler
from sim.trace import Role

MOST_INSTANCES = 100_000
"""More instances than this are a mistake; each of them takes memory."""


class Prices(Options):
    """Price of an instance by the model that it serves, in any unit, such as dollars per hour."""

    deployed: PositiveFloat = 1.0
    """An instance that serves the deployed model."""
    parity: PositiveFloat = 1.0
    """An instance that serves a parity model."""
    backup: PositiveFloat = 1.0
    """An instance that serves the backup model, which may run on a smaller machine."""

    def of(self, role: Role) -> float:
        """Return the price of an instance of `role`."""
        return {Role.PARITY: self.parity, Role.BACKUP: self.backup}.get(role, self.deployed)


class Cluster(Options):
    """Instances, their service times, their queues, and the network between them and the frontend."""

    instances: int = Field(ge=1, le=MOST_INSTANCES)
    """Instances that serve the deployed model (m)."""
    extra: int = Field(default=0, ge=0, le=MOST_INSTANCES)
    """Budget for redundancy, in instances of the deployed model; each policy spends it in its own way."""
    launched: int | None = Field(default=None, ge=1, le=MOST_INSTANCES)
    """Machines that run, whether the policy uses them or not: bulk traffic and second services touch those that it does
    not use as well, while it does not pay for them. As many as it uses where not given."""
    prices: Prices = Prices()
    """Prices of instances. With `equal_cost: price` the budget buys more instances of a cheaper kind."""
    service: Distribution
    """Seconds that the deployed model takes for a batch of one."""
    parity_service: Distribution | None = None
    """Seconds that a parity model takes for a batch of one; as `service` where not given."""
    backup_service: Distribution | None = None
    """Seconds that an approximate backup's model takes for a batch of one; as `service` where not given."""
    batch_cost: NonNegativeFloat = 1.0
    """Service time of each further query of a batch, as a share of a batch of one. Not used where a profile has
    measured times."""
    queue: Discipline = SingleQueue()
    """Where tasks wait."""
    batching: Batching = Fixed()
    """How the frontend forms batches."""
    network: Network = Network()
    """The network between the frontend and the instances."""
    encode: Distribution = Deterministic(value=0.0)
    """Seconds that the frontend takes to make a coding group's parity queries; nothing else waits for it. A profile
    that names no code gives the time of each policy's own code."""
    decode: Distribution = Deterministic(value=0.0)
    """Seconds that the frontend takes to reconstruct a coding group's predictions; likewise."""
    scaler: Scaler | None = None
    """When instances are added and removed during a run; never where not given. `instances` are those at the start."""
    deadline: PositiveFloat | None = None
    """Seconds after its arrival at which a query without a reply gets a default answer; never where not given."""

    @field_validator("service", "parity_service", "backup_service")
    @classmethod
    def _complete(cls, service: Distribution | None) -> Distribution | None:
        """Reject times that depend on a policy's code: only `encode` and `decode` may."""
        if service is not None:
            service.mean()
        return service

    def buys(self, role: Role, budget: float | None = None) -> int:
        """Return how many instances of `role` can be bought with `budget` (instances of the deployed model); by default
        with `extra`."""
        spend = (self.extra if budget is None else budget) * self.prices.deployed
        return math.floor(spend / self.prices.of(role) + 1e-9)  # 3 x 0.1 / 0.1 is not quite 3

    def for_code(self, code: str | None) -> Cluster:
        """Return the cluster with the encoding and decoding times of `code`, such as 'addition k=2 r=1'.

        Raises ValueError, in one sentence, where a profile does not have them.
        """
        return self.model_copy(update={"encode": self.encode.for_code(code), "decode": self.decode.for_code(code)})

    def service_of(self, role: Role, size: int) -> Distribution:
        """Return the service time of a batch of `size` queries at an instance of `role`."""
        own = {Role.PARITY: self.parity_service, Role.BACKUP: self.backup_service}.get(role)
        one = self.service if own is None else own
        measured = one.at_batch(size)
        if measured is not None or size == 1:
            return measured or one
        return Scaled(of=one, factor=1.0 + self.batch_cost * (size - 1))
