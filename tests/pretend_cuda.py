"""A CUDA device that is not there, so that the CUDA path can be tested on any machine.

Inside `pretend_cuda()` tensors say that they are on cuda:0 while CPU memory holds them. Where CUDA would refuse
operands on different devices, so does this. It notes every wait of the host for the device, with the line of ours that
causes it: reads of a value, results whose size depends on values, and copies, except those from pinned memory that ask
not to block. CUDA graphs are recorded and replayed, and capturing a wait fails with the consequences that it has in
torch: the side stream stays the current one, and the allocator refuses the next capture until its pool is given back.

It stands on parts of torch that are not public. `MISSING` says which of them this torch lacks; tests are skipped then.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch._dynamo
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

HOME = Path(__file__).resolve().parents[1]
CUDA = torch.device("cuda", 0)
NEEDED = (
    "_ensureCUDADeviceGuardSet",
    "_set_only_lift_cpu_tensors",
    "_dispatch_has_kernel_for_dispatch_key",
    "_disabled_torch_function_impl",
    "_cuda_endAllocateToPool",
)
MISSING = [name for name in NEEDED if not hasattr(torch._C, name)]

_WAITING = (
    "_local_scalar_dense|equal|is_nonzero|nonzero|masked_select|bincount|unique_consecutive|unique_dim|_unique|_unique2"
)
WAITING = {f"aten::{name}" for name in _WAITING.split("|")}
"""Operators that need a value on the host, as indexing by a mask does too."""
_VIEWS = (
    "view|_unsafe_view|expand|permute|transpose|t|slice|select|unsqueeze|squeeze|detach|alias|as_strided|split|unbind|"
    "split_with_sizes|lift_fresh|_reshape_alias|diagonal|unfold|empty|empty_strided|empty_like|new_empty"
)
VIEWS = {f"aten::{name}" for name in _VIEWS.split("|")}
"""Operators that launch no kernel."""
INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")


class PlacementError(RuntimeError):
    """Operands on different devices."""


@dataclass
class Graph:
    """What is being captured: every operator with its arguments and the outputs to be filled again at replay."""

    steps: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]] = field(default_factory=list)
    spoilt: bool = False
    generators: list[torch.Generator] = field(default_factory=list)
    before: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    """What storages held, by address: capturing computes nothing, so that it is put back in the end."""
    drawn: list[Tensor] = field(default_factory=list)
    """The state of each generator."""

    def keep(self, tensors: list[PretendTensor]) -> None:
        """Note what these tensors hold."""
        for storage in (one.held.untyped_storage() for one in tensors):
            self.before.setdefault(storage.data_ptr(), (storage, storage.clone()))

    def put_back(self) -> None:
        """Undo what was computed while capturing."""
        for storage, content in self.before.values():
            storage.copy_(content)
        for generator, state in zip(self.generators, self.drawn, strict=True):
            generator.set_state(state)


@dataclass
class Device:
    """The device's counters and state."""

    waits: list[tuple[str, str]] = field(default_factory=list)
    """What the host waited for, and the file and line of ours that did it."""
    kernels: Counter[str] = field(default_factory=Counter)
    replays: int = 0
    tf32: set[bool] = field(default_factory=set)
    """What `allow_tf32` was when single precision was convolved."""
    memory: float = float("inf")
    """Elements that one tensor may have; a larger one is out of memory."""
    capturing: Graph | None = None
    pool_open: bool = False
    streams: list[Any] = field(default_factory=list)
    debug: int = 0
    pinned: set[int] = field(default_factory=set)

    def clear(self) -> None:
        """Forget what was counted."""
        self.waits.clear()
        self.kernels.clear()
        self.tf32.clear()
        self.replays = 0

    def wait(self, what: str) -> None:
        """Note a wait, which a capture does not permit; torch's own check comes first, and spoils nothing."""
        if self.debug == 2:
            raise RuntimeError(f"called a synchronizing CUDA operation: {what}")
        if self.capturing is not None:
            self.capturing.spoilt = True
            raise RuntimeError(f"operation not permitted when stream is capturing: {what}")
        self.waits.append((what, _line_of_ours()))


DEVICE = Device()


def _line_of_ours() -> str:
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(HOME) and path != Path(__file__) and "site-packages" not in path.parts:
            return f"{path.relative_to(HOME)}:{frame.lineno}"
    return "elsewhere"


