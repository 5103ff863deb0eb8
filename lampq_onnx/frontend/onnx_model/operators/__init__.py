"""ONNX operators as PyTorch functions: one file per kind of operator, collected in `OPERATORS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lampq_onnx.frontend.onnx_model.operators.attention import ATTENTION
from lampq_onnx.frontend.onnx_model.operators.elementwise import ELEMENTWISE
from lampq_onnx.frontend.onnx_model.operators.layers import LAYERS
from lampq_onnx.frontend.onnx_model.operators.reductions import REDUCTIONS
from lampq_onnx.frontend.onnx_model.operators.resampling import RESAMPLING
from lampq_onnx.frontend.onnx_model.operators.tensors import TENSORS

Function = Callable[..., Any]
"""An ONNX operator as a function that returns a tensor or a tuple.

Inputs are positional arguments (None if absent), attributes are keywords with their ONNX names. The functions support
opset 13 and later. If an attribute of one opset is an input of another, the function accepts both. Small constant
integers (shapes, axes) are CPU tensors.
"""

OPERATORS: Mapping[str, Function] = {**ELEMENTWISE, **TENSORS, **REDUCTIONS, **LAYERS, **RESAMPLING, **ATTENTION}

WITHOUT_GRADIENT = frozenset({"Ceil", "Floor", "Round", "Sign"})
"""Operators on real numbers whose derivative is zero wherever it exists.

Comparisons and indices are not listed: the values that they select have a gradient, and their own derivative really is
zero.
"""
