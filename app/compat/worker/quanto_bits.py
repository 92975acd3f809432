"""quanto's weights of 4 and 2 bits cannot be used in torch's inference mode.

Their layer transposes the packed tensor, which that mode refuses ("Cannot set version_counter for
inference tensor"). Their layers run outside of it, without gradients, which computes the same.
Needed with optimum-quanto 0.2.7.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from optimum.quanto import QModuleMixin, WeightQBitsTensor


def leave_inference_mode(component: torch.nn.Module) -> None:
    """Lets the packed layers of this component be called in inference mode."""
    for layer in component.modules():
        if isinstance(layer, QModuleMixin) and isinstance(layer.weight, WeightQBitsTensor):
            layer.forward = _outside(layer.forward)


def _outside(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def call(*args: Any, **named: Any) -> Any:
        with torch.inference_mode(False), torch.no_grad():
            return forward(*args, **named)

    return call
