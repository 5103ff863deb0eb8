"""Rounding that brings a bias, and wide inputs, in the PyTorch simulation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from lampq_onnx.artifacts import ActivationRange, BitPlan, LayerPlan
from lampq_onnx.converter import convert_model
from lampq_onnx.frontend.models.export import export_model
from lampq_onnx.frontend.shared.batching import logits_of
from lampq_onnx.frontend.simulation.simulate import (
    LayerSetting,
    WeightRounder,
    fake_quantize,
    simulated,
    simulated_parameters,
)
from lampq_onnx.quantization import ActivationQuantizer, QuantizedWeight
from lampq_onnx.targets import TARGETS
from tests.converter.graphs import run
from tests.frontend.tiny_models import images, layers_of, loaded, tiny_vit

BITS = 3


class BiasedRounder(WeightRounder):
    """Rounds to nearest, and brings a bias of its own for every layer."""

    def quantized(self, name: str, bits: int) -> QuantizedWeight:
        nearest = super().quantized(name, bits)
        return replace(
            nearest, bias=np.random.default_rng(len(name)).normal(size=len(nearest.scale)).astype(np.float32)
        )


def test_sixteen_bits_are_the_numeric_core() -> None:
    quantizer = ActivationQuantizer.from_range(-1.3, 270.0, 16)
    values = np.random.default_rng(0).uniform(-2, 300, 5000).astype(np.float32)
    values = np.concatenate([values, (np.arange(65000, 65535) + 0.5).astype(np.float32) * np.float32(quantizer.scale)])
    assert np.array_equal(fake_quantize(torch.from_numpy(values), quantizer).numpy(), quantizer.fake(values))


@pytest.mark.parametrize("has_bias", [True, False])
def test_biases_are_swapped_and_restored(has_bias: bool) -> None:
    module = tiny_vit()
    layers = layers_of(module)
    layer = next(u for u in layers if u.type == "fc1")
    if not has_bias:
        layer.module.bias = None
    before, original = logits_of(module, images(3)), layer.module.bias
    kept = None if original is None else original.clone()
    rounder = BiasedRounder(layers)
    wanted = rounder.quantized(layer.name, BITS).bias
    assert wanted is not None

    def fail_inside() -> None:
        with simulated(layers, {layer.name: LayerSetting(BITS, None)}, rounder):
            np.testing.assert_array_equal(layer.module.bias.detach().numpy(), wanted)
            assert not torch.equal(logits_of(module, images(3)), before)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert layer.module.bias is original
    assert kept is None or torch.equal(layer.module.bias, kept)
    assert torch.equal(logits_of(module, images(3)), before)


def test_float_weights_keep_the_modules_bias() -> None:
    module = tiny_vit()
    layers = layers_of(module)
    layer = next(u for u in layers if u.type == "fc1")
    quantizer = ActivationQuantizer.from_range(-4, 4, 8)
    original = layer.module.bias
    with simulated(layers, {layer.name: LayerSetting(None, quantizer)}, BiasedRounder(layers)):
        assert layer.module.bias is original


@pytest.fixture(scope="module")
def float_file() -> onnx.ModelProto:
    """The export of `tiny_vit`; a conversion changes the graph that it is given."""
    return ir.to_proto(export_model(loaded(tiny_vit())).model)


@pytest.mark.parametrize("activation_bits", [8, 16, 32])
def test_simulation_and_file_are_the_same_function(float_file: onnx.ModelProto, activation_bits: int) -> None:
    module = tiny_vit()
    layers = layers_of(module)
    rounder = BiasedRounder(layers)
    layer = LayerPlan(
        weight_bits=BITS, activation_bits=activation_bits, activation_range=ActivationRange(low=-5.0, high=6.0)
    )
    names = [model_layer.name for model_layer in layers]
    weights = {name: rounder.quantized(name, BITS) for name in names}
    conversion = convert_model(
        ir.from_proto(float_file),
        BitPlan(layers=dict.fromkeys(names, layer)),
        target=TARGETS["onnxruntime-x86-avx2"],
        weights=weights,
    )
    assert conversion.passes["ReplaceBias"] == len(names)
    written = run(ir.to_proto(conversion.model), images(4).images)
    plain = logits_of(module, images(4)).numpy()
    assert np.linalg.norm(written - plain) > 0.1 * np.linalg.norm(plain)
    quantizer = None if activation_bits == 32 else ActivationQuantizer.from_range(-5, 6, activation_bits)
    settings = dict.fromkeys(names, LayerSetting(BITS, quantizer))
    for context in (
        simulated_parameters(layers, conversion.parameters),
        simulated(layers, settings, rounder),
    ):
        with context:
            found = logits_of(module, images(4)).numpy()
        # Values on a rounding boundary may flip, the more often the fewer levels there are.
        assert np.linalg.norm(found - written) < (1e-2 if activation_bits == 8 else 1e-3) * np.linalg.norm(written)
    np.testing.assert_array_equal(logits_of(module, images(4)).numpy(), plain)
