from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from lampq_onnx.quantization import ActivationQuantizer, Histogram, candidate_ranges
from lampq_onnx.quantization.activations import MSE_SHRINKS, NARROW_SHRINKS, PERCENTILES

RANGES = [(-1.5, 3.0), (0.0, 2.0), (-7.0, 0.0), (0.5, 4.0), (-3.0, -1.0), (-1e-3, 1e4), (-1e30, 1e30)]


def through_onnx(values: np.ndarray, quantizer: ActivationQuantizer) -> np.ndarray:
    """QuantizeLinear, Clip to the narrow type, DequantizeLinear in onnx's evaluator."""
    dtype = np.uint8 if quantizer.bits <= 8 else np.uint16
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("Min", ["q", "top"], ["c"]),
            helper.make_node("DequantizeLinear", ["c", "s", "z"], ["y"]),
        ],
        "fake",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])],
        [
            numpy_helper.from_array(np.asarray(quantizer.scale, np.float32), "s"),
            numpy_helper.from_array(np.asarray(quantizer.zero_point, dtype), "z"),
            numpy_helper.from_array(np.asarray(2**quantizer.bits - 1, dtype), "top"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    return ReferenceEvaluator(model).run(None, {"x": values})[0]


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8, 16])
@pytest.mark.parametrize(("low", "high"), RANGES)
def test_fake_is_quantizelinear_and_dequantizelinear(low: float, high: float, bits: int) -> None:
    quantizer = ActivationQuantizer.from_range(low, high, bits)
    rng = np.random.default_rng(bits)
    width = high - low
    values = rng.uniform(low - 0.2 * width, high + 0.2 * width, 500).astype(np.float32)
    steps = np.arange(-3, 9, dtype=np.float32)
    # Ties, levels and their neighbours are where implementations differ.
    ties = ((steps - 0.5) * np.float32(quantizer.scale)).astype(np.float32)
    exact = (steps * np.float32(quantizer.scale)).astype(np.float32)
    values = np.concatenate([values, ties, exact, np.nextafter(ties, np.float32(np.inf)), [0.0]]).astype(np.float32)
    np.testing.assert_array_equal(quantizer.fake(values), through_onnx(values, quantizer))


@pytest.mark.parametrize("bits", [2, 3, 5, 8, 16])
@pytest.mark.parametrize(("low", "high"), RANGES)
def test_the_range_is_covered_and_zero_is_a_level(low: float, high: float, bits: int) -> None:
    quantizer = ActivationQuantizer.from_range(low, high, bits)
    assert np.float32(quantizer.scale) == quantizer.scale
    assert 0 <= quantizer.zero_point <= 2**bits - 1
    half = 0.51 * quantizer.scale  # float32 holds 2^16 levels with a few thousandths of a step
    assert abs(float(quantizer.low) - min(low, 0)) <= half
    assert abs(float(quantizer.high) - max(high, 0)) <= half
    assert quantizer.fake(np.zeros(1, np.float32))[0] == 0
    inside = np.linspace(min(low, 0), max(high, 0), 2001).astype(np.float32)
    fake = quantizer.fake(inside).astype(np.float64)
    assert len(np.unique(fake)) <= 2**bits
    assert np.abs(fake - inside).max() <= half
    assert fake.min() == quantizer.low
    assert fake.max() == quantizer.high


@pytest.mark.parametrize("bits", [2, 5, 8, 16])
@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (-0.0, 0.0), (1e-42, 1e-42), (-1e-44, 1e-44)])
def test_empty_ranges(low: float, high: float, bits: int) -> None:
    quantizer = ActivationQuantizer.from_range(low, high, bits)
    assert quantizer == ActivationQuantizer(scale=1.0, zero_point=0, bits=bits)
    values = np.array([0, 1e-42, -1e-42], np.float32)
    np.testing.assert_array_equal(quantizer.fake(values), 0)
    np.testing.assert_array_equal(through_onnx(values, quantizer), 0)


def test_fake_keeps_its_argument() -> None:
    values = np.array([0.2, 0.7], np.float32)
    ActivationQuantizer.from_range(0, 1, 2).fake(values)
    np.testing.assert_array_equal(values, np.array([0.2, 0.7], np.float32))


def collected(values: np.ndarray, bins: int = 4096) -> Histogram:
    counts, _ = np.histogram(values, bins, (values.min(), values.max()))
    return Histogram(float(values.min()), float(values.max()), counts.astype(np.float64))


