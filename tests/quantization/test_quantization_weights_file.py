from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lampq_onnx.errors import LampqError
from lampq_onnx.quantization import QuantizedWeight, fit_weight_grid
from lampq_onnx.quantization.weights_file import load_weights, save_weights

BIAS = np.arange(4, dtype=np.float32) - 1.5


def rounded(bias: np.ndarray | None) -> QuantizedWeight:
    weight = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    return replace(fit_weight_grid(weight, 3).quantize(weight), bias=bias)


def test_biases_are_kept_where_there_are_any(tmp_path: Path) -> None:
    save_weights({"with": rounded(BIAS), "without": rounded(None)}, tmp_path / "w.safetensors")
    found = load_weights(tmp_path / "w.safetensors")
    assert found["without"].bias is None
    kept = found["with"].bias
    assert kept is not None
    assert kept.dtype == np.float32
    np.testing.assert_array_equal(kept, BIAS)
    np.testing.assert_array_equal(found["with"].codes, found["without"].codes)


@pytest.mark.parametrize(
    "bias",
    [
        BIAS.astype(np.float64),
        BIAS.astype(np.int32),
        BIAS[:3],
        BIAS[None],
        np.float32(1) * np.ones(()),
        np.array([0, np.nan, 0, 0], np.float32),
        np.array([0, 0, np.inf, 0], np.float32),
    ],
    ids=["double", "int", "short", "matrix", "scalar", "nan", "inf"],
)
def test_damaged_biases(tmp_path: Path, bias: np.ndarray) -> None:
    save_weights({"fine": rounded(BIAS), "blocks.0.mlp.fc2": rounded(bias)}, tmp_path / "w.safetensors")
    with pytest.raises(LampqError, match=r"w\.safetensors is damaged: the bias of layer blocks\.0\.mlp\.fc2"):
        load_weights(tmp_path / "w.safetensors")


def mixed() -> QuantizedWeight:
    weight = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    return fit_weight_grid(weight, np.array([7, 2, 2, 4])).quantize(weight)


def test_rows_of_several_widths(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights({"a": mixed(), "b": rounded(None)}, path)
    found = load_weights(path)
    np.testing.assert_array_equal(found["a"].row_bits(), [7, 2, 2, 4])
    np.testing.assert_array_equal(found["a"].integers(), mixed().integers())
    assert (found["a"].bits, found["a"].grid) == (7, mixed().grid)
    assert found["b"].widths is None
    assert b"lampq-onnx/weights 2" in path.read_bytes()  # programs that know only one width must refuse it
    save_weights({"b": rounded(None)}, path)
    assert b"lampq-onnx/weights 1" in path.read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda w: replace(w, codes=np.where(w.codes < 2, np.uint8(4), w.codes)),
        lambda w: replace(w, widths=replace(w.widths, bits=w.widths.bits[:3])),
        lambda w: replace(w, widths=replace(w.widths, bits=np.array([7, 2, 2, 9], np.int8))),
        lambda w: replace(w, widths=replace(w.widths, bits=np.array([7, 2, 2, 3], np.int8))),
        lambda w: replace(w, bits=8),
    ],
    ids=["codes", "short", "nine", "no grid", "widest"],
)
def test_damaged_widths_of_rows(tmp_path: Path, damage: Callable[[QuantizedWeight], QuantizedWeight]) -> None:
    save_weights({"a": damage(mixed())}, tmp_path / "w.safetensors")
    with pytest.raises(LampqError, match=r"w\.safetensors is damaged"):
        load_weights(tmp_path / "w.safetensors")
