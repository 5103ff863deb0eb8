from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from lampq_onnx.frontend.onnx_model.freeze import _infer_in_reshapes
from lampq_onnx.frontend.onnx_model.graph import ShapeValues


@pytest.mark.parametrize(
    ("first", "per_image", "constant"), [("batch", 1, True), ("windows", 1, False), ("windows", 4, False)]
)
def test_a_first_dimension_is_copied_only_where_it_counts_images(first: str, per_image: int, constant: bool) -> None:
    """Windows of SAM are joined to images again by a Reshape whose last size is inferred already."""
    images = ir.Value(name="images", shape=ir.Shape(["batch", 3, 4, 4]), type=ir.TensorType(ir.DataType.FLOAT))
    read = ir.Value(name="read", shape=ir.Shape([first, 9, 8]), type=ir.TensorType(ir.DataType.FLOAT))
    sizes = ir.Value(name="sizes", shape=ir.Shape([3]), type=ir.TensorType(ir.DataType.INT64))
    reshape = ir.node("Reshape", [read, sizes])
    graph = ir.Graph([images, read, sizes], reshape.outputs, nodes=[reshape], opset_imports={"": 20})
    value = ShapeValues(start=torch.tensor([0, 6, -1]), slope=torch.tensor([per_image, 0, 0]))
    _infer_in_reshapes(graph, sizes, value)
    found = reshape.inputs[1]
    assert found is not None
    assert (found.const_value is not None) == constant
    if constant:
        np.testing.assert_array_equal(found.const_value.numpy(), [0, 6, -1])
