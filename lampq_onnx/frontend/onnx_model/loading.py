"""`load_onnx`: a float ONNX file as a model with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import torch

from lampq_onnx.artifacts import ModelIdentity
from lampq_onnx.converter.passes.patch_embed import patch_geometry
from lampq_onnx.converter.sites import annotate, find_sites
from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.export import BLOCK_TYPES, FIXED_TYPES
from lampq_onnx.frontend.loading import LoadedModel, weights_hash
from lampq_onnx.frontend.onnx_model.file_facts import file_preprocessing
from lampq_onnx.frontend.onnx_model.model import Built, OnnxModel, build
from lampq_onnx.frontend.onnx_model.source import MODULE_KEY, OnnxSource
from lampq_onnx.importer import Imported, import_model
from lampq_onnx.options import ImageOptions
from lampq_onnx.runtime import open_runner

PARITY_BOUND = 1e-4
"""Largest relative difference (L2) between the module's outputs and onnxruntime's that float rounding explains."""

HALF_BOUND = 2e-2
"""The same where the file computes in half precision and the module in float32."""

PARITY_IMAGES = 4

LOGITS = "logits"
"""Name by which the scores are told from other outputs."""


def load_onnx(path: Path, images: ImageOptions, *, outputs: Sequence[str] | None = None) -> LoadedModel:
    """Build a module from a file, find its layers, and compare it with onnxruntime.

    Args:
        path: a float file of opset 13 to 23 with one image input.
        images: overrides of the preprocessing, which also say what the file does not.
        outputs: names of the outputs to keep, in this order; None: the only one, or the one named logits.

    Raises:
        LampqError: the file cannot be used; see `import_model` and `build`. Also where the module computes something
            else than onnxruntime.
    """
    imported = import_model(path)
    _choose_outputs(imported.model, path, outputs)
    preprocessing = file_preprocessing(imported.model, path, images)
    height, width = preprocessing.size
    image = imported.model.graph.inputs[0]
    image.shape = ir.Shape([image.shape[0] if image.shape else "batch", preprocessing.channels, height, width])
    sites = find_sites(imported.model.graph)
    built = build(imported.model.graph, sites, (preprocessing.channels, height, width))
    source = _source(imported, built)
    for key, value in built.model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise LampqError(f"{path} holds NaN or infinity ({key})")
    require_parity(built.model, path, imported, (preprocessing.channels, height, width))
    with torch.no_grad():
        classes = built.model(torch.zeros(1, preprocessing.channels, height, width))
    identity = ModelIdentity(
        name=path.stem,
        weights_sha256=weights_hash(built.model),
        num_classes=int(classes.shape[-1]) if isinstance(classes, torch.Tensor) else int(classes[0].shape[-1]),
    )
    return LoadedModel(built.model, preprocessing, identity, source)


def _choose_outputs(model: ir.Model, path: Path, wanted: Sequence[str] | None) -> None:
    """Leave only the outputs that are wanted.

    Raises:
        LampqError: they are not there, or none is named logits among several.
    """
    by_name = {value.name or "": value for value in model.graph.outputs}
    if wanted is None:
        wanted = list(by_name) if len(by_name) == 1 else [LOGITS]
    missing = [name for name in wanted if name not in by_name]
    if missing:
        raise LampqError(
            f"{path} has {len(by_name)} outputs ({', '.join(by_name)}), none of them named {missing[0]}",
            hint="export it with its class scores as the only output, or name them logits",
        )
    model.graph.outputs[:] = [by_name[name] for name in wanted]
    common_passes.RemoveUnusedNodesPass()(model)


def _source(imported: Imported, built: Built) -> OnnxSource:
    """Names the units in the graph and says of the other layers why they are none."""
    modules: dict[str, torch.nn.Module] = {}
    for index, (node, module) in enumerate(built.layers.items()):
        key = str(index)
        node.metadata_props[MODULE_KEY] = key
        modules[key] = module
    skipped: dict[str, str] = {}
    units = []
    for site in find_sites(imported.model.graph):
        if site.node not in built.layers:
            skipped[site.name] = "it does not depend on the image, or its bias or padding is of an unusual form"
        elif site.type not in BLOCK_TYPES + FIXED_TYPES:
            skipped[site.name] = f"type {site.type} is not quantized"
        elif site.node.op_type == "Conv" and patch_geometry(site.node) is None:
            skipped[site.name] = "its patches overlap, are padded, or do not cover the image"
        else:
            annotate(site, site.name)
            units.append(site)
    return OnnxSource(imported.model, tuple(units), modules, skipped)


def require_parity(model: OnnxModel, path: Path, imported: Imported, shape: tuple[int, int, int]) -> float:
    """Compare the module with onnxruntime on random images.

    Returns:
        The largest relative difference of an output.

    Raises:
        LampqError: it is not explained by rounding.
    """
    runner = open_runner(path, threads=torch.get_num_threads())
    images = np.random.default_rng(0).normal(size=(PARITY_IMAGES, *shape)).astype(np.float32)
    kind = np.float16 if imported.half else np.float32
    names = list(model.outputs)
    wanted = runner.session.run(names, {runner.input: images.astype(kind)})
    with torch.no_grad():
        found = model(torch.from_numpy(images))
    found = found if isinstance(found, tuple) else (found,)
    worst = 0.0
    bound = HALF_BOUND if imported.half else PARITY_BOUND
    for name, ours, theirs in zip(names, found, wanted, strict=True):
        size = max(float(np.linalg.norm(theirs.astype(np.float64))), 1e-30)
        change = float(np.linalg.norm(ours.double().numpy() - theirs.astype(np.float64))) / size
        if not change <= bound:
            raise LampqError(
                f"the output {name} of {path} in PyTorch differs from onnxruntime's by {change:.1e} (relative; bound "
                f"{bound:.0e}): an operator is computed differently",
                hint="report the file's operators, or quantize the PyTorch model itself",
            )
        worst = max(worst, change)
    return worst
