from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from lampq_onnx.quantization import INTEGER_GRIDS, Grid, QuantizedWeight, fit_weight_grid
from lampq_onnx.quantization.fitting import _fit
from lampq_onnx.quantization.grids import MID_RISE_MAX_BITS

BITS = range(1, 9)


def levels(grid: Grid, bits: int) -> np.ndarray:
    """The grid, written out."""
    if grid is Grid.MID_RISE:
        return np.arange(-(2**bits - 1), 2**bits, 2)
    return np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1))


def grids(bits: int) -> list[Grid]:
    """Those that are offered at a width."""
    return [Grid.MID_RISE] if bits == 1 else list(INTEGER_GRIDS) if bits <= 4 else [Grid.MID_TREAD]


def nearest(channel: np.ndarray, scale: float, grid: Grid, bits: int) -> np.ndarray:
    """Nearest point of the scaled grid, by looking at every point."""
    points = levels(grid, bits) * scale
    return points[np.abs(channel[:, None] - points[None, :]).argmin(1)]


def best_errors(weight: np.ndarray, grid: Grid, bits: int, steps: int = 1500) -> np.ndarray:
    """Smallest squared error of each channel over a fine mesh of scales."""
    weight = weight.astype(np.float64)
    full = np.abs(weight).max(1) / levels(grid, bits)[-1]
    best = np.full(len(weight), np.inf)
    for ratio in np.linspace(0.01, 1.2, steps):
        scale = (full * ratio)[:, None]
        if grid is Grid.MID_RISE:
            level = np.clip(2 * np.floor(weight / scale / 2) + 1, levels(grid, bits)[0], levels(grid, bits)[-1])
        else:
            level = np.clip(np.rint(weight / scale), levels(grid, bits)[0], levels(grid, bits)[-1])
        best = np.minimum(best, ((weight - level * scale) ** 2).sum(1))
    return best


def samples(kind: str, inputs: int) -> np.ndarray:
    rng = np.random.default_rng(inputs)
    weight = rng.standard_t(4, (6, inputs)) if kind == "heavy" else rng.normal(size=(6, inputs))
    if kind == "outlier":
        weight[:, 0] = 15
    return weight.astype(np.float32)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("kind", "inputs"), [("normal", 12), ("normal", 200), ("heavy", 64), ("outlier", 600)])
def test_the_scale_is_the_best_one(kind: str, inputs: int, bits: int) -> None:
    weight = samples(kind, inputs)
    energy = float((weight.astype(np.float64) ** 2).sum())
    for grid in grids(bits):
        fit = _fit(weight, np.zeros(len(weight), np.int32), bits, grid)
        best = best_errors(weight, grid, bits).sum()
        # A mesh of 1500 scales also fits the luck of the rounding, worth up to a fifth of an error that is then tiny.
        assert fit.error <= max(1.01 * best, best + 3e-4 * energy)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_wide_channels_with_an_outlier_are_clipped(bits: int) -> None:
    weight = np.random.default_rng(0).normal(size=(8, 1536)).astype(np.float32)
    weight[:, 0] = 20
    best = min(best_errors(weight, grid, bits, 1000).sum() for grid in INTEGER_GRIDS)
    assert fit_weight_grid(weight, bits).error <= 1.02 * best


@pytest.mark.parametrize("bits", BITS)
def test_codes_are_the_nearest_levels_and_the_error_is_theirs(bits: int) -> None:
    weight = samples("heavy", 33)
    fit = fit_weight_grid(weight, bits)
    quantized = fit.quantize(weight)
    restored = quantized.dequantize()
    wanted = np.stack([nearest(w, float(s), fit.grid, bits) for w, s in zip(weight, fit.scale, strict=True)])
    np.testing.assert_allclose(restored, wanted, rtol=1e-6)
    squared = ((weight.astype(np.float64) - wanted) ** 2).sum()
    assert fit.error == pytest.approx(squared, rel=1e-4)
    assert quantized.codes.dtype == np.uint8
    assert quantized.codes.max() < 2**bits
    assert fit.scale.dtype == np.float32


