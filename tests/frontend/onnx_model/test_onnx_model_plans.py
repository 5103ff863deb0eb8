"""Plans that travel between files of one model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from lampq_onnx.artifacts import ActivationRange, BitPlan, LayerPlan
from lampq_onnx.config.inputs import ImageOptions
from lampq_onnx.config.output import OutputOptions
from lampq_onnx.converter import inspect_model
from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.onnx_model.from_file import load_onnx
from lampq_onnx.frontend.session import Frontend
from lampq_onnx.graph.keys import SKETCH_KEY, UNIT_KEY
from lampq_onnx.graph.matching import fit_plan
from lampq_onnx.graph.model_file import load_model
from lampq_onnx.importer import import_model
from lampq_onnx.quantization.sketch import same_weights, weight_sketch
from lampq_onnx.workflow.convert_files import convert
from tests.frontend.onnx_model import exports
from tests.frontend.tiny_models import layers_of, loaded, tiny_vit

HALVES = ImageOptions(mean=(0.5,) * 3, std=(0.5,) * 3)


def plan_of(model: torch.nn.Module) -> BitPlan:
    """Widths 3, 4, 5, 6, 3 ... in the order of the layers."""
    layers = {
        layer.name: LayerPlan(
            weight_bits=3 + index % 4,
            activation_bits=8,
            type=layer.type,
            parameters=layer.parameters,
            activation_range=ActivationRange(low=-1, high=1),
            sketch=weight_sketch(layer.matrix()),
        )
        for index, layer in enumerate(layers_of(model))
    }
    return BitPlan(model="tiny", layers=layers)


def test_sketches_tell_matrices_apart_and_survive_half_precision() -> None:
    random = np.random.default_rng(0)
    first, second = random.normal(size=(2, 24, 16)).astype(np.float32)
    assert same_weights(weight_sketch(first), weight_sketch(first.astype(np.float16).astype(np.float32)))
    assert not same_weights(weight_sketch(first), weight_sketch(second))
    assert not same_weights(weight_sketch(first), weight_sketch(first[::-1]))
    assert not same_weights(weight_sketch(first), weight_sketch(2 * first))
    assert not same_weights(weight_sketch(first), weight_sketch(first.T.copy()))


def test_a_plan_is_matched_by_weights(torchscript_file: Path, tmp_path: Path) -> None:
    plan = plan_of(tiny_vit())
    bare = exports.without_names(torchscript_file, tmp_path / "bare.onnx")
    fitted = fit_plan(import_model(bare).model, plan)
    assert list(fitted.renamed) == list(plan.layers)
    for name, own in fitted.renamed.items():
        assert fitted.plan.layers[own].weight_bits == plan.layers[name].weight_bits
        assert fitted.plan.layers[own].activation_range is None
    back = fit_plan(load_model(torchscript_file), fitted.plan)
    assert list(back.plan.layers) == list(plan.layers)


def test_a_plan_for_other_weights_is_refused_by_layer(torchscript_file: Path, tmp_path: Path) -> None:
    plan = plan_of(tiny_vit())
    changed = ir.load(torchscript_file)
    weight = next(v for v in changed.graph.initializers.values() if v.name and v.name.startswith("onnx::MatMul"))
    assert weight.const_value is not None
    weight.const_value = ir.tensor(weight.const_value.numpy()[::-1].copy(), name=weight.name)
    with pytest.raises(LampqError, match=r"1 of 10 layer\(s\) have other weights in the model: blocks\.0\.attn\.qkv"):
        fit_plan(changed, plan)
    ir.save(changed, tmp_path / "changed.onnx")
    bare = exports.without_names(tmp_path / "changed.onnx", tmp_path / "bare.onnx")
    with pytest.raises(LampqError, match=r"1 of 10 layer\(s\) have no counterpart .*: blocks\.0\.attn\.qkv"):
        fit_plan(import_model(bare).model, plan)


def test_a_layer_is_known_by_its_weights_before_equalization() -> None:
    model = Frontend(loaded(tiny_vit())).model
    plan = plan_of(tiny_vit())
    marked = {node.metadata_props[UNIT_KEY]: node for node in model.graph if UNIT_KEY in node.metadata_props}
    for node in marked.values():
        assert node.metadata_props[SKETCH_KEY]
        weight = node.inputs[1]
        assert weight is not None
        assert weight.const_value is not None
        weight.const_value = ir.tensor(3 * weight.const_value.numpy(), name=weight.name)
    assert fit_plan(model, plan).plan is plan


def test_convert_takes_a_foreign_file(torchscript_file: Path, tmp_path: Path) -> None:
    plan = plan_of(tiny_vit())
    bare = exports.without_names(torchscript_file, tmp_path / "bare.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=pixels, labels=np.zeros(8, np.int64))
    images = HALVES.model_copy(update={"calibration": tmp_path / "images.npz"})
    form = OutputOptions(target="onnxruntime-x86-vnni", threads=1)
    convert(bare, plan, tmp_path / "model.onnx", form, images)
    layers = inspect_model(load_model(tmp_path / "model.onnx"))
    assert [layer.weight_bits for layer in layers] == [layer.weight_bits for layer in plan.layers.values()]
    with pytest.raises(LampqError, match=r"no activation_range for 10 layer\(s\)"):
        convert(bare, plan, tmp_path / "other.onnx", form, HALVES)
    assert not (tmp_path / "other.onnx").exists()


def test_sensitivities_of_a_file_know_its_weights(torchscript_file: Path) -> None:
    model = Frontend(load_onnx(torchscript_file, HALVES)).model
    assert fit_plan(model, plan_of(tiny_vit())).renamed == {}
