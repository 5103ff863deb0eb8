"""Plans and bytes of files with weights in blocks and numbers in float16."""

from __future__ import annotations

import pytest

from lampq_onnx.allocation import AllocationOptions, Limits, allocate_within
from lampq_onnx.allocation.activations import inputs_for
from lampq_onnx.allocation.forms import FLOAT_FORM, LayerForm, form_bytes, whole_bytes
from lampq_onnx.targets import TARGETS
from tests.allocation.test_allocation_within import measured

CUDA, VNNI = TARGETS["onnxruntime-cuda"], TARGETS["onnxruntime-x86-vnni"]


def test_a_layer_takes_its_integers_and_a_scale_of_two_bytes_for_each_block() -> None:
    layer = next(layer for layer in measured().layers if layer.shape == (32, 128))
    native = {bits: form_bytes(layer, LayerForm(bits, 32, "native"), CUDA) for bits in (2, 4, 5, 8)}
    assert native[8] - native[4] == 32 * 128 // 2
    # There is no narrower type in blocks, and none between.
    assert (native[2], native[5]) == (native[4], native[8])
    exact = {bits: form_bytes(layer, LayerForm(bits, 32, "exact"), CUDA) for bits in (4, 8)}
    assert exact[4] > native[4]
    assert form_bytes(layer, FLOAT_FORM, CUDA) * 2 == form_bytes(layer, FLOAT_FORM, VNNI) == 4 * 32 * 128
    wide = layer.model_copy(update={"shape": (32, 256), "parameters": 32 * 256})
    more = form_bytes(wide, LayerForm(4, 32, "native"), CUDA) - native[4]
    assert more == 32 * 128 // 2 + 2 * 32 * 128 // CUDA.block


def test_a_file_in_float16_takes_two_bytes_less_for_each_number() -> None:
    sensitivities = measured(float_bytes=100_000, float_numbers=20_000)
    assert whole_bytes(sensitivities, 100_000, VNNI) == 100_000
    assert whole_bytes(sensitivities, 100_000, CUDA) == 60_000
    known = sum(layer.parameters for layer in sensitivities.layers)
    older = sensitivities.model_copy(update={"float_numbers": None})
    assert whole_bytes(older, 100_000, CUDA) == 100_000 - 2 * known


def test_a_budget_of_bytes_is_kept_with_inputs_in_float() -> None:
    sensitivities = measured(8, float_bytes=200_000, float_numbers=40_000)
    assert all(layer.float_input for layer in inputs_for(sensitivities, CUDA).layers)
    options = AllocationOptions(candidates=(4, 8), activation_bits=16)
    sizes = []
    for limit in (94_000, 104_000):
        plan, _ = allocate_within(sensitivities, Limits(max_bytes=limit), options, target=CUDA)
        assert {layer.activation_bits for layer in plan.layers.values()} == {32}
        assert plan.promised_bytes is not None
        assert plan.promised_bytes <= limit
        sizes.append(plan.weight_average())
    assert sizes == sorted(sizes)
    with pytest.raises(Exception, match="cannot be met"):
        allocate_within(sensitivities, Limits(max_bytes=20_000), options, target=CUDA)
