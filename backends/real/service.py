"""What a worker of a real pool does with a task: a forward pass of a network."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backends.real.workers import Service, Values
from parity.networks import Network
from parity.shape import Shape

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]
"""`draw(generator, n)`: n times in seconds."""

WARM_UP = 20
"""Passes of each model before a worker is ready."""
_DRAWN = 1024
"""Times that are drawn at once."""


@dataclass(frozen=True)
class NetworkService:
    """The setup of workers that run networks with untrained weights, whose speed is that of trained ones.

    Each worker runs on one thread, so that a worker is one core's worth of a machine and no more.
    """

    networks: tuple[Network, ...]
    """By the number of the model."""
    shape: Shape
    """Of one sample."""
    outputs: int
    """Classes."""
    device: str = "cpu"
    emulated: tuple[Draw, ...] = ()
    """By the number of the model: the time of a pass on an emulated device. The pass is run, and the worker sleeps for
    the rest of the time, which leaves its core to others. Empty: nothing is emulated."""
    seed: int = 0
    """Of the weights and of the emulated times."""

    def __call__(self, worker: int) -> Service:
        """Return what worker number `worker` does; torch is imported there."""
        import torch

        from backends.torch_backend import TorchBackend

        torch.set_num_threads(1)
        torch.manual_seed(self.seed)
        backend = TorchBackend(self.device, precision="single")
        runners = [backend.runner(network.build(self.shape, self.outputs)) for network in self.networks]
        times = [
            _Times(draw, np.random.default_rng((self.seed, worker, number)))
            for number, draw in enumerate(self.emulated)
        ]

        def serve(model: int, inputs: Values) -> Values:
            began = time.perf_counter()
            with torch.inference_mode():
                batch = torch.from_numpy(inputs).reshape(-1, *self.shape)
                outputs: Values = runners[model](batch).cpu().numpy().ravel()
            if times:
                time.sleep(max(0.0, began + times[model].next() - time.perf_counter()))
            return outputs

        zeros = np.zeros(int(np.prod(self.shape)), np.float32)
        for model in range(len(runners)):
            for _ in range(WARM_UP):
                serve(model, zeros)
        return serve


class _Times:
    """Random times, drawn in blocks and returned one by one."""

    def __init__(self, draw: Draw, generator: np.random.Generator) -> None:
        self._draw = draw
        self._generator = generator
        self._left: list[float] = []

    def next(self) -> float:
        if not self._left:
            self._left = self._draw(self._generator, _DRAWN).tolist()
        return self._left.pop()
