"""Types of floating-point numbers in nodes: their tensors, and the attributes that name a type."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")
"""Attributes that name the type of a node's output."""


def change_tensors(
    node: ir.Node, types: Collection[ir.DataType], change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
) -> int:
    """Change the tensor attributes of a node that have one of ``types``; return how many were changed."""
    count = 0
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in types:
            tensor = attribute.as_tensor()
            changed = ir.tensor(change(np.asarray(tensor.numpy())), name=tensor.name)
            node.attributes[name] = ir.AttrTensor(name, changed)
            count += 1
    return count
