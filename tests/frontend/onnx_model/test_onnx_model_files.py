"""Files of every kind: what works, and what is refused with which words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from lampq_onnx.config.inputs import ImageOptions
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.frontend.models.export import export_model
from lampq_onnx.frontend.models.output_choice import asked_outputs
from lampq_onnx.frontend.onnx_model.from_file import load_onnx
from lampq_onnx.graph.edits import add_constant
from tests.frontend.onnx_model import exports
from tests.frontend.onnx_model.exports import SeparateViT
from tests.frontend.tiny_models import pixels, tiny_vit

HALVES = ImageOptions(mean=(0.5,) * 3, std=(0.5,) * 3)


def test_separate_projections_decomposed_norms_and_gelu_become_layers(tmp_path: Path) -> None:
    model = SeparateViT()
    loaded = load_onnx(exports.by_torchscript(model, tmp_path / "old.onnx", 14), HALVES)
    torch.testing.assert_close(loaded.module(pixels(3)), model(pixels(3)), rtol=1e-4, atol=1e-5)
    assert loaded.source is not None
    assert loaded.source.changes["layer normalizations joined"] == 3
    assert loaded.source.changes["GELU joined"] == 1
    assert loaded.source.changes["qkv joined"] == 1
    layers = {layer.type: layer for layer in export_model(loaded).layers}
    assert [*layers] == ["patch_embed", "qkv", "proj", "fc1", "fc2", "head"]
    assert layers["qkv"].name == "attention.qkv"
    part = model.attention
    joint = torch.cat([part.query.weight, part.key.weight, part.value.weight])
    torch.testing.assert_close(layers["qkv"].module.weight.data, joint, rtol=0, atol=0)
    bias = torch.cat([part.query.bias, torch.zeros(16), part.value.bias])
    torch.testing.assert_close(layers["qkv"].module.bias.data, bias, rtol=0, atol=0)
    norms = [m for m in loaded.module.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert len(norms) == 3
    torch.testing.assert_close(norms[0].weight.data, model.before.weight.data, rtol=0, atol=0)
    torch.testing.assert_close(norms[0].bias.data, model.before.bias.data, rtol=0, atol=0)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_fixed_batch_becomes_any_batch(batch: int, tmp_path: Path) -> None:
    model = tiny_vit()
    loaded = load_onnx(exports.by_torchscript(model, tmp_path / "fixed.onnx", 17, batch=batch), HALVES)
    torch.testing.assert_close(loaded.module(pixels(5)), model(pixels(5)), rtol=1e-4, atol=1e-5)
    assert len(export_model(loaded).layers) == 10


def test_half_precision_is_computed_in_float32(torchscript_file: Path, tmp_path: Path) -> None:
    model = ir.load(torchscript_file)
    for value in model.graph.initializers.values():
        if value.dtype == ir.DataType.FLOAT:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float16), name=value.name)
            value.type = ir.TensorType(ir.DataType.FLOAT16)
    for node in model.graph:
        for value in node.outputs:
            if value.dtype == ir.DataType.FLOAT:
                value.type = ir.TensorType(ir.DataType.FLOAT16)
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == ir.DataType.FLOAT:
                half = ir.tensor(attribute.as_tensor().numpy().astype(np.float16))
                node.attributes[name] = ir.AttrTensor(name, half)
            if name == "to" and attribute.as_int() == ir.DataType.FLOAT:
                node.attributes[name] = ir.AttrInt64("to", int(ir.DataType.FLOAT16))
    model.graph.inputs[0].type = ir.TensorType(ir.DataType.FLOAT16)
    ir.save(model, tmp_path / "half.onnx")
    loaded = load_onnx(tmp_path / "half.onnx", HALVES)
    found, wanted = loaded.module(pixels(2)), tiny_vit()(pixels(2))
    assert found.dtype == torch.float32
    assert float((found - wanted).norm() / wanted.norm()) < 1e-2
    assert export_model(loaded).model.graph.inputs[0].dtype == ir.DataType.FLOAT


def test_external_data_is_read(torchscript_file: Path, tmp_path: Path) -> None:
    ir.save(ir.load(torchscript_file), tmp_path / "out.onnx", external_data="out.data", size_threshold_bytes=0)
    loaded = load_onnx(tmp_path / "out.onnx", HALVES)
    torch.testing.assert_close(loaded.module(pixels(2)), tiny_vit()(pixels(2)), rtol=1e-4, atol=1e-5)
    (tmp_path / "out.data").unlink()
    with pytest.raises(LampqError, match=r"out\.onnx cannot be read"):
        load_onnx(tmp_path / "out.onnx", HALVES)


def quantized(model: ir.Model) -> None:
    first = model.graph[0]
    scale = add_constant(model.graph, "scale", np.float32(0.1))
    zero = add_constant(model.graph, "zero", np.uint8(128))
    pair = ir.node("QuantizeLinear", [model.graph.inputs[0], scale, zero], name="squeeze")
    model.graph.insert_before(first, [pair, ir.node("DequantizeLinear", [pair.outputs[0], scale, zero])])


def branching(model: ir.Model) -> None:
    image, logits = model.graph.inputs[0], model.graph.outputs[0]
    total = ir.node("ReduceSum", [image], {"keepdims": 0}, name="total")
    positive = ir.node("Greater", [total.outputs[0], add_constant(model.graph, "nought", np.float32(0))])
    bodies = []
    for kind in ("Neg", "Abs"):
        inner = ir.node(kind, [logits])
        bodies.append(ir.Graph([], [inner.outputs[0]], nodes=[inner], name=kind))
        inner.outputs[0].name = f"{kind}.out"
    choice = ir.node("If", [positive.outputs[0]], {"then_branch": bodies[0], "else_branch": bodies[1]}, name="choice")
    choice.outputs[0].name, choice.outputs[0].type = "chosen", logits.type
    model.graph.extend([total, positive, choice])
    model.graph.outputs[0] = choice.outputs[0]


def looping(model: ir.Model) -> None:
    """The answers are doubled as often as the sum of the images says."""
    image, logits = model.graph.inputs[0], model.graph.outputs[0]
    total = ir.node("ReduceSum", [image], {"keepdims": 0})
    trips = ir.node("Cast", [total.outputs[0]], {"to": int(ir.DataType.INT64)})
    turn, going, state = (ir.Value(name=name) for name in ("turn", "going", "state"))
    turn.type, going.type, state.type = ir.TensorType(ir.DataType.INT64), ir.TensorType(ir.DataType.BOOL), logits.type
    turn.shape, going.shape = ir.Shape([]), ir.Shape([])
    still, doubled = ir.node("Identity", [going]), ir.node("Add", [state, state])
    still.outputs[0].name, doubled.outputs[0].name = "still", "doubled"
    body = ir.Graph([turn, going, state], [still.outputs[0], doubled.outputs[0]], nodes=[still, doubled], name="body")
    loop = ir.node("Loop", [trips.outputs[0], None, logits], {"body": body}, name="again")
    loop.outputs[0].name, loop.outputs[0].type = "looped", logits.type
    model.graph.extend([total, trips, loop])
    model.graph.outputs[0] = loop.outputs[0]


def second_input(model: ir.Model) -> None:
    model.graph.inputs.append(ir.Value(name="mask", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([1, 16])))


def tokens(model: ir.Model) -> None:
    model.graph.inputs[0].type = ir.TensorType(ir.DataType.INT64)


def channels_last(model: ir.Model) -> None:
    model.graph.inputs[0].shape = ir.Shape(["n", 16, 16, 3])


def rounded(model: ir.Model) -> None:
    behind(model, ir.node("Round", [model.graph.outputs[0]], name="to_whole"))


def foreign(model: ir.Model) -> None:
    model.opset_imports["com.example"] = 1
    behind(model, ir.node("Mystery", [model.graph.outputs[0]], name="riddle", domain="com.example"))


def behind(model: ir.Model, node: ir.Node) -> None:
    node.outputs[0].name, node.outputs[0].type = "scores", model.graph.outputs[0].type
    model.graph.append(node)
    model.graph.outputs[0] = node.outputs[0]


def two_outputs(model: ir.Model) -> None:
    model.graph.outputs[0].name = "first"
    node = ir.node("Neg", [model.graph.outputs[0]])
    node.outputs[0].name, node.outputs[0].type = "second", model.graph.outputs[0].type
    model.graph.append(node)
    model.graph.outputs.append(node.outputs[0])


def old(model: ir.Model) -> None:
    """A single operator that opset 5 has as well."""
    graph = model.graph
    pool = ir.node("GlobalAveragePool", [graph.inputs[0]])
    pool.outputs[0].name, pool.outputs[0].type = "pooled", ir.TensorType(ir.DataType.FLOAT)
    graph.outputs[:] = pool.outputs
    graph.remove(list(graph), safe=True)
    graph.initializers.clear()
    graph.append(pool)
    model.opset_imports[""] = 5


REFUSED: list[tuple[Callable[[ir.Model], None], str]] = [
    (quantized, "quantized already: node squeeze is a QuantizeLinear"),
    (branching, "branches or loops at run time: node choice is a If"),
    (looping, "branches or loops at run time: node again is a Loop"),
    (second_input, r"takes 2 inputs .*mask \[1, 16\]"),
    (tokens, "of INT64, not a batch of images"),
    (channels_last, "cannot be computed in PyTorch: Given groups=1, weight of size"),
    (rounded, r"node to_whole \(Round\) has no useful derivative"),
    (foreign, r"com\.example\.Mystery \(node riddle\) has no PyTorch counterpart"),
    (old, "has opset 5, and 7 to 23 are supported"),
]


@pytest.mark.parametrize(("change", "words"), REFUSED, ids=lambda value: getattr(value, "__name__", ""))
def test_what_cannot_be_done_is_refused(
    change: Callable[[ir.Model], None], words: str, torchscript_file: Path, tmp_path: Path
) -> None:
    model = ir.load(torchscript_file)
    change(model)
    ir.save(model, tmp_path / "odd.onnx")
    with pytest.raises(LampqError, match=words) as raised:
        load_onnx(tmp_path / "odd.onnx", HALVES)
    assert raised.value.hint


def test_of_several_outputs_the_first_is_taken_and_others_can_be_chosen(torchscript_file: Path, tmp_path: Path) -> None:
    model = ir.load(torchscript_file)
    two_outputs(model)
    ir.save(model, tmp_path / "two.onnx")
    loaded = load_onnx(tmp_path / "two.onnx", HALVES)
    assert (loaded.task.kind, loaded.task.outputs, loaded.task.fallback) == ("features", ("first",), True)
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    first = loaded.module(images)
    chosen = load_onnx(tmp_path / "two.onnx", HALVES, outputs=asked_outputs(["second"]))
    torch.testing.assert_close(chosen.module(images), -first)
    both = load_onnx(tmp_path / "two.onnx", HALVES, outputs=asked_outputs(["second", "first=features"]))
    torch.testing.assert_close(both.module(images), torch.cat([-first, first], 1))
    with pytest.raises(UsageError, match="has no output 'third'; it has: first, second"):
        load_onnx(tmp_path / "two.onnx", HALVES, outputs=asked_outputs(["third"]))


def test_preprocessing_comes_from_the_sidecar_or_the_options(torchscript_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(torchscript_file.read_bytes())
    with pytest.raises(UsageError, match="does not say how its images are normalized"):
        load_onnx(path, ImageOptions())
    facts = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "size": {"height": 16, "width": 16}}
    sidecar = tmp_path / "preprocessor_config.json"
    sidecar.write_text(json.dumps(facts | {"resample": 2}))
    found = load_onnx(path, ImageOptions()).preprocessing
    assert (found.mean, found.std, found.size) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), (16, 16))
    assert (found.interpolation, found.crop_mode, found.crop_pct) == ("bilinear", "squash", 1.0)
    assert load_onnx(path, HALVES).preprocessing.mean == (0.5, 0.5, 0.5)
    sidecar.write_text("{")
    with pytest.raises(LampqError, match=r"preprocessor_config\.json is damaged"):
        load_onnx(path, ImageOptions())
