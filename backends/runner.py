"""One model made ready for one device: a fused copy of it, its precision and layout, its batch and its CUDA graphs."""

from __future__ import annotations

import contextlib
import copy
import operator
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from backends import onnx

Precision = Literal["auto", "half", "single"]
"""Of forward passes. `auto` is half precision on CUDA where a model's answers bear it, and single elsewhere."""

LEAST_ROWS = 16
"""Smaller batches than this are padded. A CPU's matrix kernels round differently for tiny batches; from 8 rows on, a
sample's output was measured to have the same bits in every batch, so that answers do not depend on which cell of an
experiment needs them first."""

CACHE = 2**22
"""Bytes that a batch's largest activation may take on the CPU, so that the next layer finds it in a cache."""

ONNX_BATCH = 64
"""Samples per pass in ONNX Runtime. Small networks were fastest with 16 to 64, on one thread, by up to a seventh."""

Gather = Callable[[slice], Tensor]
"""Returns the inputs of these rows, on the device; called once per batch."""

Forward = Callable[[Tensor], Tensor]

MOST_SHAPES = 512
"""Each recording keeps its inputs and outputs on the device; shapes beyond this many run without one, and `Graphs`
says so."""

Way = Literal["onnx", "folded", "cudnn", "compiled"]
"""How a network is run: by ONNX Runtime, as a copy with batch norm folded away, with cuDNN's fused convolutions too, or
by torch.compile. Networks without convolutions have nothing to fold and run as they are."""


