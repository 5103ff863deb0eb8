"""Rounded weights as a file: the result of data-dependent rounding, which `convert` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from lampq_onnx.disk.files import write_atomic
from lampq_onnx.errors import LampqError
from lampq_onnx.quantization.weights import Grid, QuantizedWeight

FORMAT = "lampq-onnx/weights 1"
LENGTH_BYTES = 8  # size of the header's length field in a safetensors file, and the header's alignment


def save_weights(weights: Mapping[str, QuantizedWeight], path: Path) -> None:
    """Write codes (uint8), scales and biases (float32) of every layer as safetensors.

    Widths and grids are in the header. Layers whose rounding changes no bias have none in the file.
    """
    arrays = {}
    layers = {}
    for name, weight in weights.items():
        arrays[f"{name}.codes"] = np.ascontiguousarray(weight.codes)
        arrays[f"{name}.scale"] = np.ascontiguousarray(weight.scale)
        if weight.bias is not None:
            arrays[f"{name}.bias"] = np.ascontiguousarray(weight.bias)
        layers[name] = {"bits": weight.bits, "grid": weight.grid.value}
    header = {"format": FORMAT, "layers": json.dumps(layers, sort_keys=True)}
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
            if header.get("format") != FORMAT:
                raise LampqError(f"{path} is not a weights file of lampq-onnx: its header does not say {FORMAT!r}")
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
                    ),
                )
                for name, facts in json.loads(header["layers"]).items()
            }
    except LampqError:
        raise
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LampqError(f"the weights file {path} is damaged: {error}") from error


def _checked(path: Path, name: str, weight: QuantizedWeight) -> QuantizedWeight:
    fits = (
        weight.codes.dtype == np.uint8
        and weight.scale.dtype == np.float32
        and weight.codes.ndim == 2
        and weight.scale.shape == weight.codes.shape[:1]
        and 1 <= weight.bits <= 8
        and weight.codes.size > 0
        and bool((weight.codes < 2**weight.bits).all())
        and bool((np.isfinite(weight.scale) & (weight.scale > 0)).all())
    )
    if not fits:
        raise LampqError(f"the weights file {path} is damaged: layer {name} does not fit its width")
    bias = weight.bias
    if bias is not None and not (
        bias.dtype == np.float32 and bias.shape == weight.scale.shape and np.isfinite(bias).all()
    ):
        raise LampqError(
            f"the weights file {path} is damaged: the bias of layer {name} is not one finite float32 number per output",
            hint="write the file again with quantize",
        )
    return weight
