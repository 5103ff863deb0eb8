"""Loads a float ONNX file as a PyTorch model with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import torch

from lampq_onnx.artifacts import ModelIdentity
from lampq_onnx.artifacts.task import BOXES, LOGITS, TaskSpec
from lampq_onnx.config.inputs import ImageOptions
from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.models.output_choice import AskedOutput, require_known, shown_task
from lampq_onnx.frontend.models.own_weights import require_weights
from lampq_onnx.frontend.models.processor_check import compare_if_installed
from lampq_onnx.frontend.onnx_model.freeze import freeze
from lampq_onnx.frontend.onnx_model.model import OnnxModel, build
from lampq_onnx.frontend.onnx_model.naming import source_of
from lampq_onnx.frontend.onnx_model.parity import require_parity
from lampq_onnx.frontend.shared.loaded import LoadedModel, weights_hash
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.graph.metadata import read_task
from lampq_onnx.importer import import_model
from lampq_onnx.importer.class_names import read_class_names
from lampq_onnx.importer.preprocessing import file_preprocessing


def load_onnx(path: Path, images: ImageOptions, *, outputs: Sequence[AskedOutput] = ()) -> LoadedModel:
    """Build a module from a file, find its layers, and compare it with onnxruntime.

    Args:
        path: a float file of opset 7 to 23 with one image input.
        images: overrides of the preprocessing, which also fill in what the file does not specify.
        outputs: the outputs to keep, in this order. Without any, it keeps the only one, those of a detector (logits and
            pred_boxes), the one named logits, or those that `shown_task` chooses.

    Raises:
        UsageError: the file has no such output.
        LampqError: the file cannot be used (see `import_model` and `build`), or the module computes something else than
            onnxruntime.
    """
    imported = import_model(path)
    model = imported.model
    shown = _choose_outputs(model, path, outputs)
    pixels = imported.form.pixels
    preprocessing = file_preprocessing(model, path, images, pixels=pixels, compare=compare_if_installed)
    shape = (preprocessing.channels, *preprocessing.size)
    image = model.graph.inputs[0]
    image.shape = ir.Shape([image.shape[0] if image.shape else "batch", *shape])
    built = build(model.graph, find_layers(model.graph), shape)
    require_weights(built.model, str(path))
    _require_finite(built.model, path)
    _require_rows(built.model, path, shape)
    shrunk = freeze(model, built.folded)
    source = source_of(model, built)
    parity = require_parity(built.model, source.write(), path, imported, shape)
    changes = imported.changes | ({"nodes that follow from shapes": shrunk} if shrunk > 0 else {})
    identity = ModelIdentity(
        name=path.stem, weights_sha256=weights_hash(built.model), num_classes=_width(built.model, shape)
    )
    built.model.joined = True
    task = read_task(model, path) or shown
    if task.kind == "classification" and not task.classes:
        task = task.model_copy(update={"classes": read_class_names(path.parent, identity.num_classes)})
    source = replace(source, changes=changes, not_done=imported.not_done, parity=parity)
    return LoadedModel(built.model, preprocessing, identity, source, task)


def _choose_outputs(model: ir.Model, path: Path, asked: Sequence[AskedOutput]) -> TaskSpec:
    """Remove all outputs except the wanted ones; return the task that their names and shapes show.

    Raises:
        UsageError: the file has no output that was asked for.
        LampqError: no output holds numbers for each image.
    """
    by_name = {value.name or "": value for value in model.graph.outputs}
    if asked:
        task = TaskSpec(outputs=require_known(asked, list(by_name), str(path)))
    elif len(by_name) == 1 or (LOGITS in by_name and BOXES not in by_name):
        task = TaskSpec(outputs=(next(iter(by_name)) if len(by_name) == 1 else LOGITS,))
    elif {LOGITS, BOXES} <= set(by_name):
        task = TaskSpec(outputs=(LOGITS, BOXES))
    else:
        found = shown_task({name: _dimensions(value) for name, value in by_name.items() if _is_float(value)})
        if found is None:
            raise LampqError(
                f"{path} has {len(by_name)} outputs ({', '.join(by_name)}), and none of them holds float numbers",
                hint="export it with its class scores, embeddings or features as outputs",
            )
        task = found
    if task.outputs == (LOGITS, BOXES):
        task = TaskSpec(kind="detection", outputs=task.outputs)
    model.graph.outputs[:] = [by_name[name] for name in task.outputs]
    common_passes.RemoveUnusedNodesPass()(model)
    return task


def _is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point() and len(_dimensions(value)) > 1


def _dimensions(value: ir.Value) -> tuple[int, ...]:
    """The sizes of an output, with 0 for those that the graph leaves open."""
    return () if value.shape is None else tuple(d if isinstance(d, int) else 0 for d in value.shape)


def _require_finite(model: OnnxModel, path: Path) -> None:
    for key, value in model.state_dict().items():
        # Masks hold minus infinity on purpose; a layer's weights do not.
        if key.endswith((".weight", ".bias")) and not torch.isfinite(value).all():
            raise LampqError(f"{path} holds weights that are NaN or infinity ({key})")


@torch.no_grad()
def _require_rows(model: OnnxModel, path: Path, shape: tuple[int, int, int]) -> None:
    """Refuse outputs that are not float, or do not have one row per image."""
    found = model(torch.zeros(2, *shape))
    for name, value in zip(model.outputs, found if isinstance(found, tuple) else (found,), strict=True):
        if not value.is_floating_point() or value.ndim < 2 or len(value) != 2:
            kind = f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
            raise LampqError(
                f"the output {name} of {path} is {kind} for two images, not a row of float numbers for each",
                hint="export the model with its scores, embeddings or maps as output, one for each image",
            )


@torch.no_grad()
def _width(model: OnnxModel, shape: tuple[int, int, int]) -> int:
    """Last dimension of the first output: the number of classes of a classifier."""
    found = model(torch.zeros(1, *shape))
    first: torch.Tensor = found[0] if isinstance(found, tuple) else found
    return int(first.shape[-1])
