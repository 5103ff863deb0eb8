"""Which input of a file is the image."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lampq_onnx.runtime.fidelity import _fixed_batch


@pytest.mark.parametrize(("batch", "wanted"), [("n", 0), (2, 2)])
def test_constants_that_are_listed_as_inputs_do_not_fix_the_batch(batch: int | str, wanted: int) -> None:
    kinds = [("w", [3, 1, 1]), ("x", [batch, 3, 8, 8]), ("y", [batch, 3, 8, 8])]
    w, x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in kinds)
    constant = numpy_helper.from_array(np.ones((3, 1, 1), np.float32), "w")
    graph = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["y"])], "graph", [w, x], [y], [constant])
    assert _fixed_batch(helper.make_model(graph)) == wanted
