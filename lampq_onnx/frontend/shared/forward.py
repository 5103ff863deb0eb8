"""Other forward passes of modules, and hooks on them, for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from lampq_onnx.frontend.shared.model_layers import ModelLayer


@contextmanager
def forward_of(module: torch.nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let a module compute something else inside; afterwards it has the forward pass from before."""
    own: Any = module
    before = own.__dict__.get("forward")
    own.forward = forward
    try:
        yield
    finally:
        if before is None:
            del own.__dict__["forward"]
        else:
            own.forward = before


@contextmanager
def hooked(layers: Sequence[ModelLayer], hook: Callable[[ModelLayer], Any]) -> Iterator[None]:
    """Call a hook with the output of each layer inside.

    Args:
        layers: the layers.
        hook: layer -> what is called with its module, inputs and output.
    """
    handles = [layer.module.register_forward_hook(hook(layer)) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
