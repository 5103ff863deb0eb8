"""Odd ONNX files are taken or refused in one sentence; nodes outside all modules get names of their own."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from lampq_onnx.config.inputs import ImageOptions, ModelOptions
from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.models.export import export_model
from lampq_onnx.frontend.opening import load_model
from tests.frontend.odd_models import Plain

HALF = ImageOptions(mean=(0.5,) * 3, std=(0.5,) * 3)


class RootProducts(Plain):
    """Two products in the model's own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.last = torch.nn.Parameter(torch.randn(16, 16)), torch.nn.Parameter(torch.randn(4, 16))
        self.head = torch.nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear((self.pooled(images) @ self.text).relu(), self.last)


@pytest.mark.parametrize("dynamo", [False, True])
def test_products_of_the_root_are_layers_with_names(dynamo: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = RootProducts().eval()
    path = tmp_path / "root.onnx"
    batch = {"dynamic_shapes": ({0: torch.export.Dim("b")},)} if dynamo else {"dynamic_axes": {"input": {0: "b"}}}
    with redirect_stdout(io.StringIO()):
        torch.onnx.export(
            model, (torch.randn(2, 3, 16, 16),), path, input_names=["input"], output_names=["logits"],
            opset_version=18, dynamo=dynamo, **batch,
        )  # fmt: skip
    loaded = load_model(ModelOptions(name=str(path)), HALF)
    exported = export_model(loaded)
    names = [layer.name for layer in exported.layers]
    assert len(names) == len(set(names)) == 7
    assert all(name and "/" not in name for name in names)
    matrices = [layer.matrix() for layer in exported.layers]
    for wanted in (model.text.detach().numpy().T, model.last.detach().numpy()):
        assert any(m.shape == wanted.shape and np.array_equal(m, wanted) for m in matrices)


IMAGES = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3, 16, 16])


def graph(nodes: list[onnx.NodeProto], kind: int, shape: list[int | str], **weights: np.ndarray) -> onnx.ModelProto:
    output = helper.make_tensor_value_info("y", kind, shape)
    values = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    return helper.make_model(
        helper.make_graph(nodes, "odd", [IMAGES], [output], values),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )


PRODUCT = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["z"])]
CASES = {
    "nothing": (
        graph([helper.make_node("Relu", ["x"], ["y"])], TensorProto.FLOAT, ["b", 3, 16, 16]), "has no parameters",
    ),
    "one number": (
        graph([*PRODUCT, helper.make_node("ReduceMean", ["z"], ["y"], keepdims=0)], TensorProto.FLOAT, [],
              w=np.ones((768, 4))),
        r"the output y of .* is float32 \(\) for two images",
    ),
    "classes": (
        graph([*PRODUCT, helper.make_node("ArgMax", ["z"], ["y"], axis=1)], TensorProto.INT64, ["b", 1],
              w=np.ones((768, 4))),
        r"the output y of .* is int64 \(2, 1\) for two images",
    ),
    "a single layer": (
        graph([PRODUCT[0], helper.make_node("MatMul", ["f", "w"], ["y"], name="/")], TensorProto.FLOAT, ["b", 4],
              w=np.ones((768, 4))),
        "no attention layers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_odd_files_are_refused(case: str, tmp_path: Path) -> None:
    model, message = CASES[case]
    path = tmp_path / "odd.onnx"
    onnx.save(model, path)
    with pytest.raises(LampqError, match=message) as caught:
        export_model(load_model(ModelOptions(name=str(path)), HALF))
    assert caught.value.hint
