"""GPTQ against its own objective and a literal transcription."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from lampq_onnx.errors import LampqError
from lampq_onnx.quantization import fit_weight_grid
from lampq_onnx.quantization.gptq import DAMPING, gptq_quantize
from lampq_onnx.quantization.weights_file import load_weights, save_weights


def problem(outputs: int, inputs: int, tokens: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and the hessian of correlated inputs."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(inputs, inputs)) * np.geomspace(1, 0.05, inputs)
    x = random.normal(size=(tokens, inputs)) @ mixing
    return random.normal(size=(outputs, inputs)).astype(np.float32), x.T @ x / tokens


def output_error(change: np.ndarray, hessian: np.ndarray) -> float:
    return float(np.einsum("oi,ij,oj->", change, hessian, change))


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
@pytest.mark.parametrize("shape", [(6, 20), (3, 150), (1, 1), (5, 2)])
def test_never_worse_than_nearest_by_much_and_mostly_far_better(bits: int, shape: tuple[int, int]) -> None:
    weight, hessian = problem(*shape, tokens=400)
    grid = fit_weight_grid(weight, bits)
    nearest, clever = grid.quantize(weight), gptq_quantize(weight, grid, hessian)
    assert clever.codes.max() < 2**bits
    assert np.array_equal(clever.scale, nearest.scale)
    errors = [output_error(q.dequantize() - weight, hessian) for q in (nearest, clever)]
    if shape[1] >= 20:
        assert errors[1] < 0.75 * errors[0]
    else:
        assert errors[1] <= 1.2 * errors[0] + 1e-9


def test_a_diagonal_hessian_is_plain_rounding() -> None:
    weight, _ = problem(4, 30, 10)
    grid = fit_weight_grid(weight, 3)
    hessian = np.diag(np.random.default_rng(1).uniform(0.1, 5, 30))
    assert np.array_equal(gptq_quantize(weight, grid, hessian).codes, grid.quantize(weight).codes)


def test_blocks_do_not_change_the_result() -> None:
    """One column at a time, the inverse downdated as in the original formulation (OBQ)."""
    weight, hessian = problem(3, 140, 500, seed=2)
    grid = fit_weight_grid(weight, 4)
    inputs = weight.shape[1]
    order = np.argsort(-np.diag(hessian), kind="stable")
    inverse = np.linalg.inv(hessian + DAMPING * np.trace(hessian) / inputs * np.eye(inputs))[np.ix_(order, order)]
    work = weight[:, order].astype(np.float64)
    levels = np.empty_like(work)
    scale = grid.scale.astype(np.float64)
    for j in range(inputs):
        levels[:, j] = grid.grid.level(grid.grid.codes_of(work[:, j] / scale, 4), 4) * scale
        error = (work[:, j] - levels[:, j]) / inverse[j, j]
        work[:, j:] -= error[:, None] * inverse[j, j:]
        inverse = inverse - np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    found = gptq_quantize(weight, grid, hessian).dequantize()[:, order]
    assert (np.abs(found - levels) > 1e-5).mean() < 0.01  # ties may fall either way


def test_dead_inputs_and_bad_hessians() -> None:
    weight, hessian = problem(3, 8, 50)
    grid = fit_weight_grid(weight, 4)
    assert np.array_equal(gptq_quantize(weight, grid, np.zeros((8, 8))).codes, grid.quantize(weight).codes)
    hessian[2] = hessian[:, 2] = 0
    assert gptq_quantize(weight, grid, hessian).codes.shape == weight.shape
    with pytest.raises(ValueError, match="8 inputs"):
        gptq_quantize(weight, grid, np.eye(7))
    with pytest.raises(ValueError, match="NaN"):
        gptq_quantize(weight, grid, np.full((8, 8), np.nan))


def test_rounded_weights_as_a_file(tmp_path: Path) -> None:
    weight, hessian = problem(3, 8, 50)
    grid = fit_weight_grid(weight, 3)
    kept = {"a.b": gptq_quantize(weight, grid, hessian), "c": grid.quantize(weight)}
    save_weights(kept, tmp_path / "w.safetensors")
    found = load_weights(tmp_path / "w.safetensors")
    assert set(found) == set(kept)
    for name, value in kept.items():
        assert np.array_equal(found[name].dequantize(), value.dequantize())
        assert (found[name].bits, found[name].grid) == (value.bits, value.grid)


def test_bad_weights_files(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(LampqError, match="no such weights file"):
        load_weights(path)
    weight, _ = problem(3, 8, 50)
    good = fit_weight_grid(weight, 3).quantize(weight)
    save_weights({"a": good}, path)
    whole = path.read_bytes()
    for keep in (0, 7, 100, len(whole) - 3):
        path.write_bytes(whole[:keep])
        with pytest.raises(LampqError, match=r"w\.safetensors is damaged"):
            load_weights(path)
    safetensors.numpy.save_file({"x": np.zeros(3)}, path)
    with pytest.raises(LampqError, match="no weights file of lampq-onnx"):
        load_weights(path)
    save_weights({"a": replace(good, codes=good.codes + np.uint8(8))}, path)
    with pytest.raises(LampqError, match="layer a does not fit its width"):
        load_weights(path)
