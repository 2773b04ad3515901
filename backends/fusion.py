"""A network traced and written anew for inference, so that there is less to compute or CUDA computes it faster.

Such a copy is trusted once it has answered one input as its network does.
"""

from __future__ import annotations

import copy
import operator
from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

CHANNELS = 8
"""Tensor cores take half precision eight channels at a time, of which three of an image fill less than half."""


def trusted_copy(
    module: nn.Module, inputs: Tensor, *, cudnn: bool = False, wide_stem: bool = False
) -> tuple[nn.Module, str]:
    """Return a fused copy of `module` and what was done to it, once it has answered `inputs` (n, *shape) alike.

    Where it does not, return a plain copy: a network can do what tracing does not show. See `fused` for the options.
    """
    made, how = fused(module, cudnn=cudnn, wide_stem=wide_stem)
    plain = module(inputs)
    try:
        error = float((made(inputs) - plain).abs().max())
    except RuntimeError as problem:
        return copy.deepcopy(module), f"as it is: fused, it says {str(problem).splitlines()[0]}"
    allowed = 1e-4 * max(1.0, float(plain.abs().max()))
    return (made, how) if error <= allowed else (copy.deepcopy(module), f"as it is: fused, it is off by {error:.1e}")


def fused(module: nn.Module, *, cudnn: bool = False, wide_stem: bool = False) -> tuple[nn.Module, str]:
    """Return a copy of `module` for inference and, in words, what was done to it; the module itself is not changed.

    At inference batch norm is a fixed affine map of a convolution's channels, so it folds into that convolution's
    weights (Jacob et al. 2018, section 3.2). `cudnn` also takes each convolution, the sum and the ReLU that follow it
    as one operator of cuDNN's, which runs on CUDA only. `wide_stem` gives convolutions of the network's inputs
    channels of zeros, up to a multiple of `CHANNELS`.

    A network whose forward pass depends on its inputs cannot be traced; it is then a plain copy.
    """
    copied = copy.deepcopy(module).eval().requires_grad_(False)
    try:
        traced = fx.symbolic_trace(copied)
    except Exception as error:  # its forward pass ran on a stand-in for its inputs, and could do anything
        return copied, f"as it is: {type(error).__name__} when it was traced"
    folded = _fold_batch_norm(traced)
    done = f"batch norm folded into {folded} convolutions"
    if wide_stem:
        done += f", {_widen_stem(traced)} of them given channels of zeros"
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


def widened(x: Tensor, channels: int) -> Tensor:
    """(n, c, h, w) -> (n, channels, h, w), with zeros in the channels that are missing."""
    missing = channels - x.shape[1]
    return functional.pad(x, (0, 0, 0, 0, 0, missing)) if missing else x


def _widen_stem(traced: fx.GraphModule) -> int:
    """Give convolutions of the inputs more channels, whose weights are zero; return how many."""
    parts, calls = dict(traced.named_modules()), _calls(traced)
    done = 0
    for node in _calling(traced, parts, nn.Conv2d):
        convolution, before = parts[str(node.target)], node.args[0]
        assert isinstance(convolution, nn.Conv2d)
        missing = -convolution.in_channels % CHANNELS
        if not (missing and isinstance(before, fx.Node) and before.op == "placeholder"):
            continue
        if calls[str(node.target)] > 1 or convolution.groups > 1:
            continue
        convolution.in_channels += missing
        convolution.weight = nn.Parameter(widened(convolution.weight, convolution.in_channels), requires_grad=False)
        with traced.graph.inserting_before(node):
            node.replace_input_with(before, traced.graph.call_function(widened, (before, convolution.in_channels)))
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
