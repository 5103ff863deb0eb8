"""Kernels of files, found in what onnxruntime really runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from typer.testing import CliRunner

from lampq_onnx.artifacts import BitPlan
from lampq_onnx.artifacts.report import Latency
from lampq_onnx.cli.main import app
from lampq_onnx.converter import convert_model
from lampq_onnx.converter.convert import planned_layers
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.graph.model_file import save_model
from lampq_onnx.quantization import Grid, WeightGrid
from lampq_onnx.runtime.explain import Explanation, explain_file, slower_layers, slowness
from lampq_onnx.runtime.layer_kernels import LayerKernel
from lampq_onnx.runtime.sessions import example_images
from lampq_onnx.targets import TARGETS
from tests.converter.graphs import SIDE, as_ir, kernels, plan_for, vit

VNNI = TARGETS["onnxruntime-x86-vnni"]
AVX2 = TARGETS["onnxruntime-x86-avx2"]
"""Its files are the same but for biases."""


def written(path: Path, **changes: int) -> Path:
    """A quantized file; ``changes``: layer -> activation bits (dots as two underscores)."""
    model = as_ir(vit(blocks=1))
    plan = plan_for([layer.name for layer in find_layers(model.graph)], weight_bits=4)
    layers = dict(plan.layers)
    for name, bits in changes.items():
        key = name.replace("__", ".")
        layers[key] = layers[key].model_copy(update={"activation_bits": bits})
    conversion = convert_model(model, BitPlan(layers=layers), target=VNNI)
    save_model(conversion.model, path)
    return path


def explained(path: Path) -> Explanation:
    return explain_file(path, example_images(path, 2), threads=1, runs=3)


def test_every_layer_is_on_the_integer_kernel(tmp_path: Path) -> None:
    path = written(tmp_path / "model.onnx")
    found = explained(path)
    assert [layer.name for layer in found.layers] == [
        "patch_embed.proj", "blocks.0.attn.qkv", "blocks.0.attn.proj", "blocks.0.mlp.fc1", "blocks.0.mlp.fc2", "head",
    ]  # fmt: skip
    used = [layer.kernel for layer in found.layers]
    assert set(used) == {"MatMulIntegerToFloat", "QGemm"}
    used += 2 * [used[1]]  # queries, keys and values
    for kernel in set(used):
        assert kernels(onnx.load(path)).count(kernel) == used.count(kernel)
    assert all(layer.integer and not layer.reason and layer.microseconds > 0 for layer in found.layers)
    assert all(layer.conversion_microseconds > 0 for layer in found.layers)
    assert found.total_microseconds == pytest.approx(sum(found.operators.values()))
    total = sum(layer.microseconds for layer in found.layers)
    assert sum(found.operators[kernel] for kernel in set(used)) == pytest.approx(total)


def test_reasons_name_what_keeps_a_layer_in_float(tmp_path: Path) -> None:
    path = written(tmp_path / "model.onnx", blocks__0__mlp__fc1=16, blocks__0__mlp__fc2=32)
    layers = {layer.name: layer for layer in explained(path).layers}
    assert "16-bit inputs" in layers["blocks.0.mlp.fc1"].reason
    assert "not quantized" in layers["blocks.0.mlp.fc2"].reason
    assert [name for name, layer in layers.items() if layer.reason] == ["blocks.0.mlp.fc1", "blocks.0.mlp.fc2"]


def test_narrow_types_without_a_cast_are_named(tmp_path: Path) -> None:
    graph = as_ir(vit(blocks=1))
    plan = plan_for([graph_layer.name for graph_layer in find_layers(graph.graph)], weight_bits=4)
    # Levels that INT4 holds as they are; others need more than a Cast.
    weights = {
        name: WeightGrid(np.ones(len(graph_layer.matrix()), np.float32), 4, Grid.MID_TREAD, 0.0).quantize(
            graph_layer.matrix()
        )
        for name, graph_layer in planned_layers(graph, plan).items()
    }
    whole = dataclasses.replace(AVX2, part_products=False)
    model = ir.to_proto(convert_model(graph, plan, packing="native", target=whole, weights=weights).model)
    casts = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Cast"}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in casts:
            node.input[0] = casts[node.input[0]]
    onnx.save(model, tmp_path / "native.onnx")
    layers = explained(tmp_path / "native.onnx").layers
    assert len(layers) == 6
    assert all("DequantizeLinear of INT4 is not fused" in layer.reason for layer in layers)


def test_float_files_are_explained_as_well(tmp_path: Path) -> None:
    onnx.save(vit(blocks=1), tmp_path / "float.onnx")
    layers = explained(tmp_path / "float.onnx").layers
    assert len(layers) == 6
    assert {layer.reason for layer in layers} == {"its weights are in float in the file"}
    assert all(layer.weight_bits == 32 and layer.microseconds > 0 for layer in layers)


def test_unnamed_nodes_are_timed(tmp_path: Path) -> None:
    onnx.save(vit(blocks=1, named=False), tmp_path / "unnamed.onnx")
    found = explained(tmp_path / "unnamed.onnx")
    assert len(found.layers) == 6
    assert all(layer.microseconds > 0 for layer in found.layers)
    assert found.operators["MatMul"] >= sum(layer.microseconds for layer in found.layers if layer.kernel == "MatMul")


def test_slower_layers_are_the_ones_that_cost_more() -> None:
    def of(**times: float) -> Explanation:
        layers = tuple(LayerKernel(name, 4, 8, "MatMul", time, 1.0, "") for name, time in times.items())
        return Explanation(layers, {}, 0.0, 1, 1, 1)

    found = slower_layers(of(a=9.0, b=2.0, c=30.0), of(a=5.0, b=3.0, c=7.0))
    assert found == ["c (MatMul, 31 us against 8 us)", "a (MatMul, 10 us against 6 us)"]


def test_a_slow_file_is_explained_by_its_layers(tmp_path: Path) -> None:
    onnx.save(vit(blocks=1), tmp_path / "float.onnx")
    # 16-bit inputs: QuantizeLinear and DequantizeLinear run, and the product stays in float.
    path = written(tmp_path / "model.onnx", blocks__0__mlp__fc1=16)
    latency = Latency(
        float_ms=1.0, quantized_ms=2.0, speedup=0.5, speedup_quartiles=(0.4, 0.6), threads=1, batch=2, runs=3,
        float_samples_ms=(1.0,), quantized_samples_ms=(2.0,),
    )  # fmt: skip
    (note,) = slowness(tmp_path / "float.onnx", path, example_images(path, 2), latency)
    assert note.startswith("the quantized file is slower than the float one (0.50x). ")
    assert "blocks.0.mlp.fc1 (" in note


def test_the_command_prints_tables_and_json(tmp_path: Path) -> None:
    path = written(tmp_path / "model.onnx", blocks__0__mlp__fc1=16)
    shown = CliRunner().invoke(app, ["explain", str(path), "--runs", "2"])
    assert shown.exit_code == 0, shown.output
    assert "no integer kernel" in shown.output
    assert "5 of 6 linear layers" in shown.output
    done = CliRunner().invoke(app, ["explain", str(path), "--runs", "2", "--json"])
    layers = json.loads(done.output)["layers"]
    assert layers[3]["name"] == "blocks.0.mlp.fc1"
    assert layers[3]["activation_bits"] == 16


def test_example_images_fit_the_file(tmp_path: Path) -> None:
    onnx.save(vit(blocks=1), tmp_path / "float.onnx")
    images = example_images(tmp_path / "float.onnx", 2)
    assert (images.shape, images.dtype) == ((2, 3, SIDE, SIDE), np.float32)
