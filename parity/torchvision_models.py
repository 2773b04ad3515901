"""torchvision's classifiers as networks: found by name, untrained, and refused in a sentence where they do not fit.

Dropout and stochastic depth are switched off: a parity model learns a function, which noise in the layers would blur,
and training stays the same from run to run.
"""

from __future__ import annotations

import difflib
from typing import cast

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from parity.networks import Shape
from sim.errors import ParmError

EXTRA_HEADS = {"googlenet", "inception_v3"}
"""These answer with further heads while they train, unless they are told not to."""


def classifier(name: str, shape: Shape, outputs: int) -> nn.Module:
    """Make torchvision's network `name`, (n, 3, h, w) -> (n, outputs).

    Raises ParmError for an unknown name, for images without three channels, and for a size that the network refuses.
    """
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(names)}"
        raise ParmError(f"torchvision has no classifier '{name}'; {hint}")
    channels, height, width = shape
    if channels != 3:
        raise ParmError(f"torchvision's {name} needs images of 3 channels, not {channels}")
    extra = {"aux_logits": False, "init_weights": True} if name in EXTRA_HEADS else {}
    module = cast(nn.Module, torchvision.models.get_model(name, weights=None, num_classes=outputs, **extra))
    for layer in module.modules():
        if isinstance(layer, _DropoutNd | torchvision.ops.StochasticDepth):
            layer.p = 0.0
    try:
        with torch.no_grad():
            module.eval()(torch.zeros(1, *shape))
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ParmError(f"torchvision's {name} does not take images of {height}x{width} ({reason})") from error
    return module.train()
