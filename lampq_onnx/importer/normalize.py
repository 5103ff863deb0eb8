"""Brings a foreign ONNX file into normal form, and records what was changed. This is the entry of the importer."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import onnxscript.optimizer
import onnxscript.version_converter

from lampq_onnx.artifacts.not_done import NotDone
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.model_file import load_model
from lampq_onnx.graph.quantized_operators import require_float_file
from lampq_onnx.graph.refusals import grouped
from lampq_onnx.graph.steps import Step, run_steps
from lampq_onnx.importer.dynamic_batch import DynamicBatch
from lampq_onnx.importer.float32 import ToFloat32
from lampq_onnx.importer.fuse import FuseGelu, FuseLayerNorm
from lampq_onnx.importer.image_input import InputForm, to_images
from lampq_onnx.importer.low_rank import MergeLowRank
from lampq_onnx.importer.mask_input import remove_mask_input
from lampq_onnx.importer.merge_qkv import MergeQKV
from lampq_onnx.importer.old_opsets import from_old_opset
from lampq_onnx.importer.plain_layers import PlainLayers
from lampq_onnx.importer.refusals import (
    require_no_control_flow,
    require_opset,
)

OPSET = 20
"""Has LayerNormalization and Gelu; older graphs are converted to it."""

FOLDED_BYTES = 2**30
"""Largest constant that is folded; a larger one would make the file bigger instead of simpler."""


@dataclass(frozen=True)
class Imported:
    """A float32 graph without functions, branches and foldable constants, with one image input.

    Attributes:
        model: the graph.
        changes: change -> number of times, for changes that were made.
        not_done: changes that were not made although a place for them was found, with the reason and the places.
        half: whether the file computes anything in half precision.
        form: the images that the file takes; those of the graph are float, with channels first.
        fixed_batch: number of images that the file takes at once; None if any number.
    """

    model: ir.Model
    changes: dict[str, int]
    not_done: tuple[NotDone, ...]
    half: bool
    form: InputForm
    fixed_batch: int | None


def import_model(path: Path) -> Imported:
    """Read a foreign file and bring its graph into normal form; its function stays the same.

    Raises:
        LampqError: the file is unreadable or already quantized, its inputs are not images, or it branches at run time.
    """
    model = load_model(path)
    require_float_file(model, path)
    require_opset(model, path)
    model, converted = from_old_opset(model, path)
    if model.functions:
        common_passes.InlinePass()(model)
    common_passes.RemoveInitializersFromInputsPass()(model)
    masks = remove_mask_input(model)
    form = to_images(model, path)
    common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    before = len(model.graph)
    halves = ToFloat32()
    halves(model)
    onnxscript.optimizer.fold_constants_ir(
        model,
        input_size_limit=FOLDED_BYTES,
        output_size_limit=FOLDED_BYTES,
        onnx_shape_inference=False,
        # Not folded by default; in exported models it creates the shapes that class tokens are expanded to.
        should_fold=lambda node: True if node.op_type == "ConstantOfShape" else None,
    )
    common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common_passes.IdentityEliminationPass()(model)
    common_passes.RemoveUnusedNodesPass()(model)
    common_passes.TopologicalSortPass()(model)
    require_no_control_flow(model, path)
    changes = {
        "masks of padding computed inside": masks,
        "constants folded": before - len(model.graph),
        "tensors widened to float32": halves.count,
        **form.changes,
    }
    common_passes.ShapeInferencePass()(model)
    batch = DynamicBatch()
    batch(model)
    changes["nodes freed from the batch size"] = batch.count
    changes["opset raised"] = max(_raise_opset(model, path), converted)
    # onnx's converter adds new constants.
    common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common_passes.ShapeInferencePass()(model)
    steps = {
        "layers in plain form": Step(PlainLayers(), "first: the others know a layer as a MatMul, Gemm or Conv"),
        "weights of LoRA merged": Step(MergeLowRank(), "before MergeQKV, which looks for three layers alone"),
        "layer normalizations joined": Step(
            FuseLayerNorm(), "before MergeQKV, which looks for three layers with the same input"
        ),
        "GELU joined": Step(FuseGelu(half=halves.count > 0), "before MergeQKV, which needs the roles of layers"),
        "qkv joined": Step(MergeQKV(), "last: the operators around a layer show its role"),
    }
    ran = run_steps(model, list(steps.values()))
    changes |= {what: step.count for what, step in zip(steps, ran, strict=True)}
    common_passes.RemoveUnusedNodesPass()(model)
    common_passes.NameFixPass()(model)
    done = {what: count for what, count in changes.items() if count}
    refusals = [refusal for step in (batch, *ran) for refusal in step.refusals]
    return Imported(model, done, grouped(refusals), halves.count > 0, form, batch.fixed)


def _raise_opset(model: ir.Model, path: Path) -> int:
    """Convert the graph to an opset that has LayerNormalization and Gelu; returns 1 if it had to change.

    Raises:
        LampqError: an operator cannot be converted.
    """
    if model.opset_imports.get("", 0) >= OPSET:
        return 0
    log = logging.getLogger("onnxscript")
    level = log.level
    log.setLevel(logging.ERROR)  # its warnings concern its internals; failures are raised below
    try:
        onnxscript.version_converter.convert_version(model, OPSET, fallback=True)
    except Exception as error:  # adapters raise exceptions of many types
        raise LampqError(
            f"{path} cannot be brought to opset {OPSET}: {str(error).strip()[:300]}",
            hint=f"export it with opset {OPSET} or later",
        ) from error
    finally:
        log.setLevel(level)
    if model.opset_imports.get("", 0) < OPSET:
        raise LampqError(
            f"{path} cannot be brought to opset {OPSET}: an operator of it has no adapter",
            hint=f"export it with opset {OPSET} or later",
        )
    return 1