class ModelRunner:
    """Runs one module on one device, without ever waiting for that device.

    The module is moved to the device and put into evaluation mode, and stays so. A convolutional one is run as a fused
    copy, to which later changes of the module do not carry over; `is_stale` detects them.
    """

    def __init__(
        self,
        module: nn.Module,
        device: torch.device,
        *,
        half: bool,
        batch: int | None = None,
        exports: Path | None = None,
        way: Way | None = None,
    ) -> None:
        """Prepare to run `module`; `batch` is the number of samples per pass, chosen from the first inputs if None.

        `exports` is the folder for exports to ONNX. `way` is how a convolutional network is run, by default by
        ONNX Runtime in single precision on the CPU and as a folded copy elsewhere.
        """
        self.device = device
        self.half = half
        self.batch = batch
        self._done = "as it is"
        self.settled = False
        """Whether the precision has been decided for this module."""
        self.agreement: float | None = None
        """Share of the held samples on which half and single precision agree, where that decided."""
        self.way: Way = way or ("onnx" if device.type == "cpu" and not half else "folded")
        self._exports = exports
        self._given = module.eval().to(device)
        self._state = _state(module)
        self._type = (torch.float16 if device.type == "cuda" else torch.bfloat16) if half else torch.float32
        self._convolves = any(isinstance(part, nn.Conv2d) for part in module.modules())
        self._channels_last = self._convolves
        self._module: nn.Module | None = None
        """What runs in torch; None before the first pass, and where ONNX Runtime runs."""
        self._forward: Callable[[Tensor], Tensor] = self._first
        self._graphs: Graphs | None = None

    @property
    def how(self) -> str:
        """What was done to the module and in which precision it runs, in words; once it has run."""
        said = [self._done, f"{'half' if self.half else 'single'} precision"]
        if self.agreement is not None:
            said.append(f"half precision agrees on {self.agreement:.4f} of the held samples")
        if self._graphs is not None and self._graphs.refused is not None:
            said.append(f"without CUDA graphs: {self._graphs.refused}")
        return "; ".join(said)

    def is_stale(self, module: nn.Module) -> bool:
        """Return whether `module` was trained, loaded or moved since it was made ready, or the threads changed."""
        return module.training or self._state != _state(module)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Run over inputs (n, *shape) as they are; return float32 (n, outputs), valid until the next call."""
        inputs = inputs.to(self.device, self._type, non_blocking=True)
        if self._channels_last and inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with _full_single_precision(self.device):
            return self._forward(inputs).float()

    def _first(self, inputs: Tensor) -> Tensor:
        """Make the copy or session that runs, and run it over the first inputs."""
        module = self._given
        if self._convolves and self.way == "onnx":
            try:
                self._forward = onnx.optimised(module, inputs, self._exports)
            except ValueError as reason:
                module, how = trusted_copy(module, inputs[:1], cudnn=False)
                self._done = f"{how}; not by ONNX Runtime: {reason}"
            else:
                self._done, self._channels_last = "by ONNX Runtime", False
                return self._forward(inputs)
        elif self._convolves:
            module, self._done = trusted_copy(module, inputs[:1].float(), cudnn=self.way == "cudnn")
        if self.half:
            module = copy.deepcopy(module).to(self._type)
        if self._channels_last:
            module = module.to(memory_format=torch.channels_last)
        if self.way == "compiled":
            module.compile(mode="max-autotune-no-cudagraphs")
        self._module = module
        self._forward = module
        if self.device.type == "cuda":
            self._forward = self._graphs = Graphs(module)
        return self._forward(inputs)

    def padded(self, inputs: Tensor) -> Tensor:
        """Run over inputs (n, *shape), filled up to a size whose outputs depend on nothing but their own sample."""
        rows = len(inputs)
        size = max(rows, LEAST_ROWS) if rows else 0
        if self.device.type == "cuda" and rows:
            size = max(LEAST_ROWS, 1 << (rows - 1).bit_length())  # few shapes, since each has a recording of its own
        if rows < size:
            inputs = torch.cat([inputs, inputs[-1:].expand(size - rows, *inputs.shape[1:])])
        return self(inputs)[:rows]

    def outputs(self, rows: int, gather: Gather) -> Tensor:
        """Run over `rows` rows, batch by batch; return float32 (rows, outputs) on the device.

        Nothing waits for the device in between: gathering, encoding and forward passes of all batches are queued.
        """
        step = self.batch_for(gather) if rows else 1
        result = torch.empty(0)
        start = 0
        while start < max(rows, 1):
            chunk = slice(start, min(start + step, rows))
            try:
                outputs = self.padded(gather(chunk))
            except torch.OutOfMemoryError:
                if step <= LEAST_ROWS:
                    raise
                step = self.batch = max(LEAST_ROWS, step // 2)
                self._forget_recordings()
                continue
            if start == 0:
                result = torch.empty(rows, *outputs.shape[1:], device=self.device)
            result[chunk] = outputs
            start += step
        return result

    def _forget_recordings(self) -> None:
        if self._graphs is not None:
            self._graphs.clear()
        torch.cuda.empty_cache()

    def batch_for(self, gather: Gather) -> int:
        """Return the samples per pass, chosen by a pass over the first row if it is not known yet.

        A rule and not a measurement: a choice that depends on what else the machine does could change rounding, and
        with it an answer, from run to run.
        """
        if self.batch is None:
            if self.device.type == "cuda":
                self.batch = 2048
            else:
                first = gather(slice(0, 1))
                self.padded(first)
                if self._module is None:
                    self.batch = ONNX_BATCH
                else:
                    fitting = CACHE * LEAST_ROWS // max(1, largest_activation(self._module, lambda: self.padded(first)))
                    self.batch = min(256, max(32, 1 << fitting.bit_length() - 1 if fitting else 0))
        return self.batch


@contextlib.contextmanager
def _full_single_precision(device: torch.device) -> Iterator[None]:
    """Have CUDA convolve single precision as such; by default it multiplies in TF32, with ten bits of mantissa."""
    allowed = torch.backends.cudnn.allow_tf32
    if device.type != "cuda" or not allowed:
        yield
        return
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


def trusted_copy(module: nn.Module, inputs: Tensor, *, cudnn: bool) -> tuple[nn.Module, str]:
    """Return a fused copy of `module` and what was done to it, once it has answered `inputs` (n, *shape) alike.

    Where it does not, return a plain copy: a network can do what tracing does not show.
    """
    made, how = fused(module, cudnn=cudnn)
    plain = module(inputs)
    try:
        error = float((made(inputs) - plain).abs().max())
    except RuntimeError as problem:
        return copy.deepcopy(module), f"as it is: fused, it says {str(problem).splitlines()[0]}"
    allowed = 1e-4 * max(1.0, float(plain.abs().max()))
    return (made, how) if error <= allowed else (copy.deepcopy(module), f"as it is: fused, it is off by {error:.1e}")


def largest_activation(module: nn.Module, run: Callable[[], Tensor]) -> int:
    """Return the bytes of the largest tensor that any part of `module` returns while `run` runs."""
    largest = 0

    def look(_module: nn.Module, _inputs: object, outputs: object) -> None:
        nonlocal largest
        if isinstance(outputs, Tensor):
            largest = max(largest, outputs.numel() * outputs.element_size())

    hooks = [part.register_forward_hook(look) for part in module.modules()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return largest


def _state(module: nn.Module) -> tuple[tuple[int, int], ...]:
    """Return what changes when a parameter or a buffer does: where it is, and how often it was written to."""
    tensors = [*module.parameters(), *module.buffers()]
    written = ((tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors)
    return (torch.get_num_threads(), 0), *written


def fused(module: nn.Module, *, cudnn: bool) -> tuple[nn.Module, str]:
    """Return a copy of `module` for inference and, in words, what was done to it; the module itself is not changed.

    At inference batch norm is a fixed affine map of a convolution's channels, so it folds into that convolution's
    weights (Jacob et al. 2018, section 3.2). `cudnn` also takes each convolution, the sum and the ReLU that follow it
    as one operator of cuDNN's, which runs on CUDA only.

    A network whose forward pass depends on its inputs cannot be traced; it is then a plain copy.
    """
    copied = copy.deepcopy(module).eval().requires_grad_(False)
    try:
        traced = fx.symbolic_trace(copied)
    except Exception as error:  # its forward pass ran on a stand-in for its inputs, and could do anything
        return copied, f"as it is: {type(error).__name__} when it was traced"
    folded = _fold_batch_norm(traced)
    done = f"batch norm folded into {folded} convolutions"
    if cudnn:
        done += f", {_use_cudnn(traced)} of cuDNN's convolutions with ReLU"
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced, done


class FusedConvolution(nn.Module):
    """A convolution by cuDNN, plus `other` where there is one, under a ReLU."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        assert not isinstance(convolution.padding, str)
        self.geometry = (convolution.stride, convolution.padding, convolution.dilation, convolution.groups)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """(n, before, h, w) -> (n, after, h', w'), the shape that `other` has as well."""
        if other is None:
            return torch.cudnn_convolution_relu(x, self.weight, self.bias, *self.geometry)
        return torch.cudnn_convolution_add_relu(x, self.weight, other, 1.0, self.bias, *self.geometry)


