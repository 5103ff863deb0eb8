"""What LoRA trained goes into the weights of its layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from lampq_onnx.importer import import_model
from lampq_onnx.importer.low_rank import MergeLowRank
from tests.converter.graphs import Builder, as_ir, vit

RANK = 2


def with_lora(model: onnx.ModelProto, *, after_bias: bool, scale: float) -> int:
    """Put two small products beside every MatMul with weights; their number."""
    random = np.random.default_rng(0)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes, count = list(model.graph.node), 0
    added: list[onnx.NodeProto] = []
    for index, node in enumerate(nodes):
        added.append(node)
        weight = weights.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is None or weight.ndim != 2:
            continue
        last = node
        if after_bias and nodes[index + 1].op_type == "Add" and node.output[0] in nodes[index + 1].input:
            last = nodes.pop(index + 1)
            added.append(last)
        name = f"lora{count}"
        for part, shape in (("a", (weight.shape[0], RANK)), ("b", (RANK, weight.shape[1]))):
            array = random.normal(size=shape).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(array, f"{name}.{part}"))
        model.graph.initializer.append(numpy_helper.from_array(np.float32(scale), f"{name}.scale"))
        out = last.output[0]
        last.output[0] = f"{out}.own"
        added += [
            helper.make_node("MatMul", [node.input[0], f"{name}.a"], [f"{name}.1"]),
            helper.make_node("MatMul", [f"{name}.1", f"{name}.b"], [f"{name}.2"]),
            helper.make_node("Mul", [f"{name}.2", f"{name}.scale"], [f"{name}.3"]),
            helper.make_node("Add", [f"{out}.own", f"{name}.3"], [out]),
        ]
        count += 1
    del model.graph.node[:]
    model.graph.node.extend(added)
    return count


def answers(proto: onnx.ModelProto) -> np.ndarray:
    images = np.random.default_rng(1).normal(size=(3, 3, 4, 4)).astype(np.float32)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": images})[0])


@pytest.mark.parametrize("after_bias", [False, True])
@pytest.mark.parametrize("qkv", ["separate", "fused"])
def test_the_model_has_its_own_layers_alone(qkv: str, after_bias: bool, tmp_path: Path) -> None:
    plain = vit(qkv=qkv)
    onnx.save(plain, tmp_path / "plain.onnx")
    model = vit(qkv=qkv)
    count = with_lora(model, after_bias=after_bias, scale=0.5)
    onnx.checker.check_model(model)
    onnx.save(model, tmp_path / "model.onnx")
    imported = import_model(tmp_path / "model.onnx")
    assert imported.changes["weights of LoRA merged"] == count > 4
    kinds = [node.op_type for node in imported.model.graph]
    assert sorted(kinds) == sorted(node.op_type for node in import_model(tmp_path / "plain.onnx").model.graph)
    wanted = answers(model)
    assert np.abs(wanted - answers(plain)).max() > 0.01  # the added weights matter
    np.testing.assert_allclose(answers(ir.to_proto(imported.model)), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["Div by 0", "more dimensions"])
def test_a_factor_that_is_no_finite_number_for_each_value_stays(kind: str, tmp_path: Path) -> None:
    builder = Builder(0)
    own = builder.op("MatMul", "x", builder.random("fc.weight", 4, 6))
    low = builder.op("MatMul", "x", builder.random("a", 4, RANK))
    low = builder.op("MatMul", low, builder.random("b", RANK, 6))
    if kind == "Div by 0":
        low = builder.op("Div", low, builder.constant("zero", 0.0))
    else:
        low = builder.op("Mul", low, builder.constant("half", np.full((1, 1, 1), 0.5)))
    builder.rename(builder.op("Add", own, low), "y")
    model = as_ir(builder.model({"x": ["n", 4]}, {"y": None}))
    assert MergeLowRank()(model).modified is False


def test_what_something_else_reads_too_stays(tmp_path: Path) -> None:
    model = vit(qkv="fused")
    count = with_lora(model, after_bias=False, scale=1.0)
    model.graph.output.append(helper.make_tensor_value_info("lora0.1", onnx.TensorProto.FLOAT, None))
    onnx.save(model, tmp_path / "model.onnx")
    assert import_model(tmp_path / "model.onnx").changes["weights of LoRA merged"] == count - 1
