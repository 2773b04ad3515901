"""The steps of a training, epoch by epoch; on CUDA, where a recipe asks for it, recorded once and replayed."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from parity.capture import capture
from parity.objectives import Objective
from parity.recipes import Recipe


def prepare(module: nn.Module, recipe: Recipe) -> None:
    """Lay the module's weights out, and have it compiled if the recipe asks for it, before its optimiser is made."""
    # With fewer than 16 channels torch 2.14's backward pass on several CPU threads crashes for some odd batches.
    if min((one.out_channels for one in module.modules() if isinstance(one, nn.Conv2d)), default=0) >= 16:
        module.to(memory_format=torch.channels_last)
    if recipe.compiled:
        module.compile()


class Steps:
    """Changes a module by an optimiser's steps, without ever waiting for the device within an epoch."""

    def __init__(
        self, module: nn.Module, objective: Objective, recipe: Recipe, optimiser: Optimizer, batch: int
    ) -> None:
        """Take `batch` of the objective's rows in a step, or a few less.

        Where steps are to be recorded, the optimiser's learning rates become tensors on the device.
        """
        self.module, self.objective, self.recipe = module, objective, recipe
        self.optimiser, self.batch = optimiser, batch
        self.device = next(module.parameters()).device
        self.recorded = bool(recipe.graphed) and self.device.type == "cuda"
        """Whether steps are recorded as CUDA graphs."""
        self.refused = ""
        """Why they are not although the recipe asks for it."""
        if self.recorded and not all("capturable" in group for group in optimiser.param_groups):
            self._refuse(f"{type(optimiser).__name__} counts its steps on the host")
        if self.recorded:
            cuda: Any = torch.cuda
            self._stream = cuda.Stream(self.device)
            for group in optimiser.param_groups:  # a number would be recorded as it is
                group["lr"] = torch.tensor(float(group["lr"]), device=self.device)

    def epoch(self, number: int, generator: Generator) -> float:
        """Pass over all rows once, in epoch `number` (from 0); return the mean loss, which waits for the device."""
        self.module.train()
        rows = self.objective.rows(generator)
        if not self.recorded:
            return self._pass(number, rows, generator)
        cuda: Any = torch.cuda
        self._stream.wait_stream(cuda.current_stream(self.device))
        with cuda.stream(self._stream):
            return self._pass(number, rows, generator)

    def _pass(self, number: int, rows: Tensor, generator: Generator) -> float:
        steps = math.ceil(len(rows) / self.batch)
        losses = []
        # Recordings last for an epoch: the next one has another generator, and may have another view of the images.
        recordings: dict[torch.Size, _Recording | None] = {}
        # Steps of nearly equal size: a last one of a row or two would be noise, and batch norm cannot take one row.
        for step, part in enumerate(rows.tensor_split(steps)):
            self._set_rate(self.recipe.rate((number + step / steps) / self.recipe.epochs))
            losses.append(self._replayed(part, generator, recordings) if self.recorded else self._step(part, generator))
        return float(torch.stack(losses).mean())  # after which the device is done with the recordings

    def _set_rate(self, rate: float) -> None:
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _step(self, rows: Tensor, generator: Generator) -> Tensor:
        """Take one step; return its loss."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.mixed):
            loss = self.objective.loss(self.module, rows, generator)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return loss.detach()

    def _replayed(self, rows: Tensor, generator: Generator, recordings: dict[torch.Size, _Recording | None]) -> Tensor:
        """Take one step: the first of a size as it is, which chooses kernels and makes workspaces, others recorded."""
        if rows.shape not in recordings:
            recordings[rows.shape] = None
            return self._step(rows, generator)
        recording = recordings[rows.shape]
        if recording is None:
            pool = next((one.graph.pool() for one in recordings.values() if one), None)
            try:
                recording = recordings[rows.shape] = self._record(rows, generator, pool)
            except RuntimeError as error:
                self._refuse(str(error))
                return self._step(rows, generator)
        return recording(rows)

    def _record(self, rows: Tensor, generator: Generator, pool: Any) -> _Recording:
        held = rows.clone()
        for group in self.optimiser.param_groups:
            group["capturable"] = True
        try:
            return _Recording(held, *capture(lambda: self._step(held, generator), self._stream, pool, [generator]))
        finally:
            for group in self.optimiser.param_groups:
                group["capturable"] = False

    def _refuse(self, reason: str) -> None:
        self.recorded, self.refused = False, reason


class _Recording:
    """A step that was recorded."""

    def __init__(self, rows: Tensor, loss: Tensor, graph: Any) -> None:
        self.rows, self.loss, self.graph = rows, loss, graph

    def __call__(self, rows: Tensor) -> Tensor:
        self.rows.copy_(rows)
        self.graph.replay()
        return self.loss.clone()