@pytest.mark.parametrize("bits", [b for b in BITS if 1 < b <= MID_RISE_MAX_BITS])
def test_the_better_grid_is_taken(bits: int) -> None:
    rng = np.random.default_rng(bits)
    for grid in INTEGER_GRIDS:
        # Weights that lie on one of the grids, all levels used.
        points = np.concatenate([levels(grid, bits), rng.choice(levels(grid, bits), 40)])
        weight = np.stack([points * 0.03, points * 0.7]).astype(np.float32)
        fit = fit_weight_grid(weight, bits)
        assert fit.grid is grid
        np.testing.assert_allclose(fit.quantize(weight).dequantize(), weight, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("grid", INTEGER_GRIDS)
def test_levels_of_all_codes(grid: Grid, bits: int) -> None:
    if grid not in grids(bits):
        pytest.skip("not offered at this width")
    codes = np.arange(2**bits, dtype=np.uint8)
    quantized = QuantizedWeight(codes[None], np.ones(1, np.float32), bits, grid)
    np.testing.assert_array_equal(quantized.integers()[0], levels(grid, bits))
    assert grid.top(bits) == levels(grid, bits)[-1]
    np.testing.assert_array_equal(grid.codes_of(levels(grid, bits).astype(np.float32), bits), codes)
    if grid is Grid.MID_RISE:  # symmetric, and safe for kernels that saturate above 64
        np.testing.assert_array_equal(levels(grid, bits), -levels(grid, bits)[::-1])
        assert np.abs(quantized.integers()).max() <= 64
    else:  # zero is a level, and there is one more level below it
        assert 0 in quantized.integers()
        assert quantized.integers().min() == -quantized.integers().max() - 1


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("grid", INTEGER_GRIDS)
def test_dequantize_is_dequantizelinear(grid: Grid, bits: int) -> None:
    if grid not in grids(bits):
        pytest.skip("not offered at this width")
    rng = np.random.default_rng(bits)
    codes = rng.integers(0, 2**bits, (5, 7)).astype(np.uint8)
    weight = QuantizedWeight(codes, rng.lognormal(size=5).astype(np.float32), bits, grid)
    graph = helper.make_graph(
        [helper.make_node("DequantizeLinear", ["q", "s"], ["y"], axis=0)],
        "dequantize",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5, 7])],
        [numpy_helper.from_array(weight.integers(), "q"), numpy_helper.from_array(weight.scale, "s")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(ReferenceEvaluator(model).run(None, {})[0], weight.dequantize())


@pytest.mark.parametrize("bits", range(2, 9))
def test_mid_tread_codes_are_those_of_quantizelinear(bits: int) -> None:
    rng = np.random.default_rng(bits)
    weight = rng.normal(size=(4, 50)).astype(np.float32)
    fit = _fit(weight, np.zeros(4, np.int32), bits, Grid.MID_TREAD)
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=0),
            helper.make_node("Clip", ["q", "low", "high"], ["y"]),
        ],
        "quantize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 50])],
        [helper.make_tensor_value_info("y", TensorProto.INT8, [4, 50])],
        [
            numpy_helper.from_array(fit.scale, "s"),
            numpy_helper.from_array(np.zeros(4, np.int8), "z"),
            numpy_helper.from_array(np.array(-(2 ** (bits - 1)), np.int8), "low"),
            numpy_helper.from_array(np.array(2 ** (bits - 1) - 1, np.int8), "high"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    wanted = ReferenceEvaluator(model).run(None, {"x": weight})[0]
    np.testing.assert_array_equal(fit.quantize(weight).integers(), wanted)


def gaussian_error(grid: Grid, bits: int) -> float:
    """Mean squared error of a standard normal variable at the best scale, by numerical integration."""
    x = np.linspace(-8, 8, 40_001)
    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi) * (x[1] - x[0])
    top = levels(grid, bits)[-1]
    errors = []
    for clip in np.linspace(0.5, 5, 451):
        points = levels(grid, bits) * clip / top
        edges = (points[1:] + points[:-1]) / 2
        errors.append(float((density * (x - points[np.searchsorted(edges, x)]) ** 2).sum()))
    return min(errors)


@pytest.mark.parametrize(("bits", "saving"), [(2, 0.20), (3, 0.08), (4, 0.03)])
def test_gaussian_figures_of_the_docstring(bits: int, saving: float) -> None:
    rise, tread = gaussian_error(Grid.MID_RISE, bits), gaussian_error(Grid.MID_TREAD, bits)
    assert 1 - rise / tread == pytest.approx(saving, abs=0.005)
    # Max, Quantizing for minimum distortion, 1960, table II: equally spaced levels
    assert rise == pytest.approx({2: 0.1188, 3: 0.03744, 4: 0.01154}[bits], rel=2e-3)


@pytest.mark.parametrize("bits", [5, 6])
def test_the_grids_hardly_differ_above_the_limit(bits: int) -> None:
    assert bits > MID_RISE_MAX_BITS
    assert gaussian_error(Grid.MID_RISE, bits) == pytest.approx(gaussian_error(Grid.MID_TREAD, bits), rel=0.01)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bits", BITS)
def test_zero_channels(bits: int) -> None:
    weight = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    weight[1] = 0
    fit = fit_weight_grid(weight, bits)
    restored = fit.quantize(weight).dequantize()
    assert np.abs(restored[1]).max() <= 1e-35
    assert (fit.scale > 0).all()
    assert np.isfinite(fit.error)
    alone = fit_weight_grid(weight[[0, 2]], bits)
    if alone.grid is fit.grid:
        np.testing.assert_array_equal(fit.scale[[0, 2]], alone.scale)
    everywhere = fit_weight_grid(np.zeros((2, 3), np.float32), bits)
    assert everywhere.error == 0
    assert np.abs(everywhere.quantize(np.zeros((2, 3), np.float32)).dequantize()).max() <= 1e-35


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("value", [0.3, -0.3, 1e-30, -1e30, 3.4e38])
@pytest.mark.parametrize("inputs", [1, 5])
def test_constants_and_single_elements_are_kept(bits: int, value: float, inputs: int) -> None:
    weight = np.full((2, inputs), value, np.float32)
    fit = fit_weight_grid(weight, bits)
    np.testing.assert_allclose(fit.quantize(weight).dequantize(), weight, rtol=1e-6)
    assert np.isfinite(fit.error)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("exponent", [-120, -70, -40, 40, 70, 120])
def test_powers_of_two_change_nothing(bits: int, exponent: int) -> None:
    weight = samples("normal", 100)
    plain, scaled = fit_weight_grid(weight, bits), fit_weight_grid(np.ldexp(weight, exponent), bits)
    assert scaled.grid is plain.grid
    np.testing.assert_array_equal(scaled.scale, np.ldexp(plain.scale, exponent))
    assert scaled.error == pytest.approx(plain.error * 4.0**exponent, rel=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bits", BITS)
def test_denormal_weights(bits: int) -> None:
    weight = np.array([[1e-45, -1e-40, 3e-39], [1e-45, 1.0, -0.5]], np.float32)
    fit = fit_weight_grid(weight, bits)
    assert (fit.scale >= np.finfo(np.float32).tiny).all()
    restored = fit.quantize(weight).dequantize()
    assert np.abs(restored[0]).max() <= 2.4e-38
    assert np.abs(restored[1, 1] - 1) <= 0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(bad: float) -> None:
    weight = np.ones((3, 4), np.float32)
    weight[1, 2] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        fit_weight_grid(weight, 4)


def test_float64_beyond_float32_is_not_finite() -> None:
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="NaN or infinity"):
        fit_weight_grid(np.full((2, 2), 1e300), 4)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3,), (1, 2, 3)])
