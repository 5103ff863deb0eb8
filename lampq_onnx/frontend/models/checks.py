"""Operators of torch that the exporter does not know: the checks of a model's own shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnxscript
import torch
from onnxscript import opset18


def _is_all_true(values: Any) -> Any:
    """The condition of an assertion, such as that the sizes of all levels add up; nothing else reads it."""
    op: Any = opset18  # the signatures know constants only, not the values of a graph
    smallest = op.ReduceMin(op.Cast(values, to=onnxscript.INT32.dtype), keepdims=0)
    return op.Cast(smallest, to=onnxscript.BOOL.dtype)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.aten._is_all_true.default: _is_all_true}
"""Operator of torch -> function that writes it as nodes."""