def _fold_batch_norm(traced: fx.GraphModule) -> int:
    """Fold every batch norm that follows a convolution of its own; return how many."""
    parts, calls = dict(traced.named_modules()), _calls(traced)
    done = 0
    for node in _calling(traced, parts, nn.BatchNorm2d):
        before = node.args[0]
        if not (isinstance(before, fx.Node) and before in _calling(traced, parts, nn.Conv2d)):
            continue
        convolution, norm = parts[str(before.target)], parts[str(node.target)]
        if len(before.users) > 1 or calls[str(before.target)] > 1 or norm.running_mean is None:
            continue
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        _replace(traced, before, fuse_conv_bn_eval(convolution, norm))
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)
        done += 1
    return done


def _use_cudnn(traced: fx.GraphModule) -> int:
    """Replace convolutions under a ReLU, with the sum between where there is one; return how many."""
    parts, calls = dict(traced.named_modules()), _calls(traced)
    done = 0
    for node in _calling(traced, parts, nn.Conv2d):
        convolution = parts[str(node.target)]
        assert isinstance(convolution, nn.Conv2d)
        if calls[str(node.target)] > 1 or convolution.padding_mode != "zeros" or isinstance(convolution.padding, str):
            continue
        total = _only_user(node)
        other = _addend(node, total)
        chain = [node] if total is None or other is None else [node, total]
        relu = _only_user(chain[-1])
        if relu is None or relu not in _calling(traced, parts, nn.ReLU):
            continue
        _replace(traced, node, FusedConvolution(convolution))
        done += 1
        with traced.graph.inserting_before(relu):
            given = (node.args[0],) if other is None else (node.args[0], other)
            together = traced.graph.call_module(str(node.target), given)
        relu.replace_all_uses_with(together)
        for gone in (relu, *reversed(chain)):
            traced.graph.erase_node(gone)
    return done