def drawn(kind: str) -> np.ndarray:
    rng = np.random.default_rng(3)
    match kind:
        case "normal":
            return rng.normal(0.3, 1.0, 200_000)
        case "laplace":
            return rng.laplace(0, 1, 200_000)
        case "gelu":
            x = rng.normal(0, 1.5, 200_000)
            return x / (1 + np.exp(-1.702 * x))
        case _:
            return np.concatenate([rng.normal(0, 1, 200_000), rng.uniform(60, 80, 20)])


@pytest.mark.parametrize("coverage", [90.0, 99.0, *PERCENTILES[:2]])
@pytest.mark.parametrize("kind", ["normal", "laplace", "gelu", "outliers"])
def test_percentiles_are_those_of_the_samples(kind: str, coverage: float) -> None:
    values = drawn(kind)
    histogram = collected(values)
    tail = (100 - coverage) / 2
    bin_width = (histogram.high - histogram.low) / len(histogram.counts)
    low, high = histogram.percentile_range(coverage)
    for found, share in ((low, tail), (high, 100 - tail)):
        # The bin that holds the percentile, with the samples at its edges.
        around = np.percentile(values, [max(share - 0.005, 0), min(share + 0.005, 100)])
        assert around[0] - bin_width <= found <= around[1] + bin_width
    kept = ((values >= low) & (values <= high)).mean()
    assert kept == pytest.approx(coverage / 100, abs=1e-3 + _mass_at(histogram, low) + _mass_at(histogram, high))


def _mass_at(histogram: Histogram, value: float) -> float:
    """Share of the samples in the bin of ``value``, which is as exact as a histogram can be."""
    width = (histogram.high - histogram.low) / len(histogram.counts)
    where = min(int((value - histogram.low) / width), len(histogram.counts) - 1)
    return float(histogram.counts[where] / histogram.counts.sum())


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("kind", ["normal", "laplace", "gelu", "outliers"])
def test_the_mse_range_is_the_best_on_the_samples(kind: str, bits: int) -> None:
    values = drawn(kind).astype(np.float32)
    histogram = collected(values)

    def error(low: float, high: float) -> float:
        fake = ActivationQuantizer.from_range(low, high, bits).fake(values)
        return float(((values.astype(np.float64) - fake) ** 2).mean())

    mesh = {float(shrink): error(histogram.low * shrink, histogram.high * shrink) for shrink in MSE_SHRINKS[::3]}
    low, high = histogram.mse_range(bits)
    # The estimate takes the rounding error for uniform, which is rough at 2 and 3 bits.
    assert error(low, high) <= {2: 1.4, 3: 1.15}.get(bits, 1.05) * min(mesh.values())
    assert error(low, high) <= error(histogram.low, histogram.high) * 1.01
    if kind == "outliers":
        assert high < 0.9 * histogram.high or bits == 8


def test_candidates() -> None:
    histogram = collected(drawn("normal"))
    ranges = candidate_ranges(histogram, 4)
    always = ["minmax", *(f"percentile-{p}" for p in PERCENTILES), "mse"]
    assert list(ranges) == [*always, *(f"shrink-{part}" for part in NARROW_SHRINKS)]
    assert list(candidate_ranges(histogram, 8)) == always
    assert candidate_ranges(histogram, 16) == {"minmax": (4 * histogram.low, 4 * histogram.high)}
    wide = ActivationQuantizer.from_range(*candidate_ranges(histogram, 16)["minmax"], 16)
    assert wide.scale == pytest.approx(4 * (histogram.high - histogram.low) / (2**16 - 1))
    for part in NARROW_SHRINKS:
        assert ranges[f"shrink-{part}"] == (part * histogram.low, part * histogram.high)
    assert ranges["minmax"] == (histogram.low, histogram.high)
    assert ranges["mse"] == histogram.mse_range(4)
    widths = [ranges[f"percentile-{p}"][1] - ranges[f"percentile-{p}"][0] for p in PERCENTILES]
    assert widths[0] < widths[1] < widths[2] <= histogram.high - histogram.low


@pytest.mark.parametrize(
    "histogram", [Histogram(0.0, 0.0, np.zeros(8)), Histogram(-1.0, 1.0, np.zeros(8)), Histogram(2.0, 2.0, np.ones(8))]
)
def test_nothing_to_choose_from(histogram: Histogram) -> None:
    assert candidate_ranges(histogram, 8) == {"minmax": (histogram.low, histogram.high)}
