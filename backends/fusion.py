"""A copy of a network with the same answers from less traffic: batch norm folded away, ReLU and sums done in passing.

At inference batch norm is a fixed affine map of a convolution's channels, so it folds into that convolution's weights
(Jacob et al. 2018, section 3.2). On the CPU, oneDNN's convolutions can also add the shortcut and apply the ReLU to
results that are still in a register, with weights laid out for its kernels beforehand.
"""

from __future__ import annotations

import copy
import operator
from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fused(module: nn.Module, *, onednn: bool) -> tuple[nn.Module, str]:
    """Return a copy of `module` for inference and, in words, what was done to it; the module itself is left alone.

    `onednn` uses oneDNN's fused convolutions, float32 on the CPU, where this torch has them. A network whose forward
    pass depends on its inputs cannot be traced; it is then a plain copy.
    """
    copied = copy.deepcopy(module).eval().requires_grad_(False)
    try:
        traced = fx.symbolic_trace(copied)
    except Exception as error:  # its forward pass ran on a stand-in for its inputs, and could do anything
        return copied, f"as it is: {type(error).__name__} when it was traced"
    folded = _fold_batch_norm(traced)
    done = f"batch norm folded into {folded} convolutions"
    if onednn and has_onednn():
        done += f", {_use_onednn(traced)} of oneDNN's convolutions"
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced, done


def has_onednn() -> bool:
    """Say whether this torch has the fused convolutions, which are not part of its documented interface."""
    operators = torch.ops.mkldnn
    available: Any = torch.backends.mkldnn.is_available
    wanted = ("_convolution_pointwise", "_reorder_convolution_weight")
    return bool(available()) and all(hasattr(operators, name) for name in wanted)


class FusedConvolution(nn.Module):
    """A convolution by oneDNN, plus `other` where there is one, under an activation."""

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module | None) -> None:
        super().__init__()
        self.geometry = (convolution.padding, convolution.stride, convolution.dilation, convolution.groups)
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(convolution.weight.detach(), *self.geometry, None)
        self.bias = convolution.bias
        self.activation, self.limits = _ACTIVATIONS[type(activation)]

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """(n, before, h, w) -> (n, after, h', w'), the shape that `other` has as well."""
        run = torch.ops.mkldnn._convolution_pointwise
        given = (self.weight, self.bias, *self.geometry)
        if other is None:
            outputs: Tensor = run(x, *given, self.activation, self.limits, "")
        else:
            activation = None if self.activation == "none" else self.activation
            outputs = run.binary(x, other, *given, "add", 1.0, activation, self.limits, None)
        return outputs


_ACTIVATIONS: dict[type, tuple[str, list[float]]] = {
    type(None): ("none", []),
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
}


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


def _use_onednn(traced: fx.GraphModule) -> int:
    """Replace convolutions, with the sum and the activation that follow them; return how many."""
    parts, calls = dict(traced.named_modules()), _calls(traced)
    done = 0
    for node in _calling(traced, parts, nn.Conv2d):
        convolution = parts[str(node.target)]
        assert isinstance(convolution, nn.Conv2d)
        if calls[str(node.target)] > 1 or convolution.padding_mode != "zeros" or isinstance(convolution.padding, str):
            continue
        # Of two convolutions that are added, the first adds the other, which then has no sum as its user any more.
        total = _only_user(node)
        other = _addend(node, total)
        chain = [node] if total is None or other is None else [node, total]
        activation = _only_user(chain[-1])
        if activation in _calling(traced, parts, nn.ReLU, nn.ReLU6) and activation is not None:
            chain.append(activation)
        kind = parts.get(str(chain[-1].target)) if len(chain) > 1 else None
        _replace(traced, node, FusedConvolution(convolution, kind))
        done += 1
        if len(chain) == 1:
            continue
        with traced.graph.inserting_before(chain[-1]):
            given = (node.args[0],) if other is None else (node.args[0], other)
            together = traced.graph.call_module(str(node.target), given)
        chain[-1].replace_all_uses_with(together)
        for gone in reversed(chain):
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
