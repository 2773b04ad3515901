"""Hardware in the loop: every task of a simulation runs on the device when it starts; its service time is measured.

Tasks overlap on the simulated clock, but run one after the other here, each with the whole device to itself. Their
outputs are kept, so that the clients' answers need no second pass.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from backends.answers import HELD, Answers, check_finite, collect, held_queries, in_top, reconstruct, top_answer
from backends.contention import contending
from backends.reconstruction import Words, reconstructed_words
from backends.torch_backend import TorchBackend
from parity.codes.base import Coder
from sim.policies.groups import Group
from sim.stragglers.base import ServiceModifier
from sim.task import Batch, Task
from sim.trace import Ints, Role, Route, Trace

WARM_UP = 3
"""Passes that are discarded before a model's first task of each size, since a device sets some things up only once."""


class HardwareInTheLoop:
    """Runs the tasks of one cell. Give `modifier` to `simulate` as its `hardware`, then ask for the `answers`.

    A service is what `TorchBackend.serve` times: the forward pass over the batch as it is, and the copy of its outputs
    from the device. The queries are on the device already, and encoding them is the frontend's work: neither is part of
    the measured time, nor is the second, padded pass that gives tiny batches the same bits as deferred answers.

    Of a task only its outputs are kept. One object serves one simulation.
    """

    def __init__(
        self,
        backend: TorchBackend,
        deployed: nn.Module,
        images: Tensor,
        labels: NDArray[np.int64],
        samples: Ints,
        *,
        default_answer: int,
        code: Coder | None = None,
        parities: Sequence[nn.Module] = (),
        backup: nn.Module | None = None,
        contention: int = 0,
    ) -> None:
        """Let query q carry test sample `samples[q]`; the other arguments are as in `backends.answers.Predictor`.

        `parities` holds one module per parity row, `backup` is the approximate backup. For a code that needs no parity
        models the deployed model runs in their place, for its time; the answers are then the code's `targets`.
        `contention` processes keep the device busy with the deployed model from the first task until the answers are
        asked for.
        """
        self.backend = backend
        self.deployed = deployed
        self.images = backend.place(images)
        self.labels = labels
        self.samples = samples
        self.default_answer = default_answer
        self.code = code
        self.parities = tuple(parities)
        self.backup = backup
        self.contention = contention
        self._interference = contextlib.ExitStack()
        weakref.finalize(self, self._interference.close)  # where a simulation fails, `answers` is never called
        self._rows = 0
        """Parity rows that have a pool; the simulation launches all pools before it starts a task."""
        self._outputs: dict[tuple[Role, int], dict[int, Tensor]] = {}
        """By model, then by the owner's number: what its latest task answered, float32 (size, classes)."""
        self._passes = {"deployed": 0, "parity": 0, "backup": 0}

    def modifier(self, role: Role, row: int) -> ServiceModifier:
        """Return what runs the tasks of the pool of `role` and parity row `row`, in place of drawn service times.

        Raises ValueError where there is no model for that pool or it has been asked for before, and, in the simulation,
        ParmError where a model answers NaN.
        """
        if (role, row) in self._outputs:
            raise ValueError("the hardware of one simulation was given to another: make one for each")
        module = self._module(role, row)
        if role == Role.PARITY:
            self._rows = max(self._rows, row + 1)
        else:
            self.backend.settle(module, lambda: self.images[:HELD])
        done = self._outputs[role, row] = {}
        name = role.name.lower()
        warm: set[int] = set()

        def run(task: Task, _instance: int, _start: float, _seconds: float) -> float:
            owner = task.owner
            if self.contention:
                self._interfere(owner.size)
            inputs = self._parity_queries(owner, row) if role == Role.PARITY else self._queries(owner)
            if owner.size not in warm:
                warm.add(owner.size)
                if role == Role.PARITY:
                    self.backend.settle(module, lambda: self._held(len(owner.batches))[:, row])
                for _ in range(WARM_UP):
                    self.backend.serve(module, inputs)
            outputs, seconds = self.backend.serve(module, inputs)
            if not outputs.isfinite().all() and self.backend.distrust_half(module):
                warm.clear()
                return run(task, _instance, _start, _seconds)
            check_finite(outputs, name)
            self._passes[name] += owner.size
            done[owner.number] = outputs
            return seconds

        return run

    def answers(self, trace: Trace) -> Answers:
        """Return what each client of `trace`, which this hardware served, received, from the outputs of its tasks.

        `passes` counts the samples of every task that ran, retries and replicas too, but no warm-up, and those samples
        that ran nowhere and that `agrees` needs nevertheless. Raises ValueError where the trace is another
        simulation's, ParmError where a reconstruction is not finite.
        """
        self._interference.close()
        route, labels = trace.queries.route, self.labels[self.samples]
        ran = self._ran(trace)
        missing = np.setdiff1d(self.samples, self.samples[ran])
        passes = self._passes | {"deployed": self._passes["deployed"] + len(missing)}
        reused = {"deployed": len(np.setdiff1d(self.samples[~ran], missing)), "parity": 0, "backup": 0}

        computed = self._deployed_outputs(missing)
        returned = self._returned(trace, Role.DEPLOYED, computed.shape[1])
        by_sample = torch.full((len(self.labels), computed.shape[1]), torch.nan)
        by_sample[torch.from_numpy(missing)] = computed
        by_sample[torch.from_numpy(self.samples[ran])] = returned[torch.from_numpy(ran)]
        own = by_sample[torch.from_numpy(self.samples)]

        answered = returned.clone()
        by_backup = torch.from_numpy(route == Route.BACKUP)
        answered[by_backup] = self._returned(trace, Role.BACKUP, computed.shape[1])[by_backup]
        words = reconstructed_words(trace)
        if len(words):
            assert self.code is not None  # else no parity pool could have been launched
            members, word = torch.from_numpy(words.members), torch.from_numpy(words.word)
            if self.code.answered_by != "oracle":
                parity = self._parity_outputs(trace, words)
                reused["parity"] = words.reused(trace.k, trace.r)
            else:
                parity = self.code.targets(own[members], trace.r)
            # On the device, where the code's trained decoders are.
            own_answers, used = self.backend.place(returned[members[word]]), torch.from_numpy(words.used)
            there, slot = self.backend.place_indices([words.used, words.slot])
            lost = reconstruct(self.code, own_answers, self.backend.place(parity[word]), used, there, slot).cpu()
            check_finite(lost, "reconstruction")
            answered[torch.from_numpy(words.query)] = lost

        by_default = torch.from_numpy(route == Route.DEFAULT)
        answer = top_answer(answered).masked_fill(by_default, self.default_answer)
        top5 = in_top(answered, torch.from_numpy(labels))
        answers, _ = collect(answer, top5, top_answer(own), torch.from_numpy(labels), by_default, [], passes, reused)
        return answers

    def _interfere(self, size: int) -> None:
        """Start the processes that contend for the device."""
        count, self.contention = self.contention, 0
        batch = (size, *self.images.shape[1:])
        self._interference.enter_context(contending(count, self.deployed, batch, self.backend))

    def _deployed_outputs(self, samples: Ints) -> Tensor:
        """Return what the deployed model answers to samples of the test set, (n, classes)."""
        outputs = self.backend.predict_samples(self.deployed, self.images, torch.from_numpy(samples))
        if not outputs.isfinite().all() and self.backend.distrust_half(self.deployed):
            return self._deployed_outputs(samples)
        check_finite(outputs, "deployed")
        return outputs

    def _module(self, role: Role, row: int) -> nn.Module:
        if role == Role.DEPLOYED:
            return self.deployed
        if role == Role.BACKUP and self.backup is not None:
            return self.backup
        if role == Role.PARITY and self.code is not None:
            if self.code.answered_by == "oracle":
                return self.deployed
            if row < len(self.parities):
                return self.parities[row]
        raise ValueError(f"a pool of role {role.name.lower()}, row {row}, has no model: none was given for it")

    def _queries(self, batch: Batch) -> Tensor:
        """Return what the batch's queries carry, (size, *shape)."""
        return self._carried(np.arange(batch.first, batch.first + batch.size))

    def _parity_queries(self, group: Group, row: int) -> Tensor:
        """Encode the group by position, (size, *shape); a batch too short to have one gives its last query."""
        assert self.code is not None
        positions = np.arange(group.size)
        members = [batch.first + np.minimum(positions, batch.size - 1) for batch in group.batches]
        return self.code.encode(self._carried(np.stack(members, axis=1)), self._rows)[:, row]

    def _held(self, k: int) -> Tensor:
        assert self.code is not None
        return held_queries(self.code, self.images, k, self._rows)

    def _carried(self, queries: Ints) -> Tensor:
        return self.images[torch.from_numpy(self.samples[queries]).to(self.images.device)]

    def _ran(self, trace: Trace) -> NDArray[np.bool_]:
        """Return for which queries the deployed model ran. Raises ValueError if the trace is of another simulation."""
        batches, queries = trace.batches, trace.queries
        ours, ran = len(self.samples) == len(queries), {}
        for role, routes in ((Role.DEPLOYED, (Route.OWN, Route.REPLICA)), (Role.BACKUP, (Route.BACKUP,))):
            done = self._outputs.get((role, 0), {})
            ours &= all(
                number < len(batches) and len(outputs) == batches.size[number] for number, outputs in done.items()
            )
            ran[role] = np.isin(queries.batch, list(done))
            ours &= not (np.isin(queries.route, routes) & ~ran[role]).any()
        if not ours:
            raise ValueError("the trace is not of the simulation that this hardware was in the loop of")
        return ran[Role.DEPLOYED]

    def _returned(self, trace: Trace, role: Role, classes: int) -> Tensor:
        """Return the deployed or the backup model's outputs by query, (queries, classes); NaN where it did not run."""
        result = torch.full((len(trace.queries), classes), torch.nan)
        for number, outputs in self._outputs.get((role, 0), {}).items():
            first = trace.batches.first[number]
            result[first : first + len(outputs)] = outputs
        return result

    def _parity_outputs(self, trace: Trace, words: Words) -> Tensor:
        """Return the parity tasks' outputs at the words' positions, (w, r, p); NaN where unused."""
        ran = (outputs for row in range(trace.r) for outputs in self._outputs[Role.PARITY, row].values())
        result = torch.full((len(words), trace.r, next(ran).shape[1]), torch.nan)  # without one, nothing was decoded
        groups, positions = trace.group[words.query].tolist(), trace.position[words.query].tolist()
        for row in range(trace.r):
            done, needed = self._outputs[Role.PARITY, row], words.needing(row)
            for word, group, position in zip(words.word.tolist(), groups, positions, strict=True):
                if needed[word]:
                    result[word, row] = done[group][position]
        return result
