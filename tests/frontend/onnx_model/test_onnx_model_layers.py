"""Layers of a file as PyTorch modules."""

from __future__ import annotations

import numpy as np
import pytest

from lampq_onnx.frontend.onnx_model.build import layers_of
from lampq_onnx.graph.layers import find_layers
from tests.converter.graphs import Builder, as_ir, reference


@pytest.mark.parametrize("kind", ["row", "number", "matrix", "column", "computed", "none"])
def test_a_gemm_is_a_module_only_with_all_that_it_adds(kind: str) -> None:
    torch = pytest.importorskip("torch")
    b = Builder(0)
    shapes = {"row": (1, 4), "number": (), "matrix": (3, 4), "column": (3, 1)}
    third = [b.constant("offset", b.rng.normal(size=shapes[kind]))] if kind in shapes else []
    if kind == "computed":
        third = [b.op("Slice", b.op("Relu", "x"), b.ints(0), b.ints(4), b.ints(1))]
    b.rename(b.op("Gemm", "x", b.random("fc.weight", 6, 4), *third), "y")
    model = b.model({"x": [3, 6]}, {"y": [3, 4]})
    graph = as_ir(model).graph
    modules = list(layers_of(graph, find_layers(graph)).modules.values())
    assert bool(modules) == (kind in ("row", "number", "none"))
    if modules:
        x = b.rng.normal(size=(3, 6)).astype(np.float32)
        with torch.no_grad():
            found = modules[0](torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(found, reference(model, x), rtol=1e-5, atol=1e-5)
