"""The frontend's own work in a real run: it gathers and encodes inputs, and decodes lost predictions."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, cast

import numpy as np

from backends.real.clock import RealClock
from backends.real.pool import RealPool
from parity.codes import LinearCode
from sim.cluster import Cluster
from sim.frontend import Frontend
from sim.pool import Pool
from sim.recorder import Recorder
from sim.streams import Streams
from sim.task import RECONSTRUCTION, Batch, Task
from sim.trace import Ints, Role

if TYPE_CHECKING:
    from torch import Tensor

    from backends.real.workers import Values
    from sim.policies.groups import Group

Place = tuple[Role, int]
"""A pool's role and parity row."""


class Payloads:
    """The inputs of one run's queries, and the outputs of their tasks."""

    def __init__(self, images: Tensor, samples: Ints, code: LinearCode | None, r: int) -> None:
        """Let query q carry `images[samples[q]]`; `code` makes the parity queries of its r rows."""
        self.images = images
        self.samples = samples
        self.code = code
        self.r = r
        self.encodes: list[float] = []
        """Seconds that each coding group took to encode."""
        self.decodes: list[float] = []
        """Seconds that each reconstruction took."""
        self._inputs: dict[Task, Values] = {}
        self._encoded: dict[int, Tensor] = {}
        self._outputs: dict[tuple[Place, int], Tensor] = {}

    def prepare(self, place: Place, task: Task) -> None:
        """Make a task's inputs: its queries' samples, or the parity query of its coding group."""
        inputs = self._parity(task.owner, place[1]) if place[0] == Role.PARITY else self._carried(task.owner)
        self._inputs[task] = inputs.numpy()

    def take(self, task: Task) -> Values:
        """Return, once, what `prepare` made."""
        return self._inputs.pop(task)

    def keep(self, place: Place, task: Task, outputs: Values) -> None:
        """Keep a task's flat outputs, which a decoder may need."""
        if self.code is not None:
            import torch

            self._outputs[place, task.owner.number] = torch.from_numpy(outputs).reshape(task.owner.size, -1)

    def decode(self, group: Group, used: int) -> Tensor:
        """Decode a group's predictions, (size, k, classes), from the answers in the bit mask `used`."""
        import torch

        assert self.code is not None
        began = perf_counter()
        k = len(group.batches)
        own: list[Tensor | None] = [
            self._outputs[(Role.DEPLOYED, 0), batch.number] if used >> slot & 1 else None
            for slot, batch in enumerate(group.batches)
        ]
        coded = [
            self._outputs[(Role.PARITY, row), group.number] if used >> (k + row) & 1 else None for row in range(self.r)
        ]
        classes = next(one.shape[1] for one in (*own, *coded) if one is not None)
        outputs = torch.zeros(group.size, k, classes)
        parities = torch.zeros(group.size, self.r, classes)
        for slot, answer in enumerate(own):
            if answer is not None:
                outputs[:, slot] = answer[torch.arange(group.size).clamp(max=len(answer) - 1)]
        for row, answer in enumerate(coded):
            if answer is not None:
                parities[:, row] = answer
        decoded = self.code.decode(outputs, parities, torch.full((group.size,), used))
        self.decodes.append(perf_counter() - began)
        return decoded

    def _carried(self, batch: Batch) -> Tensor:
        return self.images[self.samples[batch.first : batch.first + batch.size]]

    def _parity(self, group: Group, row: int) -> Tensor:
        """Encode a group once for all its rows; a batch too short to have a position gives its last query."""
        assert self.code is not None
        if group.number not in self._encoded:
            began = perf_counter()
            positions = np.arange(group.size)
            members = [batch.first + np.minimum(positions, batch.size - 1) for batch in group.batches]
            queries = self.images[self.samples[np.stack(members, axis=1)]]
            self._encoded[group.number] = self.code.encode(queries, self.r)
            self.encodes.append(perf_counter() - began)
        coded = self._encoded[group.number] if row + 1 < self.r else self._encoded.pop(group.number)
        return coded[:, row].contiguous()


class RealFrontend(Frontend):
    """The simulator's frontend, which decodes reconstructions before it sends them."""

    __slots__ = ("_decoded", "_payloads")

    def __init__(
        self,
        clock: RealClock,
        recorder: Recorder,
        cluster: Cluster,
        streams: Streams,
        pools: Sequence[RealPool],
        payloads: Payloads,
        deadline: float | None,
    ) -> None:
        deployed, *others = cast("list[Pool]", list(pools))  # same interface, no common base class
        super().__init__(clock, recorder, cluster, streams, deployed, others, deadline)
        self._payloads = payloads
        self._decoded = -1

    def answer(self, batch: Batch, route: int, used: int = 0) -> None:
        """Reply to every query of the batch without a reply; a reconstruction decodes its group first."""
        if route == RECONSTRUCTION:
            group = batch.state[0]
            if group.number != self._decoded:
                self._decoded = group.number
                self._payloads.decode(group, used)
                cast(RealClock, self.clock).tick()
        super().answer(batch, route, used)
