"""ONNX operators as PyTorch functions; one file a kind, and `OPERATORS` collects them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lampq_onnx.frontend.onnx_model.operators.attention import ATTENTION
from lampq_onnx.frontend.onnx_model.operators.elementwise import ELEMENTWISE
from lampq_onnx.frontend.onnx_model.operators.layers import LAYERS
from lampq_onnx.frontend.onnx_model.operators.reductions import REDUCTIONS
from lampq_onnx.frontend.onnx_model.operators.tensors import TENSORS

Function = Callable[..., Any]
"""Inputs are positional (None: absent), attributes are keywords of their ONNX names; returns a tensor or a tuple.

Written for opsets 13 and later, where an attribute of one opset is an input of another, the function takes both. Small
constant integers (shapes, axes) come as CPU tensors.
"""

OPERATORS: Mapping[str, Function] = {**ELEMENTWISE, **TENSORS, **REDUCTIONS, **LAYERS, **ATTENTION}

WITHOUT_GRADIENT = frozenset({"Ceil", "Floor", "Round", "Sign"})
"""Operators on real numbers whose derivative is zero wherever it exists.

Comparisons and indices are not among them: what they select has a gradient, and their own is rightly zero.
"""
