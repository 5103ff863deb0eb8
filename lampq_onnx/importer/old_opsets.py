"""Brings files of old opsets to the oldest one whose operators are supported."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.version_converter
import onnx_ir as ir

from lampq_onnx.errors import LampqError
from lampq_onnx.graph.model_file import PROTOBUF_LIMIT, model_bytes

LEAST_OPSET = 13
"""The oldest opset whose operators are supported."""

LEAST_CONVERTED = 7
"""The oldest opset that onnxruntime runs, so that results can be compared with the file's."""


def from_old_opset(model: ir.Model, path: Path) -> tuple[ir.Model, int]:
    """Convert a model of opset 7 to 12 to opset 13 by onnx's version converter.

    Returns:
        The model, and the number of conversions: 1 or 0.

    Raises:
        LampqError: an operator cannot be converted, or the model is too large for the converter.
    """
    opset = model.opset_imports.get("", 0)
    if not LEAST_CONVERTED <= opset < LEAST_OPSET:
        return model, 0
    if model_bytes(model) > PROTOBUF_LIMIT:
        raise LampqError(
            f"{path} has opset {opset} and more than 2 GB, which onnx's version converter cannot convert",
            hint=f"export it with opset {LEAST_OPSET} or later",
        )
    ir.external_data.load_to_model(model)
    try:
        found = ir.from_proto(onnx.version_converter.convert_version(ir.to_proto(model), LEAST_OPSET))
    except Exception as error:  # the converter raises exceptions of many types
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise LampqError(
            f"{path} has opset {opset}, and onnx's version converter cannot bring it to opset {LEAST_OPSET}: "
            f"{said[:300]}",
            hint=f"export it with opset {LEAST_OPSET} or later",
        ) from error
    found.metadata_props.update(model.metadata_props)
    return found, 1
