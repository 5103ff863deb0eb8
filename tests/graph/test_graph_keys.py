"""The keys in our files: one list, described on one page, and read from files of earlier versions."""

from __future__ import annotations

import ast
import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lampq_onnx
from lampq_onnx.converter import inspect_model
from lampq_onnx.converter.embedded import embedded_plan
from lampq_onnx.graph import keys as metadata_keys
from lampq_onnx.graph.keys import KEYS, PREFIX
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.graph.matching import fit_plan
from lampq_onnx.graph.metadata import read_metadata
from lampq_onnx.graph.model_file import load_model
from lampq_onnx.importer.files import is_foreign
from lampq_onnx.workflow.provenance import read_provenance

PACKAGE = Path(lampq_onnx.__file__).parent
PAGE = Path(__file__).parents[2] / "docs/reference/file-format.md"


def test_every_constant_is_in_the_list_once() -> None:
    names = [value for name, value in vars(metadata_keys).items() if name.endswith("_KEY")]
    assert sorted(key.name for key in KEYS) == sorted(names)
    assert len(set(names)) == len(names)
    assert all(name.startswith(PREFIX) for name in names)


def test_the_page_has_the_list() -> None:
    rows = [f"| `{key.name}` | {', '.join(key.places)} | {key.meaning} | {key.since} | {key.readers} |" for key in KEYS]
    table = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{PREFIX}")]
    assert table == rows


def test_no_other_module_spells_a_key() -> None:
    names = {key.name for key in KEYS}
    modules = {f"lampq_onnx.{path.stem}" for path in PACKAGE.iterdir()}  # lampq_onnx/config/recipe.py is no key
    for path in PACKAGE.rglob("*.py"):
        if path == Path(metadata_keys.__file__):
            continue
        strings = {
            node.value
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not strings & (names - modules), path


def labelled(node: onnx.NodeProto, **values: str) -> onnx.NodeProto:
    for key, value in values.items():
        node.metadata_props.add(key=f"lampq_onnx.{key}", value=value)
    return node


PREPROCESSING = {
    "size": [8, 8], "crop_pct": 1.0, "crop_mode": "center", "interpolation": "bicubic", "mean": [0.5], "std": [0.5],
    "channels": 1,
}  # fmt: skip
PLAN = {
    "format": "lampq-onnx/plan", "version": 1,
    "layers": {"fc": {"weight_bits": 4, "activation_bits": 6, "activation_range": {"low": -1.0, "high": 1.0}}},
}  # fmt: skip
INPUTS = {
    "weights_sha256": "w", "structure_sha256": "s", "preprocessing": "p", "calibration_sha256": "c", "code_sha256": "k",
    "versions": {"python": "3.11"},
}  # fmt: skip
RECIPE = '[model]\nname = "tiny"\n\n[allocation]\nbits = 4.0\n'


@pytest.fixture
def quantized(tmp_path: Path) -> Path:
    """A file as version 0.1 wrote it, put together by hand: one layer of 4-bit weights in int8."""
    arrays = {
        "fc.input.low": np.float32(-1), "fc.input.high": np.float32(1), "fc.input.scale": np.float32(0.03),
        "fc.input.zero_point": np.uint8(32), "fc.weight.packed": np.arange(-8, 8, dtype=np.int8).reshape(4, 4),
        "fc.weight.scale": np.full(4, 0.5, np.float32), "fc.bias": np.zeros(4, np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Clip", ["x", "fc.input.low", "fc.input.high"], ["clipped"], name="fc.input.clip"),
        helper.make_node("QuantizeLinear", ["clipped", "fc.input.scale", "fc.input.zero_point"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "fc.input.scale", "fc.input.zero_point"], ["d"]),
        labelled(
            helper.make_node("DequantizeLinear", ["fc.weight.packed", "fc.weight.scale"], ["w"], axis=1),
            unit="fc.weight", weight_bits="4", activation_bits="6", scheme="mid-tread", storage="int8",
        ),
        labelled(helper.make_node("MatMul", ["d", "w"], ["p"], name="fc"), unit="fc", type="head"),
        helper.make_node("Add", ["p", "fc.bias"], ["y"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    inputs = json.dumps(INPUTS)
    helper.set_model_props(
        model,
        {
            "lampq_onnx.model": "tiny",
            "lampq_onnx.num_classes": "4",
            "lampq_onnx.preprocessing": json.dumps(PREPROCESSING),
            "lampq_onnx.task": '{"kind":"classification"}',
            "lampq_onnx.target": "onnxruntime-x86-vnni",
            "lampq_onnx.plan": json.dumps(PLAN),
            "lampq_onnx.recipe": RECIPE,
            "lampq_onnx.inputs": inputs,
            "lampq_onnx.recipe_sha256": hashlib.sha256(f"{RECIPE}\n{inputs}".encode()).hexdigest(),
        },
    )
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    return path


def test_a_quantized_file_of_version_0_1_is_read(quantized: Path) -> None:
    model = load_model(quantized)
    assert not is_foreign(model)
    facts = read_metadata(model, quantized)
    assert (facts.name, facts.num_classes, facts.task.kind) == ("tiny", 4, "classification")
    assert facts.preprocessing.size == (8, 8)
    plan = embedded_plan(model, quantized)
    assert plan is not None
    assert (plan.layers["fc"].weight_bits, plan.layers["fc"].activation_bits) == (4, 6)
    (layer,) = inspect_model(model)
    assert (layer.name, layer.type, layer.weight_bits, layer.activation_bits) == ("fc", "head", 4, 6)
    assert (layer.storage, layer.scheme, layer.parameters, layer.bytes) == ("int8", "mid-tread", 16, 16)
    assert (layer.input, layer.outputs) == ("x", ("y",))
    recipe, inputs = read_provenance(model, quantized)
    assert recipe.allocation.bits == 4.0
    assert inputs.model_dump() == INPUTS


def test_a_float_file_of_version_0_1_is_read(tmp_path: Path) -> None:
    """Names, roles and sketches of layers, and a plan that another file's names are in."""
    weight = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    sketch = [3.0, *(0.1 * number for number in range(8))]
    node = labelled(
        helper.make_node("MatMul", ["x", "w"], ["y"], name="any"),
        unit="blocks.0.fc",
        type="fc1",
        sketch=json.dumps(sketch),
    )
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    path = tmp_path / "float.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    model = load_model(path)
    (site,) = find_layers(model.graph)
    assert (site.name, site.type) == ("blocks.0.fc", "fc1")
    (tmp_path / "plan.json").write_text(
        json.dumps({**PLAN, "layers": {"old": {"weight_bits": 4, "activation_bits": 8, "sketch": sketch}}})
    )
    fitted = fit_plan(model, lampq_onnx.BitPlan.load(tmp_path / "plan.json"))
    assert fitted.renamed == {"old": "blocks.0.fc"}
    # A file that says nothing of its model is another tool's.
    assert is_foreign(model)
