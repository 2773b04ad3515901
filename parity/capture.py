"""CUDA graphs: kernels recorded once, so that they are launched together by one call of the host.

A network of small layers on a big GPU spends more time on launching kernels than on running them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Generator

Result = TypeVar("Result")


def capture(
    work: Callable[[], Result], stream: Any, pool: Any = None, generators: Sequence[Generator] = ()
) -> tuple[Result, Any]:
    """Record what `work` does on `stream`, with its tensors in `pool` if given; return its result and the graph.

    Nothing is computed: the result's tensors are filled by the graph's `replay`. The same work has to have run before
    on that stream, so that kernels are chosen and workspaces made. `generators` are those besides the default one that
    it draws from. Raises RuntimeError where it waits for the device, and leaves stream, allocator and generators as
    they were.
    """
    cuda: Any = torch.cuda
    graph = cuda.CUDAGraph()
    before = [(one, one.clone_state()) for one in (*generators, cuda.default_generators[stream.device_index])]
    for generator in generators:
        graph.register_generator_state(generator)
    # The outer block brings the stream back where the inner one fails, which then leaves that out.
    with cuda.stream(stream):
        try:
            with cuda.graph(graph, pool=pool, stream=stream), waits_refused():
                result = work()
        except RuntimeError:
            with contextlib.suppress(Exception):  # torch leaves the allocator in the middle of the recording
                end: Any = torch._C._cuda_endAllocateToPool
                end(stream.device_index, graph.pool())
            for generator, state in before:  # torch 2.11 leaves them in it as well
                generator.graphsafe_set_state(state)
            raise
    return result, graph


@contextlib.contextmanager
def waits_refused() -> Iterator[None]:
    """Have most waits of the host raise RuntimeError, which breaks nothing, where CUDA itself would break a capture."""
    cuda: Any = torch.cuda
    before = cuda.get_sync_debug_mode()
    cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        cuda.set_sync_debug_mode(before)
