"""Measure which tensors of a float file overflow in float16."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lampq_onnx.errors import LampqError
from lampq_onnx.graph.model_file import load_model
from lampq_onnx.graph.nodes import int_attribute
from lampq_onnx.graph.overflows import Overflows
from lampq_onnx.quantization.fitting import LARGEST_HALF
from lampq_onnx.runtime.inner_tensors import open_tensors

MARGIN = 4.0
"""Other images may give numbers that are larger by this factor than those that are measured."""

NORMALIZATIONS = ("LayerNormalization", "RMSNormalization")
"""Operators that add up squares of what they read along its last axes."""


def measure_overflows(path: Path, batches: Iterable[npt.NDArray[np.float32]], *, threads: int) -> Overflows:
    """Run a float file on images, and find the tensors that come near the largest number of float16.

    Args:
        path: the file.
        batches: images (n, c, h, w), few at once: all tensors of the file are in memory together.
        threads: threads of the session.

    Raises:
        LampqError: onnxruntime refuses the file or the images, or a tensor holds NaN or infinity.
    """
    graph = load_model(path).graph
    names = [value.name for node in graph for value in node.outputs if value.name]
    image = graph.inputs[0].name or ""
    norms = {node.outputs[0].name or "": node for node in graph if node.op_type in NORMALIZATIONS and node.inputs[0]}
    constants = {
        value.name or "": value.const_value.numpy()
        for node in norms.values()
        if (value := node.inputs[0]) is not None and value.const_value is not None
    }
    largest = dict.fromkeys(names, 0.0)
    sums = dict.fromkeys(norms, 0.0)
    with open_tensors(path, names, threads=threads) as opened:
        for images in batches:
            found = {**constants, **opened.run(images), image: images}
            for name in names:
                if found[name].dtype.kind == "f" and found[name].size:
                    largest[name] = max(largest[name], _largest(found[name], name, path))
            for name, node in norms.items():
                assert node.inputs[0] is not None
                sums[name] = max(sums[name], _sum_of_squares(found[node.inputs[0].name or ""], node))
    limit = LARGEST_HALF / MARGIN
    return Overflows(
        tuple(name for name, most in largest.items() if most > limit),
        tuple(name for name, most in sums.items() if most > limit and largest[name] <= limit),
    )


def _largest(values: npt.NDArray[np.float32], name: str, path: Path) -> float:
    """Return the largest magnitude; minus infinity is allowed, because masks hold it."""
    if np.isnan(values).any() or np.isposinf(values).any():
        raise LampqError(
            f"{path}: the tensor {name} holds NaN or infinity on the calibration images",
            hint="the float model itself is broken there: look for the image, or use another checkpoint",
        )
    return float(np.abs(values, where=np.isfinite(values), out=np.zeros_like(values)).max())


def _sum_of_squares(values: npt.NDArray[np.float32], node: ir.Node) -> float:
    """Return the largest sum of squares that a normalization computes."""
    axis = int_attribute(node, "axis", -1) % values.ndim
    rows = values.reshape(*values.shape[:axis], -1).astype(np.float64)
    if node.op_type == "LayerNormalization":
        rows = rows - rows.mean(-1, keepdims=True)
    return float((rows * rows).sum(-1).max())
