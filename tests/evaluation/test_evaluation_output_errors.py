"""Errors along a model, and time by operator."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from lampq_onnx.converter import convert_model, inspect_model
from lampq_onnx.converter.blocks import block_of, block_outputs
from lampq_onnx.converter.passes.select_early import SELECTED
from lampq_onnx.errors import LampqError
from lampq_onnx.evaluation.output_errors import ERROR_IMAGES, measure_output_errors
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.graph.model_file import load_model
from lampq_onnx.runtime import inner_tensors, sessions
from lampq_onnx.runtime.inner_tensors import compare_tensors
from lampq_onnx.runtime.operators import operator_times
from lampq_onnx.runtime.with_onnxruntime import WARM_UP, by_operator
from lampq_onnx.targets import TARGETS
from tests.converter.graphs import Builder, as_ir, as_proto, kernels, plan_for, vit, with_outputs
from tests.converter.passes.test_passes_graph import attention_block

LAYERS = [f"blocks.{i}.{part}" for i in range(2) for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]


@pytest.fixture(scope="module", params=["matmul", "gemm"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """A float file, its quantized form and that one's layers; the patch embedding and the head stay in float."""
    folder = tmp_path_factory.mktemp("files")
    reference = vit(linear=request.param)
    model = convert_model(
        as_ir(reference), plan_for(LAYERS, weight_bits=3), packing="container", target=TARGETS["onnxruntime-x86-avx2"]
    ).model
    onnx.save(reference, folder / "float.onnx")
    onnx.save(as_proto(model), folder / "model.onnx")
    return folder / "float.onnx", folder / "model.onnx", model, inspect_model(model)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(count, 3, 4, 4)).astype(np.float32)


def linear_outputs(path: Path) -> list[str]:
    """Results of the blocks' linear layers in the float file, bias included."""
    graph = onnx.load(path).graph
    constants = {tensor.name for tensor in graph.initializer}
    found = []
    for node in graph.node:
        if node.op_type == "Gemm":
            found.append(node.output[0])
        elif node.op_type == "MatMul" and node.input[1] in constants:
            found += [reader.output[0] for reader in graph.node if node.output[0] in reader.input]
    return found[:-1]  # without the head


def test_block_names() -> None:
    assert block_of("blocks.3.attn.qkv") == "blocks.3"
    assert block_of("layers.0.blocks.11.mlp.fc1") == "layers.0.blocks.11"
    assert block_of("head") is None


def test_a_block_ends_where_the_next_one_reads(files: tuple) -> None:
    reference, _, model, layers = files
    found = block_outputs(model, layers)
    assert list(found) == ["blocks.0", "blocks.1"]
    graph = onnx.load(reference).graph
    norms = [node for node in graph.node if node.op_type == "LayerNormalization"]
    # two a block and the last one: the third belongs to the second block's attention
    assert found == {"blocks.0": norms[2].input[0], "blocks.1": norms[4].input[0]}


def test_errors_are_those_of_onnx_own_evaluator(files: tuple) -> None:
    reference, quantized, model, layers = files
    batch = images(6)
    found = measure_output_errors(reference, quantized, layers, batch, threads=1)
    assert found.samples == len(batch)
    assert found.missing == ()
    # Of queries, keys and values there is no common tensor in the quantized file.
    picked = [node.output[0] for node in onnx.load(reference).graph.node if node.op_type == "Gather"]
    names = {name: [output] for name, output in zip(LAYERS, linear_outputs(reference), strict=True)}
    names |= {f"blocks.{block}.attn.qkv": picked[3 * block : 3 * block + 3] for block in range(2)}
    names |= {name: [output] for name, output in block_outputs(model, layers).items()}
    assert [output.name for output in found.outputs] == list(names)
    tensors = list(dict.fromkeys(tensor for parts in names.values() for tensor in parts))
    exact, rounded = (
        dict(zip(tensors, evaluator.run(None, {"images": batch}), strict=True))
        for evaluator in (
            ReferenceEvaluator(with_outputs(onnx.load(path), *tensors)) for path in (reference, quantized)
        )
    )
    for output, parts in zip(found.outputs, names.values(), strict=True):
        left, right = (np.concatenate([values[part].ravel() for part in parts]) for values in (exact, rounded))
        wanted = 10 * np.log10(np.sum(left**2.0) / np.sum((left - right) ** 2.0))
        assert output.sqnr_db == pytest.approx(wanted, abs=0.3), output.name  # values on a rounding boundary flip
    many = measure_output_errors(reference, quantized, layers, images(ERROR_IMAGES + 4), threads=1)
    assert many.samples == ERROR_IMAGES