class PretendTensor(Tensor):
    """A tensor that says it is on the device and keeps its values in `held`, on the CPU."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> PretendTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=CUDA,
        )
        made.held = held
        return made

    def __repr__(self) -> str:
        return f"PretendTensor({self.held!r})"

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def backward(self, *given: Any, **named: Any) -> None:
        """Give every parameter behind this a gradient of zeros: torch's engine would ask the driver for its devices."""
        seen, left = set(), [self.grad_fn]
        while left:
            node = left.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if hasattr(node, "variable"):
                node.variable.grad = torch.zeros_like(node.variable)
            left += [before for before, _ in node.next_functions]

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        made: Tensor = PretendTensor(self.held.detach().clone())
        if getattr(self, "_is_param", False):
            made = torch.nn.Parameter(made, requires_grad=self.requires_grad)
        memo[id(self)] = made
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class _EveryOperator(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Do what the operator `func` does, on the device where one of its operands or its `device` says so."""
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
        with _EveryOperator():
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
    name = func._schema.name
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    ours = [one for one in tensors if isinstance(one, PretendTensor)]
    theirs = [one for one in tensors if not isinstance(one, PretendTensor)]
    asked = kwargs.get("device")
    on_device = torch.device(asked).type == "cuda" if asked is not None else bool(ours)
    if not on_device and not ours:
        return func(*args, **kwargs)
    if name in ("aten::_to_copy", "aten::copy_"):
        on_device = _copied(name, args, kwargs, on_device)
    else:
        _check_placement(name, args, ours, theirs)
        _check_generators(kwargs, on_device)
        if ours and (name in WAITING or _by_mask(name, args)):
            DEVICE.wait(name)
    if name not in VIEWS:
        DEVICE.kernels[name] += 1
    if name == "aten::convolution" and args[0].dtype == torch.float32:
        DEVICE.tf32.add(torch.backends.cudnn.allow_tf32)
    if DEVICE.capturing is not None:
        DEVICE.capturing.keep(ours)
    inner_args, inner_kwargs = tree_map(_inner, (args, kwargs))
    inner_kwargs.pop("pin_memory", None)
    function = _REPLACED.get(name, func)
    made = function(*inner_args, **inner_kwargs)
    if any(isinstance(one, Tensor) and one.numel() > DEVICE.memory for one in tree_leaves(made)):
        raise torch.OutOfMemoryError("CUDA out of memory (pretended)")
    if DEVICE.capturing is not None:
        DEVICE.capturing.steps.append((function, inner_args, inner_kwargs, made))
    known = {id(one.held): one for one in ours}
    return tree_map(lambda one: _outer(one, known, on_device), made)


def _copied(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], on_device: bool) -> bool:
    """Count a copy between the host and the device as a wait, unless it is one from pinned memory that goes on."""
    target, source = (args[0], args[1]) if name == "aten::copy_" else (None, args[0])
    from_device = isinstance(source, PretendTensor)
    to_device = isinstance(target, PretendTensor) if target is not None else on_device
    if from_device != to_device:
        goes_on = kwargs.get("non_blocking", False) or (target is not None and len(args) > 2 and args[2])
        if not (to_device and goes_on and source.untyped_storage().data_ptr() in DEVICE.pinned):
            DEVICE.wait("copy to the device" if to_device else "copy from the device")
    return to_device


def _by_mask(name: str, args: tuple[Any, ...]) -> bool:
    indices = args[1] if name in INDEXED else ()
    return any(isinstance(one, PretendTensor) and one.dtype in (torch.bool, torch.uint8) for one in indices)


def _check_placement(name: str, args: tuple[Any, ...], ours: list[Tensor], theirs: list[Tensor]) -> None:
    if not (ours and theirs):
        return
    if name in INDEXED:
        if not isinstance(args[0], PretendTensor):
            raise PlacementError(f"indices should be on the CPU, as what they index is: {name}")
        for index in args[1]:
            if isinstance(index, Tensor) and not isinstance(index, PretendTensor):
                DEVICE.wait("copy of an index to the device")
        theirs = [one for one in args[2:] if isinstance(one, Tensor) and not isinstance(one, PretendTensor)]
    if any(one.dim() for one in theirs) or name.startswith("aten::_fused_"):
        raise PlacementError(f"expected all tensors to be on the same device: {name} at {_line_of_ours()}")


def _check_generators(kwargs: dict[str, Any], on_device: bool) -> None:
    for value in kwargs.values():
        if isinstance(value, torch.Generator) and (value._cdata in _GENERATORS) != on_device:
            raise PlacementError("a generator of another device")
        if isinstance(value, torch.Generator) and value._cdata in _STUCK:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")
        known = [one._cdata for one in DEVICE.capturing.generators] if DEVICE.capturing is not None else None
        if isinstance(value, torch.Generator) and known is not None and value._cdata not in known:
            raise RuntimeError("the generator is not registered with the graph that is being captured")


def _inner(value: Any) -> Any:
    if isinstance(value, PretendTensor):
        return value.held
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == "cuda" else value


def _outer(value: Any, known: dict[int, PretendTensor], on_device: bool) -> Any:
    if not isinstance(value, Tensor) or not on_device:
        return value
    return known[id(value)] if id(value) in known else PretendTensor(value)


def _batch_norm(x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool, *rest: float) -> Any:
    return (*torch.ops.aten.native_batch_norm(x, weight, bias, mean, var, training, *rest), torch.empty(0))


def _batch_norm_backward(x: Tensor, grad: Tensor, weight: Any, *rest: Any) -> Any:
    mean, var, saved_mean, saved_var, epsilon, _reserved = rest
    backward = torch.ops.aten.native_batch_norm_backward
    return backward(grad, x, weight, mean, var, saved_mean, saved_var, True, epsilon, [True] * 3)


def _convolution_relu(x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
    stride, padding, dilation, groups = geometry
    return torch.conv2d(x, weight, bias, stride, padding, dilation, groups).relu()


def _convolution_add_relu(x: Tensor, weight: Tensor, z: Tensor, alpha: float, bias: Any, *geometry: Any) -> Tensor:
    stride, padding, dilation, groups = geometry
    return (torch.conv2d(x, weight, bias, stride, padding, dilation, groups) + alpha * z).relu()


_REPLACED: dict[str, Callable[..., Any]] = {
    "aten::cudnn_batch_norm": _batch_norm,
    "aten::cudnn_batch_norm_backward": _batch_norm_backward,
    "aten::cudnn_convolution_relu": _convolution_relu,
    "aten::cudnn_convolution_add_relu": _convolution_add_relu,
}
"""Operators that only CUDA has, by the CPU's."""

_GENERATORS: set[int] = set()
_KEPT: list[torch.Generator] = []  # so that no number in `_GENERATORS` is given to another one
_STUCK: set[int] = set()  # which a capture that failed still has
_generator = torch.Generator


class _PretendGenerator(torch.Generator):
    """A generator of the device; a subclass of one of the CPU."""

    def __new__(cls, device: Any = "cpu") -> _PretendGenerator:
        made = super().__new__(cls, "cpu")
        _GENERATORS.add(made._cdata)
        _KEPT.append(made)
        return made

    def manual_seed(self, seed: int) -> _PretendGenerator:
        super().manual_seed(seed)
        return self

    @property
    def device(self) -> torch.device:
        return CUDA

    def clone_state(self) -> torch.Generator:
        return _generator("cpu").set_state(self.get_state())

    def graphsafe_set_state(self, state: torch.Generator) -> None:
        _STUCK.discard(self._cdata)
        self.set_state(state.get_state())


def generator(device: Any = "cpu") -> torch.Generator:
    """Return a generator of the device or of the CPU."""
    return _PretendGenerator(device) if torch.device(device).type == "cuda" else _generator(device)


class Stream:
    def __init__(self, device: Any = None) -> None:
        self.after: list[Stream] = []
        self.device_index = 0

    def wait_stream(self, other: Stream) -> None:
        self.after.append(other)

    def synchronize(self) -> None:
        DEVICE.wait("stream.synchronize")


@contextlib.contextmanager
def _on_stream(stream: Stream) -> Iterator[None]:
    before = len(DEVICE.streams)
    DEVICE.streams.append(stream)
    try:
        yield
    finally:
        del DEVICE.streams[before:]


class Event:
    def __init__(self, enable_timing: bool = False) -> None:
        self.at = 0.0

    def record(self, stream: Any = None) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        DEVICE.wait("event.synchronize")

    def elapsed_time(self, other: Event) -> float:
        return 1000 * (other.at - self.at)


class CUDAGraph:
    def __init__(self) -> None:
        self.captured = Graph()

    def register_generator_state(self, generator: torch.Generator) -> None:
        self.captured.generators.append(generator)

    def pool(self) -> tuple[int, int]:
        return (0, 1)

    def replay(self) -> None:
        DEVICE.replays += 1
        for function, args, kwargs, made in self.captured.steps:
            again = function(*args, **kwargs)
            for old, new in zip(tree_leaves(made), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class graph:  # noqa: N801 - torch's name
    """As in torch 2.14, and 2.11 for generators: where capturing failed, nothing is put back."""

    def __init__(self, graph: CUDAGraph, pool: Any = None, stream: Stream | None = None) -> None:
        self.graph, self.stream = graph, stream

    def __enter__(self) -> None:
        DEVICE.wait("synchronize before a capture")
        if DEVICE.pool_open:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")
        DEVICE.streams.append(self.stream)
        DEVICE.capturing, DEVICE.pool_open = self.graph.captured, True
        DEVICE.capturing.drawn = [one.get_state() for one in DEVICE.capturing.generators]

    def __exit__(self, *_: object) -> None:
        captured, DEVICE.capturing = DEVICE.capturing, None
        assert captured is not None
        captured.put_back()
        if captured.spoilt:
            _STUCK.update(one._cdata for one in captured.generators)
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        self.graph.captured, DEVICE.pool_open = captured, False
        DEVICE.streams.pop()


def _end_pool(device: int, pool: Any) -> None:
    DEVICE.pool_open = False


def _set_debug(mode: int | str) -> None:
    DEVICE.debug = {"default": 0, "warn": 1, "error": 2}.get(mode, mode)  # type: ignore[assignment, arg-type]


def _pin_memory(self: Tensor, device: Any = None) -> Tensor:
    made = self.clone()
    DEVICE.pinned.add(made.untyped_storage().data_ptr())
    _KEPT_PINNED.append(made)
    return made


def _no_inference_mode(mode: bool = True) -> contextlib.AbstractContextManager[Any]:
    return torch.no_grad() if mode else contextlib.nullcontext()


_KEPT_PINNED: list[Tensor] = []  # so that its address is nobody else's


@contextlib.contextmanager
def pretend_cuda() -> Iterator[Device]:
    """Have torch believe in one CUDA device inside the block; yields what it counts."""
    DEVICE.__init__()  # type: ignore[misc]
    DEVICE.streams.append(Stream())
    torch._C._ensureCUDADeviceGuardSet()
    patches: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "_lazy_init": lambda: None,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_name": lambda device=None: "Pretended CUDA device",
        "get_rng_state": lambda device=None: torch.empty(0, dtype=torch.uint8),
        "set_rng_state": lambda state, device=None: None,
        "is_bf16_supported": lambda *given, **named: True,
        "is_current_stream_capturing": lambda: DEVICE.capturing is not None,
        "synchronize": lambda device=None: DEVICE.wait("synchronize"),
        "empty_cache": lambda: None,
        "current_stream": lambda device=None: DEVICE.streams[-1],
        "stream": _on_stream,
        "set_sync_debug_mode": _set_debug,
        "get_sync_debug_mode": lambda: DEVICE.debug,
        "default_generators": (generator("cuda"),),
        "Stream": Stream,
        "Event": Event,
        "CUDAGraph": CUDAGraph,
        "graph": graph,
    }
    with contextlib.ExitStack() as stack:
        for name, value in patches.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(mock.patch.object(torch._C, "_cuda_endAllocateToPool", _end_pool))
        stack.enter_context(mock.patch.object(Tensor, "pin_memory", _pin_memory))
        # In inference mode torch would take operators apart below the mode, where nothing can be seen of them.
        stack.enter_context(mock.patch.object(torch, "inference_mode", _no_inference_mode))
        for name in ("parity.training", "parity.objectives", "parity.evaluation"):
            stack.enter_context(mock.patch(f"{name}.Generator", generator))
        replaces = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, replaces)
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, False)
        stack.enter_context(_EveryOperator())
        yield DEVICE
