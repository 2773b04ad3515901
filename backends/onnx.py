"""A convolutional network on the CPU as ONNX Runtime runs it, which is faster at that than torch.

A module is exported once; the file is kept in a folder under a name made of its layers and weights, so that the next
process starts from it. What cannot be exported, or answers otherwise than the module, runs in torch, as does everything
where `onnxruntime` or `onnx` is not installed.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from sim import atomic

TOLERANCE = 1e-4
"""Of outputs against the module's own, relative to the largest of these or to 1."""


@cache
def installed() -> bool:
    """Return whether models can be exported and run."""
    return all(find_spec(name) is not None for name in ("onnxruntime", "onnx"))


def optimised(module: nn.Module, inputs: Tensor, folder: Path | None) -> Callable[[Tensor], Tensor]:
    """Return what answers as `module` does, given some of its inputs (n, *shape); keep the export in `folder`.

    Raises ValueError, with the reason, where that cannot be had.
    """
    if not installed():
        raise ValueError("onnxruntime and onnx are not installed")
    try:
        # Tracing for the export would follow one branch of what depends on the inputs; this refuses it.
        traced = fx.symbolic_trace(copy.deepcopy(module).eval().requires_grad_(False))
        run = _session(traced, inputs[:1], folder)
        # Three rows: an export that took its example's two for a constant would show here.
        example = inputs[:1].expand(3, *inputs.shape[1:])
        plain, answers = module(example), run(example)
        error = float((answers - plain).abs().max())
    except Exception as problem:  # the exporter and the runtime meet a user's layers, and could raise anything
        raise ValueError(f"{type(problem).__name__} in its export to ONNX") from problem
    if not error <= TOLERANCE * max(1.0, float(plain.abs().max())):
        raise ValueError(f"its export to ONNX is off by {error:.1e}")
    return run


def _session(traced: fx.GraphModule, example: Tensor, folder: Path | None) -> Callable[[Tensor], Tensor]:
    """Return what runs the model, from its export in `folder` where there is a sound one."""
    file = folder / f"{_key(traced, example)}.onnx" if folder else None
    if file is not None:
        with contextlib.suppress(Exception):  # it is not there, or damaged
            return _loaded(file.read_bytes())
    content = _exported(traced, example)
    if file is not None:
        with contextlib.suppress(OSError):  # a full or read-only disk costs the next process an export
            atomic.write(file, content)
    return _loaded(content)


def _key(traced: fx.GraphModule, example: Tensor) -> str:
    """Return a name for the model: its layers, its weights, its inputs' shape, and who exports it."""
    key = hashlib.sha256(f"{torch.__version__} {tuple(example.shape[1:])} {traced.code} {traced}".encode())
    for name, value in traced.state_dict().items():
        key.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        key.update(value.contiguous().view(-1).numpy().tobytes())
    return key.hexdigest()[:24]


def _exported(traced: fx.GraphModule, example: Tensor) -> bytes:
    written = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode(False), _unlogged():
        warnings.simplefilter("ignore")  # torch prefers its newer exporter, which takes many times as long
        export: Any = torch.onnx.export
        export(
            traced,
            (torch.zeros(2, *example.shape[1:]),),
            written,
            dynamo=False,
            input_names=["inputs"],
            output_names=["outputs"],
            dynamic_axes={"inputs": {0: "rows"}, "outputs": {0: "rows"}},
        )
    return written.getvalue()


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """Keep torch from printing a model's whole graph to standard output where it cannot export a layer.

    Its exporter switches that on for itself, and takes no option against it; so the switch is held while it runs.
    """
    inner: Any = torch._C
    name = "_jit_set_onnx_log_enabled"
    switch = getattr(inner, name, None)
    if switch is None:  # an inner name of torch, which may go
        yield
        return
    switch(False)
    setattr(inner, name, lambda _: None)
    try:
        yield
    finally:
        setattr(inner, name, switch)


def _loaded(content: bytes) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    # Threads that spin while they wait keep other processes from the cores, and gained nothing that was measured.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(inputs: Tensor) -> Tensor:
        (outputs,) = session.run(None, {"inputs": inputs.contiguous().numpy()})
        return torch.from_numpy(outputs)

    return run