def _calling(traced: fx.GraphModule, parts: dict[str, nn.Module], *kinds: type[nn.Module]) -> list[fx.Node]:
    """Return the calls of modules of exactly one of these classes: a subclass may compute something else."""
    called = (node for node in traced.graph.nodes if node.op == "call_module")
    return [node for node in called if type(parts[str(node.target)]) in kinds]


def _calls(traced: fx.GraphModule) -> Counter[str]:
    return Counter(str(node.target) for node in traced.graph.nodes if node.op == "call_module")


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _addend(node: fx.Node, user: fx.Node | None) -> fx.Node | None:
    """Return what `user` adds to `node`, if it does that and nothing else."""
    if user is None or user.target not in (operator.add, torch.add) or user.kwargs or len(user.args) != 2:
        return None
    (other,) = [argument for argument in user.args if argument is not node] or (None,)
    return other if isinstance(other, fx.Node) else None


def _replace(traced: fx.GraphModule, node: fx.Node, module: nn.Module) -> None:
    parent, _, name = str(node.target).rpartition(".")
    setattr(traced.get_submodule(parent), name, module)


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorded forward pass: `replay` computes `outputs` from the present content of `inputs`."""

    inputs: Tensor
    outputs: Tensor
    replay: Callable[[], Any]
    pool: Any = None


def record(forward: Forward, inputs: Tensor, pool: Any = None) -> Recording:
    """Record `forward` on CUDA for inputs of this shape, with intermediate results in `pool` where that is given.

    Raises RuntimeError where it waits for the device, and leaves stream and allocator as they were.
    """
    held = inputs.clone()
    cuda: Any = torch.cuda
    aside = cuda.Stream(inputs.device)
    aside.wait_stream(torch.cuda.current_stream(inputs.device))
    checked = cuda.get_sync_debug_mode()
    with torch.cuda.stream(aside):
        try:
            forward(held)  # kernels are chosen, and workspaces made, before anything is recorded
            cuda.set_sync_debug_mode("error")  # most of what cannot be recorded is refused here, with nothing to mend
            for _ in range(2):
                forward(held)
        finally:
            cuda.set_sync_debug_mode(checked)
    torch.cuda.current_stream(inputs.device).wait_stream(aside)
    graph = cuda.CUDAGraph()
    # The outer block brings the stream back where the inner one fails, which then leaves that out.
    with torch.cuda.stream(aside):
        try:
            with cuda.graph(graph, pool=pool, stream=aside):  # its own stream would be the current device's
                outputs = forward(held)
        except RuntimeError:
            with contextlib.suppress(Exception):  # torch leaves the allocator in the middle of the recording
                end: Any = torch._C._cuda_endAllocateToPool
                end(inputs.device.index or 0, graph.pool())
            raise
    return Recording(held, outputs, graph.replay, graph.pool())


class Graphs:
    """A forward pass that replays CUDA graphs: a module's kernels recorded once per shape of its inputs.

    A network of small layers on a big GPU spends more time on launching kernels than on running them. All recordings
    share one pool for their intermediate results. The recording is a function that is handed in, so that everything
    around it is tested where there is no CUDA.
    """

    def __init__(self, forward: Forward, record: Callable[[Forward, Tensor, Any], Recording] = record) -> None:
        """Wrap `forward`; `record` makes a recording of it."""
        self._forward = forward
        self._record = record
        self._recordings: dict[tuple[Any, ...], Recording] = {}
        self.refused: str | None = None
        """Why the module, or another shape of inputs, is not recorded; it then runs as it is."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the outputs, which hold only until the next call. Raises OutOfMemoryError, after which to try less."""
        key = (inputs.shape, inputs.stride(), inputs.dtype)
        if key not in self._recordings:
            if self.refused is None and len(self._recordings) == MOST_SHAPES:
                self.refused = f"only {MOST_SHAPES} shapes of inputs are recorded"
            if self.refused is not None:
                return self._forward(inputs)
            pool = next((one.pool for one in self._recordings.values()), None)
            try:
                self._recordings[key] = self._record(self._forward, inputs, pool)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self.refused = str(error)
                return self._forward(inputs)
        recording = self._recordings[key]
        recording.inputs.copy_(inputs)
        recording.replay()
        return recording.outputs

    def clear(self) -> None:
        """Give the recordings' memory back."""
        self._recordings.clear()
