"""Any layer, any weights: the written file computes the plan's arithmetic, or the layer is refused by name."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lampq_onnx.artifacts import ActivationRange, BitPlan, LayerPlan
from lampq_onnx.converter import convert_model
from lampq_onnx.errors import LampqError
from lampq_onnx.targets import TARGETS
from tests.converter.graphs import LEVELS, as_ir, one_matmul, reference, run

QUICK = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

VALUES = {
    "zeros": lambda shape, rng: np.zeros(shape),
    "constant": lambda shape, rng: np.full(shape, 0.37),
    "normal": lambda shape, rng: rng.normal(size=shape),
    "one large": lambda shape, rng: np.where(rng.random(shape) < 0.1, 1e3, 1e-3),
    "denormal": lambda shape, rng: rng.normal(size=shape) * 1e-40,
    "tiny": lambda shape, rng: rng.normal(size=shape) * 1e-30,
    "huge": lambda shape, rng: rng.normal(size=shape) * 1e30,
    "zero channel": lambda shape, rng: rng.normal(size=shape) * (np.arange(shape[1]) > 0),
}


@QUICK
@given(
    inputs=st.integers(1, 33),
    outputs=st.integers(1, 17),
    bits=st.integers(1, 8),
    packing=st.sampled_from(["exact", "native", "container"]),
    activation_bits=st.sampled_from([2, 4, 8, 16, 32]),
    values=st.sampled_from(sorted(VALUES)),
    batch=st.sampled_from([0, 1, 3]),
    seed=st.integers(0, 2**16),
)
def test_a_layer_computes_what_its_plan_says(
    inputs: int, outputs: int, bits: int, packing: str, activation_bits: int, values: str, batch: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = VALUES[values]((inputs, outputs), rng).astype(np.float32)
    bias = (rng.normal(size=outputs) * max(float(np.abs(weight).max()), 1e-37)).astype(np.float32)
    interval = ActivationRange(low=-3.0, high=3.0)
    layer = LayerPlan(weight_bits=bits, activation_bits=activation_bits, activation_range=interval)
    conversion = convert_model(
        as_ir(one_matmul(weight, bias)),
        BitPlan(layers={"fc": layer}),
        packing=packing,  # type: ignore[arg-type]
        target=TARGETS["onnxruntime-x86-avx2"],
    )
    proto = ir.to_proto(conversion.model)
    numbers = conversion.parameters["fc"]
    x = (rng.normal(size=(batch, 3, inputs)) * 2).astype(np.float32)
    seen = x if numbers.activation is None else numbers.activation.fake(x)
    expected = seen.astype(np.float64) @ numbers.weight.dequantize().T.astype(np.float64) + bias
    size = np.linalg.norm(expected) + 1e-37
    for answer in (*(run(proto, x, level) for level in LEVELS), reference(proto, x)):
        assert answer.shape == expected.shape
        if batch and numbers.activation is not None:
            assert np.linalg.norm(answer - expected) <= 1e-5 * size
        else:  # weights alone: onnxruntime may put the layer on a kernel that rounds the inputs to 8 bits on its own
            assert np.linalg.norm(answer - expected) <= 2e-2 * size


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_weights_that_are_no_numbers_are_refused_by_name(value: float, bits: int) -> None:
    weight = np.ones((5, 3), np.float32)
    weight[4, 2] = value
    layer = LayerPlan(weight_bits=bits, activation_bits=8, activation_range=ActivationRange(low=-1, high=1))
    with pytest.raises(LampqError, match=r"layer fc .*NaN or infinity"):
        convert_model(as_ir(one_matmul(weight)), BitPlan(layers={"fc": layer}), target=TARGETS["onnxruntime-x86-avx2"])
