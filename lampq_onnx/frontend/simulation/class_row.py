"""The class token alone in the last block, for models that read nothing else of it.

Most Vision Transformers classify by one row of their last block. Its queries, keys and values need all rows; the layers
behind the attention do not. `SelectEarly` changes the quantized file in the same way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from lampq_onnx.errors import is_out_of_memory
from lampq_onnx.frontend.shared.model_layers import ModelLayer

SAME = 1e-5
"""Largest relative difference (L2) between outputs with all rows and with one that float rounding explains."""

TYPES = (("proj", "fc1"), ("fc1",), ("proj",))
"""Types of layers whose inputs may be cut, most work first.

What reads their output computes one row as well. A sum with all rows repeats that row in the others, which nobody
reads.
"""

WRONG_SHAPE = (RuntimeError, ValueError, IndexError, AssertionError)
"""What models raise that need all rows: operators of PyTorch, checks of shapes, rows taken by number, assertions."""

_log = logging.getLogger(__name__)


class ClassRow:
    """Modules that need one row only.

    Args:
        modules: Linear modules that read (n, tokens, channels); none: every row is needed.
    """

    def __init__(self, modules: Sequence[torch.nn.Module] = ()) -> None:
        self.modules = tuple(modules)

    @contextmanager
    def only(self) -> Iterator[None]:
        """Let the modules compute the first row alone inside the block."""
        with ExitStack() as stack:
            for module in self.modules:
                stack.callback(module.register_forward_pre_hook(_first_row).remove)
            yield


@torch.no_grad()
def find_class_row(layers: Sequence[ModelLayer], outputs: Callable[[], torch.Tensor]) -> ClassRow:
    """Find the layers of the last block of which one row is enough, by computing the outputs both ways.

    Args:
        layers: layers of the last block.
        outputs: computes the model's outputs on at least two different images, so that images in rows are noticed.

    Raises:
        Exception: ``outputs`` fails for another reason than a wrong shape.
    """
    wanted = outputs().float()
    for types in TYPES:
        modules = [layer.module for layer in layers if layer.type in types]
        if not modules or {layer.type for layer in layers if layer.type in types} != set(types):
            continue
        row = ClassRow(modules)
        try:
            with row.only():
                found = outputs().float()
        except WRONG_SHAPE as error:
            if is_out_of_memory(error):
                raise
            _log.debug("the inputs of %s need all rows: %s", " and ".join(types), error)
            continue
        if found.shape == wanted.shape and bool((found - wanted).norm() <= SAME * wanted.norm()):
            return row
    return ClassRow()


def _first_row(_: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    values = inputs[0]
    return (values[:, :1] if values.ndim == 3 else values, *inputs[1:])
