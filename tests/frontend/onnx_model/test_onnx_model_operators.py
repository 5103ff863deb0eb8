"""Every operator against onnxruntime."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from lampq_onnx.frontend.onnx_model.build import Layers, steps_of
from lampq_onnx.frontend.onnx_model.dependence import run
from lampq_onnx.frontend.onnx_model.operators import OPERATORS

RNG = np.random.default_rng(0)


def real(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@dataclass(frozen=True)
class Case:
    """One node; arrays are its inputs, None an absent one; ``data`` says how many come at run time."""

    kind: str
    inputs: tuple[Any, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 20
    outputs: int = 1

    def __str__(self) -> str:
        return f"{self.kind}-{self.opset}-" + ",".join(f"{k}={v}" for k, v in self.attributes.items())


X = real(2, 4, 6)
IMAGE = real(2, 4, 6, 6)
UNARY = [
    *(
        "Abs",
        "Atan",
        "Tan",
        "Ceil",
        "Cos",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "IsNaN",
    ),
    *("LeakyRelu", "LogSoftmax", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Shape", "Sigmoid", "Sign"),
    *("Sin", "Size", "Softmax", "Softplus", "Softsign", "Tanh", "Flatten", "Transpose", "Dropout", "IsInf"),
]
BOOL = X > 0
CASES = [
    *(Case(kind, (X,)) for kind in UNARY),
    *(Case(kind, (np.abs(X),)) for kind in ("Sqrt", "Log")),
    *(Case(kind, (X, real(4, 1))) for kind in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Mean", "Sum")),
    *(Case(kind, (X, real(4, 1))) for kind in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")),
    *(Case(kind, (BOOL, real(4, 1) > 0)) for kind in ("And", "Or", "Xor")),
    Case("Not", (BOOL,)),
    Case("Div", (ints(7, -7, 9), ints(2, 2, -4))),
    Case("Mod", (ints(7, -7, 9), ints(2, 3, -4))),
    Case("Mod", (X, real(6)), {"fmod": 1}),
    Case("Pow", (X, np.float32(2))),
    Case("PRelu", (X, real(6))),
    Case("Clip", (X, np.float32(-0.5), None)),
    Case("Clip", (X, None, np.float32(0.5))),
    Case("Where", (BOOL, X, real(6))),
    Case("Cast", (X,), {"to": TensorProto.INT64}),
    Case("CastLike", (X, ints(1))),
    Case("Gelu", (X,), {"approximate": "tanh"}),
    Case("Softmax", (X,), {"axis": 1}),
    Case("LayerNormalization", (X, real(6), real(6)), {"epsilon": 1e-3}),
    Case("LayerNormalization", (X, real(4, 6)), {"axis": 1}),
    Case("RMSNormalization", (X, real(6)), opset=23),
    Case("BatchNormalization", (IMAGE, real(4), real(4), real(4), np.abs(real(4)))),
    Case("InstanceNormalization", (IMAGE, real(4), real(4))),
    Case("GroupNormalization", (IMAGE, real(2), real(2)), {"num_groups": 2}, opset=18),
    Case("GroupNormalization", (IMAGE, real(4), real(4)), {"num_groups": 2}, opset=21),
    Case("LpNormalization", (X,), {"axis": 1, "p": 2}),
    Case("GridSample", (IMAGE, 0.7 * real(2, 3, 5, 2))),
    Case("GridSample", (IMAGE, 0.7 * real(2, 3, 5, 2)), {"mode": "nearest", "align_corners": 1}),
    Case("GridSample", (IMAGE, 0.7 * real(2, 3, 5, 2)), {"mode": "bilinear", "padding_mode": "border"}, opset=16),
    Case("MatMul", (X, real(6, 3))),
    Case("Gemm", (real(3, 4), real(5, 4), real(5)), {"alpha": 0.5, "beta": 2.0, "transB": 1}),
    Case("Einsum", (X, real(6, 3)), {"equation": "bnd,de->bne"}),
    Case("Conv", (IMAGE, real(8, 2, 3, 3), real(8)), {"group": 2, "pads": [1, 0, 0, 1], "strides": [2, 1]}),
    Case("Conv", (IMAGE, real(8, 4, 3, 3)), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    Case("Conv", (IMAGE, real(8, 4, 2, 2)), {"auto_pad": "SAME_LOWER"}),
    Case("MaxPool", (IMAGE,), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    Case("AveragePool", (IMAGE,), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    Case("AveragePool", (IMAGE,), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    Case("GlobalAveragePool", (IMAGE,)),
    Case("Reshape", (X, ints(0, -1))),
    Case("Reshape", (real(0, 3), ints(0, 5)), {"allowzero": 1}),
    Case("Transpose", (X,), {"perm": [2, 0, 1]}),
    Case("Flatten", (IMAGE,), {"axis": 2}),
    Case("Squeeze", (real(2, 1, 3, 1), ints(1, -1))),
    Case("Squeeze", (real(2, 1, 3, 1),)),
    Case("Unsqueeze", (X, ints(0, -1))),
    Case("Expand", (real(3, 1), ints(2, 1, 4))),
    Case("Concat", (X, real(2, 1, 6)), {"axis": 1}),
    Case("Split", (real(2, 7),), {"axis": 1, "num_outputs": 3}, opset=18, outputs=3),
    Case("Split", (X, ints(1, 3)), {"axis": 1}, outputs=2),
    Case("Split", (X,), {"axis": 1}, opset=13, outputs=2),
    Case("Slice", (X, ints(1, -2), ints(9, 100), ints(1, 2))),
    Case("Slice", (X, ints(-1), ints(-100), ints(2), ints(-2))),
    Case("Slice", (X, ints(4), ints(0), ints(2), ints(-3))),
    Case("Gather", (X, ints(1, -1)), {"axis": 2}),
    Case("Gather", (X, np.array(-1)), {"axis": 1}),
    Case("Gather", (X, np.array([[0, 1], [1, 0]])), {"axis": 1}),
    Case("GatherElements", (X, RNG.integers(-6, 6, (2, 4, 3))), {"axis": 2}),
    Case("GatherND", (X, np.array([[0, 1], [1, 3]]))),
    Case("ScatterElements", (X, np.array([[[0, -1, 2]]]), real(1, 1, 3)), {"axis": 2}),
    Case("ScatterElements", (X, np.array([[[1, -3]]]), real(1, 1, 2)), {"axis": 1, "reduction": "add"}),
    Case("ScatterND", (X, np.array([[0, 1], [1, 3]]), real(2, 6))),
    Case("Tile", (X, ints(1, 2, 1))),
    Case("Pad", (X, ints(0, 1, 0, 0, 2, 1), np.float32(3))),
    Case("Pad", (X, ints(1, 1), None, ints(-1)), {"mode": "reflect"}, opset=18),
    Case("Pad", (X, ints(0, 1, 0, 0, 2, 1)), {"mode": "edge"}),
    Case("Shape", (X,), {"start": 1}),
    Case("ConstantOfShape", (ints(2, 3),), {"value": helper.make_tensor("v", TensorProto.INT64, [1], [7])}),
    Case("Range", (np.array(1), np.array(9), np.array(3))),
    Case("Trilu", (X, np.array(1)), {"upper": 0}),
    Case("OneHot", (ints(0, 2), np.array(3), np.array([0, 5], np.float32))),
    Case("DepthToSpace", (IMAGE,), {"blocksize": 2}),
    Case("DepthToSpace", (IMAGE,), {"blocksize": 2, "mode": "CRD"}),
    Case("SpaceToDepth", (IMAGE,), {"blocksize": 2}),
    *(
        Case(kind, (X,), {"axes": [1], "keepdims": 0}, opset=13)
        for kind in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceProd")
    ),
    Case("ReduceMean", (X, ints(-1, 1)), opset=18),
    Case("ReduceMean", (X,), {"noop_with_empty_axes": 1}, opset=18),
    Case("ReduceSum", (X,)),
    Case("ReduceLogSumExp", (X, ints(1)), opset=18),
    Case("ArgMax", (X,), {"axis": 2}),
    Case("ArgMin", (X,), {"axis": 1, "keepdims": 0}),
    Case("CumSum", (X, np.array(1)), {"exclusive": 1, "reverse": 1}),
    Case("TopK", (X, ints(2)), {"axis": 2}, outputs=2),
    Case("Attention", (real(2, 3, 5, 4), real(2, 3, 7, 4), real(2, 3, 7, 4)), {"scale": 0.3}, opset=23),
    Case("Attention", (real(2, 5, 12), *[real(2, 5, 12)] * 2), {"q_num_heads": 3, "kv_num_heads": 3}, opset=23),
    Case("RotaryEmbedding", (real(2, 3, 5, 4), real(2, 5, 2), real(2, 5, 2)), opset=23),
    Case("RotaryEmbedding", (real(2, 3, 5, 4), real(2, 5, 2), real(2, 5, 2)), {"interleaved": 1}, opset=23),
    Case("Resize", (IMAGE, None, None, ints(2, 4, 9, 4)), {"mode": "linear"}),
    Case("Resize", (IMAGE, None, None, ints(2, 4, 9, 12)), {"mode": "cubic"}),
    *(
        Case("Resize", (IMAGE, None, np.array([1, 1, 1.3, 0.7], np.float32)), {
            "mode": mode, "coordinate_transformation_mode": coordinates, **rounding
        })
        for coordinates in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
        for mode, rounding in (
            ("linear", {}), *(("nearest", {"nearest_mode": own}) for own in ("floor", "ceil", "round_prefer_floor"))
        )
    ),
    Case("Resize", (X, None, None, ints(2, 4, 9)), {"mode": "linear"}),
    Case("Resize", (X, None, None, ints(2, 4, 1)), {
        "mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"
    }),
    *(
        Case("Resize", (IMAGE, None, np.array([1, 1, *scales], np.float32)), {"nearest_mode": rounding})
        for scales in ((0.5, 0.5), (1.5, 1.5), (2, 0.5))
        for rounding in ("round_prefer_floor", "round_prefer_ceil")
    ),
    *(
        Case("Resize", (IMAGE, None, None, ints(2, 4, *size)), {
            "mode": mode, "coordinate_transformation_mode": coordinates
        })
        for size in ((1, 1), (1, 9), (3, 1))
        for mode in ("linear", "cubic")
        for coordinates in ("half_pixel", "pytorch_half_pixel")
    ),
    Case("ConvTranspose", (IMAGE, real(4, 3, 2, 2), real(3)), {"strides": [2, 2]}),
    Case("ConvTranspose", (IMAGE, real(4, 2, 3, 3)), {
        "strides": [2, 3], "pads": [1, 0, 2, 1], "output_padding": [1, 2], "group": 2, "dilations": [2, 1]
    }),
    Case("ConvTranspose", (IMAGE, real(4, 3, 4, 4)), {"strides": [2, 2], "output_shape": [11, 12]}),
    Case("ConvTranspose", (IMAGE, real(4, 3, 3, 3)), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    Case("ConvTranspose", (X, real(4, 3, 3)), {"strides": [2]}),
    Case("GlobalMaxPool", (IMAGE,)),
    Case("Resize", (IMAGE, None, np.array([1, 1, 2, 2], np.float32)), {
        "mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"
    }),
]  # fmt: skip


def make(case: Case) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Model whose first input comes at run time and whose others are constants."""
    names = ["" if value is None else f"i{k}" for k, value in enumerate(case.inputs)]
    arrays = {name: np.asarray(value) for name, value in zip(names, case.inputs, strict=True) if name}
    outputs = [f"o{k}" for k in range(case.outputs)]
    node = helper.make_node(case.kind, names, outputs, name="node", **case.attributes)
    first = arrays["i0"]
    graph = helper.make_graph(
        [node],
        "case",
        [helper.make_tensor_value_info("i0", helper.np_dtype_to_tensor_dtype(first.dtype), first.shape)],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in arrays.items() if name != "i0"],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", case.opset)], ir_version=10), {"i0": first}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operator_computes_what_onnxruntime_does(case: Case) -> None:
    proto, feed = make(case)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = session.run(None, feed)
    (step,), constants, modules = steps_of(ir.from_proto(proto).graph, Layers({}, {}))
    values = {**constants, "": None, "i0": torch.from_numpy(feed["i0"])}
    found = run(step, values, modules)
    assert len(found) >= len(wanted)
    for ours, theirs in zip(found, wanted, strict=False):
        assert ours.numpy().dtype == theirs.dtype
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=2e-5, atol=2e-6)


def test_every_operator_is_tested() -> None:
    assert {case.kind for case in CASES} >= set(OPERATORS) - {"Swish"}  # opset 24, which comes from other exporters
