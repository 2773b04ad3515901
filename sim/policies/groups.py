"""Coding groups: their batches, which answers are back, and what these determine.

Source: Kosaian, Rashmi, Venkataraman, "Parity Models", SOSP 2019, section 3, and its artifact for what is removed when.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from sim.clock import Call
from sim.code import Code, any_k_suffice
from sim.policies.base import Execution
from sim.streams import Stream
from sim.task import OWN, RECONSTRUCTION, Batch, Task

if TYPE_CHECKING:
    from sim.frontend import Frontend


class Group:
    """One coding group."""

    __slots__ = ("batches", "first", "number", "parities", "returned", "settled", "size", "tasks", "unanswered", "used")

    def __init__(self, number: int) -> None:
        self.number = self.first = number
        self.size = 0
        """Queries of a parity batch: as many as in the group's largest batch."""
        self.batches: list[Batch] = []
        self.tasks: list[Task] = []
        self.parities: list[Task] = []
        self.returned = 0
        """Answers that are back: bit i for slot i, bit k + j for parity row j."""
        self.unanswered = 0
        self.used = 0
        """The answers that are being decoded, 0 before that."""
        self.settled = False
        """The group is complete and every query of it has a reply."""


class CodedExecution(Execution):
    """A batch's state is (its group, its slot)."""

    __slots__ = (
        "_answer",
        "_decode",
        "_encode",
        "_group",
        "_groups",
        "_k",
        "_own",
        "_parity_pools",
        "_r",
        "_sufficient",
    )

    LATER_COPY: ClassVar[int] = OWN
    """The route of a prediction by another task than the batch's first; here a retry of a lost one."""

    def __init__(self, frontend: Frontend, k: int, r: int, code: Code | None) -> None:
        super().__init__(frontend)
        self._k = k
        self._r = r
        self._own = (1 << k) - 1
        self._sufficient = code.sufficient if code else any_k_suffice
        self._answer = frontend.answer
        self._parity_pools = frontend.others[:r]
        self._encode: Stream | None = frontend.delay("encode")
        self._decode: Stream | None = frontend.delay("decode")
        self._groups = 0
        self._group = Group(0)

    def dispatched(self, batch: Batch) -> None:
        """Submit the batch's task, and encode if it completes a group. No task waits for encoding."""
        group = self._group
        slot = len(group.batches)
        task = self._first_task(batch, group, slot)
        group.batches.append(batch)
        group.tasks.append(task)
        group.unanswered += 1
        self.frontend.deployed.submit(task)
        if slot + 1 == self._k:
            self._complete(group)

    def _first_task(self, batch: Batch, group: Group, slot: int) -> Task:
        batch.state = (group, slot)
        return Task(batch)

    def _complete(self, group: Group) -> None:
        self._groups += 1
        self._group = Group(self._groups)
        if self._encode is None:
            self._submit_parities(group)
        else:
            clock = self.frontend.clock
            clock.at(clock.now + self._encode.at(group.number), Call(self._encoded, group))

    def _encoded(self, call: Call) -> None:
        self._submit_parities(call.item)

    def _submit_parities(self, group: Group) -> None:
        if not group.unanswered:
            self._settle(group)
            return
        group.size = max(batch.size for batch in group.batches)
        for pool in self._parity_pools:
            task = Task(group)
            group.parities.append(task)
            pool.submit(task)

    def done(self, task: Task) -> None:
        """Reply with a batch's own prediction, and reconstruct as soon as the answers suffice."""
        owner = task.owner
        if isinstance(owner, Group):
            group = owner
            if group.settled:
                return
            group.returned |= 1 << self._k + group.parities.index(task)
        else:
            group = owner.state[0]
            if group.settled:
                return
            group.returned |= 1 << owner.state[1]
            if not owner.answered:
                self._answer(owner, OWN if task.attempt == 0 else self.LATER_COPY)
                group.unanswered -= 1
        if not group.unanswered:
            if len(group.batches) == self._k:
                self._settle(group)
        elif group.returned > self._own and not group.used and self._sufficient(self._k, self._r, group.returned):
            group.used = group.returned
            if self._decode is None:
                self._reconstruct(group)
            else:
                clock = self.frontend.clock
                clock.at(clock.now + self._decode.at(group.number), Call(self._decoded, group))

    def _decoded(self, call: Call) -> None:
        if not call.item.settled:
            self._reconstruct(call.item)

    def _reconstruct(self, group: Group) -> None:
        for batch in group.batches:
            if not batch.answered:
                self._answer(batch, RECONSTRUCTION, group.used)
        group.unanswered = 0
        self._settle(group)

    def _settle(self, group: Group) -> None:
        """Remove queued tasks, which are not needed any more; running ones are not stopped."""
        group.settled = True
        for task in group.tasks:
            self.frontend.deployed.cancel(task)
        for pool, task in zip(self._parity_pools, group.parities, strict=False):
            pool.cancel(task)
        group.batches, group.tasks, group.parities = [], [], []  # breaks reference cycles

    def lost(self, task: Task) -> None:
        """Submit a lost task again while any query of its group has no reply, since any answer may help."""
        owner = task.owner
        group = owner if isinstance(owner, Group) else owner.state[0]
        if group.settled or not (group.unanswered or group is self._group):
            return
        retry = Task(owner, task.attempt + 1)
        if isinstance(owner, Group):
            row = group.parities.index(task)
            group.parities[row] = retry
            self._parity_pools[row].submit(retry)
        else:
            group.tasks[owner.state[1]] = retry
            self.frontend.deployed.submit(retry)

    def expired(self, batch: Batch) -> None:
        """Settle the group if this was its last unanswered batch; otherwise the batch's answer may still help."""
        self._one_less(batch.state[0])

    def _one_less(self, group: Group) -> None:
        group.unanswered -= 1
        if not group.unanswered and len(group.batches) == self._k and not group.settled:
            self._settle(group)