@pytest.mark.parametrize("batches", [(4, 4), (4, None), (None, 2)])
def test_files_that_prescribe_a_batch_get_it(
    batches: tuple[int | None, int | None], files: tuple, tmp_path: Path
) -> None:
    reference, quantized, _, layers = files
    fixed = []
    for path, size in zip((reference, quantized), batches, strict=True):
        model = onnx.load(path)
        if size is not None:
            model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = size
        onnx.save(model, tmp_path / path.name)
        fixed.append(tmp_path / path.name)
    found = measure_output_errors(*fixed, layers, images(6), threads=1)
    assert found.samples == 6
    again = images(6) if 4 not in batches else np.concatenate([images(6), images(6)[4:]])
    repeated = measure_output_errors(reference, quantized, layers, again, threads=1)
    for own, other in zip(found.outputs, repeated.outputs, strict=True):
        assert own.sqnr_db == pytest.approx(other.sqnr_db, abs=0.05), own.name


def test_a_file_against_itself_has_no_error(files: tuple) -> None:
    reference, _, _, _ = files
    name = linear_outputs(reference)[0]
    assert compare_tensors(reference, reference, {name: name}, images(3), threads=1)[name].sqnr_db is None
    with pytest.raises(LampqError, match="no tensor nothing"):
        compare_tensors(reference, reference, {"nothing": "nothing"}, images(1), threads=1)


@pytest.mark.parametrize("index", [0, 3, -1])
def test_layers_that_see_one_token_are_compared_on_it(index: int, tmp_path: Path) -> None:
    original = attention_block(index=index)
    original.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("images", 1, ["batch", 1, 5, 8]))
    original.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "channel"))
    original.graph.node.insert(0, onnx.helper.make_node("Squeeze", ["images", "channel"], ["x"]))
    names = [graph_layer.name for graph_layer in find_layers(as_ir(original).graph)]
    target = TARGETS["onnxruntime-x86-vnni"]
    model = convert_model(as_ir(original), plan_for(names, weight_bits=3), target=target).model
    reference, quantized = tmp_path / "float.onnx", tmp_path / "model.onnx"
    onnx.save(original, reference)
    onnx.save(as_proto(model), quantized)
    layers = inspect_model(load_model(quantized))
    tokens = np.random.default_rng(3).normal(size=(5, 1, 5, 8)).astype(np.float32)
    found = measure_output_errors(reference, quantized, layers, tokens, threads=1)
    assert found.missing == ()
    selected = {layer.name: layer.outputs[0] for layer in layers if layer.outputs[0].endswith(SELECTED)}
    assert len(selected) == 3  # the projection and both layers of the MLP; queries share a layer with keys
    for name, tensor in selected.items():
        sources = ((original, tensor.removesuffix(SELECTED)), (onnx.load(quantized), tensor))
        whole, part = (
            ReferenceEvaluator(with_outputs(graph, wanted)).run(None, {"images": tokens})[0]
            for graph, wanted in sources
        )
        kept = whole[:, [index]]
        wanted = 10 * np.log10(np.sum(kept**2.0) / np.sum((kept - part) ** 2.0))
        (measured,) = (output.sqnr_db for output in found.outputs if output.name == name)
        assert measured == pytest.approx(wanted, abs=0.3)


def test_other_shapes_are_refused(files: tuple, tmp_path: Path) -> None:
    reference, _, _, _ = files
    first, *_, last = linear_outputs(reference)
    pair = {first: last}
    for row in (None, 0):
        with pytest.raises(LampqError, match=r"the tensor .* is "):
            compare_tensors(reference, reference, pair, images(2), threads=1, row=row)


