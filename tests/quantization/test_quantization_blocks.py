"""Weights with a scale for each block of inputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lampq_onnx.errors import LampqError
from lampq_onnx.quantization import Grid, fit_weight_grid
from lampq_onnx.quantization.fitting import float16_scales
from lampq_onnx.quantization.weights import WeightGrid
from lampq_onnx.quantization.weights_file import BLOCKS_FORMAT, load_weights, save_weights

GRIDS = ("mid-tread",)


def weight(inputs: int = 70) -> np.ndarray:
    random = np.random.default_rng(3)
    # Blocks of very different size: one scale for a row would round the small ones to zero.
    return (random.normal(size=(6, inputs)) * np.repeat([1.0, 0.01, 0.1], 32)[:inputs]).astype(np.float32)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_each_block_is_fitted_as_if_it_were_a_row(bits: int) -> None:
    matrix = weight()
    fit = fit_weight_grid(matrix, bits, GRIDS, 32)
    assert fit.scale.shape == (6, 3)
    for number in range(3):
        part = matrix[:, 32 * number : 32 * number + 32]
        alone = fit_weight_grid(np.pad(part, ((0, 0), (0, 32 - part.shape[1]))), bits, GRIDS)
        np.testing.assert_array_equal(fit.scale[:, number], float16_scales(alone.scale))
    found = fit.quantize(matrix)
    by_hand = np.empty_like(matrix)
    for column in range(70):
        scale = fit.scale[:, column // 32]
        top = 2 ** (bits - 1)
        by_hand[:, column] = np.clip(np.rint(matrix[:, column] / scale), -top, top - 1) * scale
    np.testing.assert_array_equal(found.dequantize(), by_hand)
    assert fit.error == pytest.approx(float(((by_hand.astype(np.float64) - matrix) ** 2).sum()), rel=1e-6)
    small = matrix[:, 32:64]
    rows = fit_weight_grid(matrix, bits, GRIDS).quantize(matrix).dequantize()[:, 32:64]
    assert np.linalg.norm(by_hand[:, 32:64] - small) < 0.5 * np.linalg.norm(rows - small)


def test_scales_are_numbers_of_float16_that_are_not_zero() -> None:
    matrix = weight()
    matrix[0] = 0
    matrix[1] = 1e-12
    scale = fit_weight_grid(matrix, 4, GRIDS, 32).scale
    np.testing.assert_array_equal(scale, scale.astype(np.float16).astype(np.float32))
    assert (scale > 0).all()


def test_a_block_of_all_inputs_is_a_channel() -> None:
    matrix = weight()
    whole, rows = fit_weight_grid(matrix, 4, GRIDS, 70), fit_weight_grid(matrix, 4, GRIDS)
    np.testing.assert_array_equal(whole.scale[:, 0], float16_scales(rows.scale))
    assert whole.error == pytest.approx(rows.error, rel=1e-2)


def test_rows_of_different_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="have one width"):
        fit_weight_grid(weight(), np.array([4, 4, 8, 8, 4, 4]), GRIDS, 32)
    same = fit_weight_grid(weight(), np.full(6, 4), GRIDS, 32)
    np.testing.assert_array_equal(same.scale, fit_weight_grid(weight(), 4, GRIDS, 32).scale)


def test_the_weights_file_holds_the_blocks(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    rounded = fit_weight_grid(weight(), 4, GRIDS, 32).quantize(weight())
    plain = fit_weight_grid(weight(), 4).quantize(weight())
    save_weights({"a": rounded, "b": plain}, path)
    assert BLOCKS_FORMAT.encode() in path.read_bytes()
    found = load_weights(path)
    assert (found["a"].block, found["b"].block) == (32, None)
    np.testing.assert_array_equal(found["a"].dequantize(), rounded.dequantize())
    np.testing.assert_array_equal(found["b"].dequantize(), plain.dequantize())
    for wrong in (replace(rounded, block=16), replace(rounded, block=0), replace(rounded, block=None)):
        save_weights({"a": wrong}, path)
        with pytest.raises(LampqError, match="is damaged"):
            load_weights(path)


def test_a_grid_knows_the_step_of_each_weight() -> None:
    grid = WeightGrid(np.array([[1, 2], [3, 4]], np.float32), 4, Grid.MID_TREAD, 0.0, block=4)
    np.testing.assert_array_equal(grid.steps(6)[1], [3, 3, 3, 3, 4, 4])
    np.testing.assert_array_equal(replace(grid, scale=grid.scale[:, 0], block=None).steps(6), [[1], [3]])
