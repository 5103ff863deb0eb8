"""The one entry: a file in, a graph in normal form and what was done to it out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import onnxscript.optimizer

from lampq_onnx.converter.model_file import load_model
from lampq_onnx.importer.float32 import ToFloat32
from lampq_onnx.importer.refusals import (
    image_input,
    require_float_file,
    require_no_control_flow,
    require_opset,
)

FOLDED_BYTES = 2**30
"""Largest constant that is folded; above this the file would grow instead of becoming simpler."""


@dataclass(frozen=True)
class Imported:
    """A graph in float32 without functions, branches and foldable constants, with one image input.

    Attributes:
        model: the graph.
        changes: what was done -> how often, where it was.
        half: whether the file takes its images in float16.
    """

    model: ir.Model
    changes: dict[str, int]
    half: bool


def import_model(path: Path) -> Imported:
    """Read a foreign file and bring its graph into normal form; its function stays the same.

    Raises:
        LampqError: unreadable, already quantized, with inputs that are no images, or with branches that depend on them.
    """
    model = load_model(path)
    require_float_file(model, path)
    require_opset(model, path)
    if model.functions:
        common_passes.InlinePass()(model)
    common_passes.RemoveInitializersFromInputsPass()(model)
    half = image_input(model, path).dtype == ir.DataType.FLOAT16
    before = len(model.graph)
    common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    halves = ToFloat32()
    halves(model)
    onnxscript.optimizer.fold_constants_ir(
        model, input_size_limit=FOLDED_BYTES, output_size_limit=FOLDED_BYTES, onnx_shape_inference=False
    )
    common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common_passes.IdentityEliminationPass()(model)
    common_passes.RemoveUnusedNodesPass()(model)
    common_passes.TopologicalSortPass()(model)
    require_no_control_flow(model, path)
    common_passes.NameFixPass()(model)
    changes = {"constants folded": before - len(model.graph), "tensors widened to float32": halves.count}
    return Imported(model, {what: count for what, count in changes.items() if count}, half)
