"""Measures how long a model's services take, and the encoding, decoding and copying around them, for a profile."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from backends.answers import HELD
from backends.contention import contending
from backends.torch_backend import TorchBackend
from parity.codes.base import Coder
from sim.distributions.profile import Quantiles, RoleName, ServiceProfile
from sim.errors import ParmError

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class TimedCode:
    """A code whose encoding and decoding are to be measured."""

    code: Coder
    name: str
    """As YAML names it."""
    k: int
    r: int
    model: nn.Module | None = None
    """The model that answers its first coded query; None where none does."""

    @property
    def label(self) -> str:
        """Its name in a profile's roles, after `encode` or `decode`."""
        return f"{self.name} k={self.k} r={self.r}"


def measure(
    backend: TorchBackend,
    modules: Mapping[RoleName, nn.Module],
    shape: Sequence[int],
    batch_sizes: Sequence[int] = (1,),
    repeats: int = 500,
    warmup: int = 50,
    *,
    network: str,
    codings: Sequence[TimedCode] = (),
    contention: int = 0,
) -> ServiceProfile:
    """Time every module, by role, on random inputs of `shape`: `repeats` times per batch size after `warmup` rounds.

    A service is the whole of what an instance does with a batch: the copy to the device, the forward pass and the copy
    back. The copy to a CUDA device is also timed by itself, as role `copy`. Of each coding, `encode` is what makes the
    parity queries of a coding group of batches of that size, and `decode` what makes its first predictions from all the
    other ones. Everything takes turns, so that a drift of the machine's speed affects all of it alike; `contention`
    processes run the first module over batches of the largest size all the while. Raises ParmError for sizes or repeats
    below 1.
    """
    if repeats < 1 or warmup < 0 or not batch_sizes or min(batch_sizes) < 1:
        raise ParmError("a measurement needs batch sizes and repeats of at least 1, and a warm-up of at least 0")
    sizes = sorted(set(batch_sizes))
    first = next(iter(modules.values()))
    with torch.inference_mode():
        works: dict[tuple[str, int], Work] = {}
        for size in sizes:
            works |= _works(backend, modules, shape, size, codings)
    with contending(contention, first, (sizes[-1], *shape), backend), torch.inference_mode():
        times = take_turns(works, repeats, warmup, clock_of(backend.device))
    under = f", while {contention} processes ran batches of {sizes[-1]} on the same device" if contention else ""
    ways = {role: backend.runner(module).how for role, module in modules.items()}
    how = next(iter(ways.values())) if len(set(ways.values())) == 1 else f"{ways}"
    return ServiceProfile(
        device=backend.name,
        network=network,
        how=f"measured: copy in, forward pass ({how}) and copy out of "
        f"random inputs {'x'.join(map(str, shape))}; {repeats} rounds after {warmup} discarded{under}",
        made={"torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine()},
        roles={
            role: {size: Quantiles.of(times[role, size]) for named, size in works if named == role}
            for role in dict.fromkeys(role for role, _ in works)
        },
    )


def _works(
    backend: TorchBackend,
    modules: Mapping[RoleName, nn.Module],
    shape: Sequence[int],
    size: int,
    codings: Sequence[TimedCode],
) -> dict[tuple[str, int], Work]:
    """Return the functions to time at one batch size, by role and size."""
    generator = torch.Generator().manual_seed(size)
    inputs = torch.randn(size, *shape, generator=generator)
    found: dict[tuple[str, int], Work] = {}
    for role, module in modules.items():
        # In the precision in which runs settle for such a model.
        runner = backend.settle(module, lambda: torch.randn(HELD, *shape, generator=generator))
        found[role, size] = lambda runner=runner: runner(inputs).cpu()  # type: ignore[misc]
    if backend.device.type == "cuda":
        found["copy", size] = lambda: inputs.to(backend.device, non_blocking=True)
    classes = runner(inputs).shape[1] if codings else 0
    for coding in codings:
        encode, decode = _coding_works(backend, coding, shape, size, classes, generator)
        found[f"encode {coding.label}", size] = encode
        found[f"decode {coding.label}", size] = decode
    return found


def _coding_works(
    backend: TorchBackend, coding: TimedCode, shape: Sequence[int], size: int, classes: int, generator: torch.Generator
) -> tuple[Work, Work]:
    """Return functions that encode a coding group of batches of `size` queries, and decode its first predictions."""
    k, r, code = coding.k, coding.r, coding.code
    queries = backend.place(torch.randn(size, k, *shape, generator=generator))
    outputs = backend.place(torch.randn(size, k, classes, generator=generator))
    width = classes if coding.model is None else backend.runner(coding.model)(queries[:, 0]).shape[1]
    parities = backend.place(torch.randn(size, r, width, generator=generator))
    returned = torch.full((size,), (1 << (k + r)) - 2)  # all but slot 0
    return lambda: code.encode(queries, r), lambda: code.decode(outputs, parities, returned)


def coding_seconds(
    backend: TorchBackend, coding: TimedCode, shape: Sequence[int], classes: int, repeats: int = 50
) -> tuple[float, float]:
    """Return the seconds to encode and to decode one coding group of noise, medians; `shape` is one query's."""
    with torch.inference_mode():
        works = _coding_works(backend, coding, shape, 1, classes, torch.Generator().manual_seed(0))
        named = {(str(number), 1): work for number, work in enumerate(works)}
        times = take_turns(named, repeats, repeats // 10, clock_of(backend.device))
    encode, decode = (float(np.median(taken)) for taken in times.values())
    return encode, decode


def take_turns(
    works: Mapping[tuple[str, int], Work], repeats: int, warmup: int, clock: Callable[[Work], float]
) -> dict[tuple[str, int], np.ndarray[Any, np.dtype[np.float64]]]:
    """Run all the works round by round; return the seconds of each, shape (repeats,), without the warm-up's."""
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in works}
    for step in range(warmup + repeats):
        for key, work in works.items():
            took = clock(work)
            if step >= warmup:
                seconds[key].append(took)
    return {key: np.asarray(times) for key, times in seconds.items()}


def clock_of(device: torch.device) -> Callable[[Work], float]:
    """Return a function that times work in seconds: by CUDA's events on CUDA, else by the wall clock."""
    return by_events if device.type == "cuda" else by_wall_clock


def by_wall_clock(work: Work) -> float:
    """Return the seconds that `work` takes on this machine's clock."""
    begin = perf_counter()
    work()
    return perf_counter() - begin


def by_events(work: Work) -> float:
    """Return the seconds from before `work` to after it, on the CUDA device's own clock."""
    event: Any = torch.cuda.Event
    begun, ended = event(enable_timing=True), event(enable_timing=True)
    begun.record()
    work()
    ended.record()
    ended.synchronize()
    return float(begun.elapsed_time(ended)) / 1000
