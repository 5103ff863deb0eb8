"""Files that are written tensor by tensor have the bytes of onnx's own writer."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from lampq_onnx.graph.model_file import load_model, model_bytes, save_model
from lampq_onnx.graph.streamed import LEAST_BYTES, pieces
from lampq_onnx.importer.normalize import import_model
from lampq_onnx.runtime import open_runner

LARGE = LEAST_BYTES // 4


def example(*, large: int = 2, functions: bool = False, metadata: bool = True) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    arrays = {f"w{i}": random.normal(size=(LARGE + i, 1)).astype(np.float32) for i in range(large)}
    arrays |= {"small": np.arange(3, dtype=np.int64), "flat": np.float32(2.0)}
    nodes = [helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.ones(4, np.float32), "c"))]
    nodes += [helper.make_node("Mul", ["x", name], [f"y{i}"], name=f"n{i}") for i, name in enumerate(arrays)]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    typed = TensorProto(name="typed", data_type=TensorProto.FLOAT, dims=[LARGE * 4], float_data=[0.5] * (LARGE * 4))
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("y0", TensorProto.FLOAT, None)],
        [*tensors, typed],
        doc_string="what it is",
        value_info=[helper.make_tensor_value_info("y1", TensorProto.FLOAT, ["n", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10, producer_name="test")
    if functions:
        inner = helper.make_node("Identity", ["a"], ["b"])
        own = helper.make_function("own", "F", ["a"], ["b"], [inner], [helper.make_opsetid("", 20)])
        model.functions.append(own)
        model.opset_import.append(helper.make_opsetid("own", 1))
    if metadata:
        helper.set_model_props(model, {"b": "2", "a": "1" * 300})
    return model


@pytest.mark.parametrize(
    "make",
    [
        example,
        lambda: example(large=0),
        lambda: example(large=1, functions=True),
        lambda: example(large=5, metadata=False),
    ],
)
def test_the_bytes_are_those_of_protobuf(make: Callable[[], onnx.ModelProto]) -> None:
    model = ir.from_proto(make())
    wanted = ir.to_proto(model).SerializeToString()
    assert b"".join(pieces(model)) == wanted
    assert model_bytes(model) == len(wanted)


def test_arrays_are_written_like_constants_of_a_file(tmp_path: Path) -> None:
    model = ir.from_proto(example())
    value = model.graph.initializers["w1"]
    replacement = np.random.default_rng(1).integers(-8, 8, (LARGE * 8, 1)).astype(np.int8)
    value.const_value = ir.tensor(replacement, name="another name")
    value.dtype, value.shape = ir.DataType.INT8, ir.Shape(replacement.shape)
    wanted = ir.to_proto(model).SerializeToString()
    assert value.const_value.name == "w1"
    save_model(model, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == wanted
    assert np.array_equal(value.const_value.numpy(), replacement)


def test_initializers_that_share_a_tensor_keep_their_names(tmp_path: Path) -> None:
    model = ir.from_proto(example(large=3))
    values = model.graph.initializers
    values["w2"].const_value = values["w1"].const_value
    values["w2"].shape = values["w1"].shape
    wanted = ir.to_proto(model).SerializeToString()
    assert b"".join(pieces(model)) == wanted
    assert values["w2"].const_value is values["w1"].const_value
    save_model(model, tmp_path / "model.onnx")
    assert set(load_model(tmp_path / "model.onnx").graph.initializers) == set(values)


def test_a_function_with_a_large_constant_called_twice_is_saved_as_a_sound_file(tmp_path: Path) -> None:
    shape = (3, LARGE)
    constant = numpy_helper.from_array(np.random.default_rng(0).normal(size=shape).astype(np.float32), "c")
    nodes = [helper.make_node("Constant", [], ["c"], value=constant), helper.make_node("Mul", ["a", "c"], ["b"])]
    opset = helper.make_opsetid("", 20)
    function = helper.make_function("own", "F", ["a"], ["b"], nodes, [opset])
    calls = [helper.make_node("F", ["x"], ["t"], domain="own"), helper.make_node("F", ["t"], ["y"], domain="own")]
    kinds = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1, *shape]) for name in "xy"]
    graph = helper.make_graph(calls, "graph", kinds[:1], kinds[1:])
    opsets = [opset, helper.make_opsetid("own", 1)]
    source, saved = tmp_path / "source.onnx", tmp_path / "saved.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10), source)
    save_model(import_model(source).model, saved)
    onnx.checker.check_model(saved)
    images = np.random.default_rng(1).normal(size=(2, 1, *shape)).astype(np.float32)
    wanted, found = (open_runner(path, threads=1)(images) for path in (source, saved))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_weights_are_not_copied_together(tmp_path: Path) -> None:
    size = 2**20
    arrays = [np.full(size, i, np.float32) for i in range(12)]
    model = ir.from_proto(example(large=0))
    for i, array in enumerate(arrays):
        tensor, kind = ir.tensor(array, name=f"large{i}"), ir.TensorType(ir.DataType.FLOAT)
        model.graph.register_initializer(
            ir.Value(name=f"large{i}", shape=ir.Shape([size]), type=kind, const_value=tensor)
        )
    tracemalloc.start()
    try:
        save_model(model, tmp_path / "model.onnx")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * arrays[0].nbytes
    found = load_model(tmp_path / "model.onnx")
    assert np.array_equal(np.asarray(found.graph.initializers["large7"].const_value), arrays[7])