def test_operators_are_those_that_run(files: tuple) -> None:
    reference, quantized, _, _ = files
    found = operator_times(reference, quantized, images(1), threads=1, runs=3)
    assert (found.runs, found.batch, found.threads) == (3, 1, 1)
    for path, key in ((reference, "float_nodes"), (quantized, "quantized_nodes")):
        counts = {o.operator: getattr(o, key) for o in found.operators if getattr(o, key)}
        ran = kernels(onnx.load(path))
        assert counts == {kind: ran.count(kind) for kind in set(ran)}
    slowest = [max(o.float_ms, o.quantized_ms) for o in found.operators]
    assert slowest == sorted(slowest, reverse=True)


def test_times_are_medians_after_the_warm_up(tmp_path: Path) -> None:
    durations = [[9000, 9000]] * WARM_UP + [[1000, 500], [3000, 500], [100000, 500]]
    events = [
        {"cat": "Node", "dur": duration, "args": {"op_name": kind}}
        for run in durations
        for duration, kind in zip(run, ("MatMul", "Add"), strict=True)
    ]
    path = tmp_path / "profile.json"
    path.write_text(json.dumps([{"cat": "Session", "dur": 5}, *events]))
    found = by_operator(path, len(durations))
    assert found["MatMul"] == (3.0, 1)
    assert found["Add"] == (0.5, 1)
    assert found.keys() == {"MatMul", "Add"}
    with pytest.raises(LampqError, match="not the same for each"):
        by_operator(path, len(durations) - 1)


def test_a_block_whose_last_layer_is_in_parts_ends_where_one_of_them_joins_the_stream() -> None:
    b = Builder(0)
    y = b.op("MatMul", "x", b.random("blocks.0.fc.weight", 16, 32), name="blocks.0.fc")
    b.nodes.append(onnx.helper.make_node("Split", [y, b.ints(16, 16)], ["left", "right"], axis=-1))
    b.rename(b.op("Add", "x", "right"), "stream")
    model = b.model({"x": ["n", 3, 16]}, {"left": None, "stream": None})
    converted = convert_model(
        as_ir(model), plan_for(["blocks.0.fc"], weight_bits=4), target=TARGETS["onnxruntime-x86-avx2"]
    ).model
    layers = inspect_model(converted)
    assert [layer.outputs for layer in layers] == [("left", "right")]
    assert block_outputs(converted, layers) == {"blocks.0": "stream"}


@pytest.mark.parametrize("shape", [(48,), (1, 48)])
def test_a_lifted_layer_is_compared_in_the_shape_of_the_float_file(shape: tuple[int, ...], tmp_path: Path) -> None:
    b = Builder(0)
    flat = b.op("Squeeze", "images", b.ints(0, 1))
    y = b.op("MatMul", flat, b.random("fc.weight", 16, 48), name="mm")
    b.rename(b.op("Relu", b.op("Add", y, b.random("fc.bias", *shape))), "y")
    model = b.model({"images": [1, 1, 5, 16]}, {"y": [5, 48]})
    target = TARGETS["onnxruntime-x86-avx2"]
    conversion = convert_model(as_ir(model), plan_for(["fc"], weight_bits=4), target=target)
    reference, quantized = tmp_path / "float.onnx", tmp_path / "model.onnx"
    onnx.save(model, reference)
    onnx.save(as_proto(conversion.model), quantized)
    x = np.random.default_rng(3).normal(size=(1, 1, 5, 16)).astype(np.float32)
    found = measure_output_errors(reference, quantized, inspect_model(load_model(quantized)), x, threads=1)
    assert found.missing == ()
    assert [(output.name, output.sqnr_db is not None) for output in found.outputs] == [("fc", True)]


def test_nothing_to_compare_is_no_error(files: tuple) -> None:
    reference, quantized, _, _ = files
    assert compare_tensors(reference, quantized, {}, images(1), threads=1) == {}


def test_the_values_of_one_image_are_in_memory_at_once(files: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def batches_for(session: object, given: np.ndarray, where: str) -> list[np.ndarray]:
        seen.append(len(given))
        return sessions.batches_for(session, given, where)

    monkeypatch.setattr(inner_tensors, "batches_for", batches_for)
    reference, quantized, _, layers = files
    measure_output_errors(reference, quantized, layers, images(3), threads=1)
    assert seen == [1] * 6
