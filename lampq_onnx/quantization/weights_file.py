"""Rounded weights as a file: the result of data-dependent rounding, which `convert` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from lampq_onnx.disk.files import write_atomic
from lampq_onnx.errors import LampqError
from lampq_onnx.quantization.grids import Grid
from lampq_onnx.quantization.weights import QuantizedWeight, RowWidths

FORMAT = "lampq-onnx/weights 1"
ROWS_FORMAT = "lampq-onnx/weights 2"
"""Format of files in which the rows of a layer differ in width; programs that know only the first would read such rows
as if all had the largest width."""
BLOCKS_FORMAT = "lampq-onnx/weights 3"
"""Format of files in which a layer has a scale for each block of inputs, or rows that differ in width."""
FORMATS = (FORMAT, ROWS_FORMAT, BLOCKS_FORMAT)

LENGTH_BYTES = 8  # size of the header's length field in a safetensors file, and the header's alignment


def save_weights(weights: Mapping[str, QuantizedWeight], path: Path) -> None:
    """Write codes (uint8), scales and biases (float32) of every layer as safetensors.

    Widths, grids and blocks are in the header. Layers whose rounding changes no bias have none in the file. Where the
    rows of a layer differ in width, the widths (uint8) are a tensor, and the header has a grid for each width.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    layers: dict[str, dict[str, Any]] = {}
    for name, weight in weights.items():
        arrays[f"{name}.codes"] = np.ascontiguousarray(weight.codes)
        arrays[f"{name}.scale"] = np.ascontiguousarray(weight.scale)
        if weight.bias is not None:
            arrays[f"{name}.bias"] = np.ascontiguousarray(weight.bias)
        layers[name] = {"bits": weight.bits, "grid": weight.grid.value}
        if weight.block is not None:
            layers[name]["block"] = weight.block
        if weight.widths is not None:
            arrays[f"{name}.widths"] = np.ascontiguousarray(weight.widths.bits.astype(np.uint8))
            layers[name]["grids"] = {str(width): grid.value for width, grid in sorted(weight.widths.grids.items())}
    mixed = any(weight.widths is not None for weight in weights.values())
    blocks = any(weight.block is not None for weight in weights.values())
    known = BLOCKS_FORMAT if blocks else ROWS_FORMAT if mixed else FORMAT
    header = {"format": known, "layers": json.dumps(layers, sort_keys=True)}
    write_atomic(path, _ordered(safetensors.numpy.save(arrays, metadata=header)))


def _ordered(file: bytes) -> bytes:
    """Return the file with its metadata in the order of their names; safetensors writes them in any order."""
    end = LENGTH_BYTES + int.from_bytes(file[:LENGTH_BYTES], "little")
    header = json.loads(file[LENGTH_BYTES:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text + file[end:]


def load_weights(path: Path) -> dict[str, QuantizedWeight]:
    """Read a file that `save_weights` wrote.

    Raises:
        LampqError: the file is missing, damaged or of another kind, codes do not fit their width, or a bias is not one
            finite number per output.
    """
    if not path.is_file():
        raise LampqError(f"no such weights file: {path}")
    try:
        with safetensors.safe_open(path, "np") as file:
            header = file.metadata() or {}
            if header.get("format") not in FORMATS:
                raise LampqError(
                    f"{path} is not a weights file of lampq-onnx: its header does not say {FORMAT!r}, {ROWS_FORMAT!r} "
                    f"or {BLOCKS_FORMAT!r}"
                )
            present = set(file.keys())
            return {
                name: _checked(
                    path,
                    name,
                    QuantizedWeight(
                        codes=file.get_tensor(f"{name}.codes"),
                        scale=file.get_tensor(f"{name}.scale"),
                        bits=int(facts["bits"]),
                        grid=Grid(facts["grid"]),
                        bias=file.get_tensor(f"{name}.bias") if f"{name}.bias" in present else None,
                        widths=_row_widths(file.get_tensor(f"{name}.widths"), facts["grids"])
                        if "grids" in facts
                        else None,
                        block=facts.get("block"),
                    ),
                )
                for name, facts in json.loads(header["layers"]).items()
            }
    except LampqError:
        raise
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LampqError(f"the weights file {path} is damaged: {error}") from error


def _row_widths(bits: npt.NDArray[Any], grids: Mapping[str, str]) -> RowWidths:
    if bits.dtype != np.uint8 or bits.ndim != 1 or bits.size == 0 or bits.min() < 1 or bits.max() > 8:
        raise ValueError("the widths of rows must be numbers from 1 to 8")
    found = {int(width): Grid(grid) for width, grid in grids.items()}
    if set(found) != set(bits.tolist()):
        raise ValueError("the header has not one grid for each width of rows")
    return RowWidths(bits.astype(np.int8), found)


def _scale_shape(weight: QuantizedWeight) -> tuple[int, ...]:
    """Return the shape that the scales of a weight have."""
    outputs, inputs = weight.codes.shape
    if weight.block is None:
        return (outputs,)
    if not isinstance(weight.block, int) or weight.block < 1:
        raise ValueError("a block has at least one input")
    return (outputs, -(-inputs // weight.block))


def _checked(path: Path, name: str, weight: QuantizedWeight) -> QuantizedWeight:
    fits = (
        weight.codes.dtype == np.uint8
        and weight.scale.dtype == np.float32
        and weight.codes.ndim == 2
        and weight.scale.shape == _scale_shape(weight)
        and 1 <= weight.bits <= 8
        and weight.codes.size > 0
        and (
            weight.widths is None
            or (weight.widths.widest, weight.widths.grids[weight.bits]) == (weight.bits, weight.grid)
        )
        and len(weight.row_bits()) == len(weight.codes)
        and bool((weight.codes < 2 ** weight.row_bits()[:, None].astype(np.int16)).all())
        and bool((np.isfinite(weight.scale) & (weight.scale > 0)).all())
    )
    if not fits:
        raise LampqError(f"the weights file {path} is damaged: layer {name} does not fit its width")
    bias = weight.bias
    if bias is not None and not (
        bias.dtype == np.float32 and bias.shape == weight.codes.shape[:1] and np.isfinite(bias).all()
    ):
        raise LampqError(
            f"the weights file {path} is damaged: the bias of layer {name} is not one finite float32 number per output",
            hint="write the file again with quantize",
        )
    return weight