def test_only_matrices(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="non-empty matrix"):
        fit_weight_grid(np.zeros(shape, np.float32), 4)


@pytest.mark.parametrize("bits", [0, 9, -1])
def test_only_widths_of_a_byte(bits: int) -> None:
    with pytest.raises(ValueError, match=r"1\.\.8"):
        fit_weight_grid(np.ones((2, 2), np.float32), bits)


def test_more_bits_are_never_worse() -> None:
    weight = samples("heavy", 128)
    errors = [fit_weight_grid(weight, bits).error for bits in BITS]
    assert all(after < 0.6 * before for before, after in pairwise(errors))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_only_the_given_grids_compete(bits: int) -> None:
    weight = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    fits = {grid: fit_weight_grid(weight, bits, (grid,)) for grid in INTEGER_GRIDS}
    assert all(fit.grid is grid for grid, fit in fits.items())
    assert fit_weight_grid(weight, bits).error == min(fit.error for fit in fits.values())
    assert fit_weight_grid(weight, bits, ("mid-tread",)).error == fits[Grid.MID_TREAD].error
    with pytest.raises(ValueError, match="1-bit weights have the grid mid-rise, not mid-tread"):
        fit_weight_grid(weight, 1, ("mid-tread",))


def test_rows_of_several_widths_are_fitted_by_themselves() -> None:
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(9, 16)).astype(np.float32)
    bits = np.array([1, 4, 8, 2, 4, 8, 1, 6, 2], np.int8)
    fit = fit_weight_grid(weight, bits)
    quantized = fit.quantize(weight)
    levels = quantized.integers()
    assert quantized.bits == 8
    assert quantized.grid is Grid.MID_TREAD
    error = 0.0
    for width in (1, 2, 4, 6, 8):
        rows = bits == width
        own = fit_weight_grid(weight[rows], width)
        error += own.error
        np.testing.assert_array_equal(levels[rows], own.quantize(weight[rows]).integers())
        np.testing.assert_array_equal(quantized.dequantize()[rows], own.quantize(weight[rows]).dequantize())
        np.testing.assert_array_equal(quantized.row_rises()[rows], own.grid is Grid.MID_RISE)
    assert fit.error == pytest.approx(error)
    np.testing.assert_array_equal(quantized.row_bits(), bits)
    np.testing.assert_array_equal(np.sort(np.concatenate([g.rows for g in quantized.row_groups()])), np.arange(9))


def test_one_width_for_every_row_is_one_width() -> None:
    weight = np.random.default_rng(4).normal(size=(5, 8)).astype(np.float32)
    fit = fit_weight_grid(weight, np.full(5, 3))
    plain = fit_weight_grid(weight, 3)
    assert (fit.bits, fit.grid, fit.widths, fit.error) == (3, plain.grid, None, plain.error)
    np.testing.assert_array_equal(fit.scale, plain.scale)
    np.testing.assert_array_equal(plain.quantize(weight).row_bits(), np.full(5, 3))
    with pytest.raises(ValueError, match="one width for each of 5 rows"):
        fit_weight_grid(weight, np.full(4, 3))
    with pytest.raises(ValueError, match="bits must be"):
        fit_weight_grid(weight, np.array([1, 2, 3, 4, 9]))
