"""Exports a PyTorch model to a float ONNX graph and marks its layers in the graph."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import onnx_ir as ir
import torch

from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.models.attention import FourDimensionalAttention
from lampq_onnx.frontend.models.called_units import called, differentiable
from lampq_onnx.frontend.models.task_model import outputs_apart
from lampq_onnx.frontend.models.trial import noise
from lampq_onnx.frontend.shared.loaded import LoadedModel
from lampq_onnx.frontend.shared.onnx_source import OnnxSource
from lampq_onnx.frontend.shared.units import Exported, Unit
from lampq_onnx.graph.keys import PREFIX
from lampq_onnx.graph.layers import LinearSite, annotate, find_sites, scope_path
from lampq_onnx.graph.metadata import write_metadata
from lampq_onnx.graph.other_weights import other_weights
from lampq_onnx.graph.patches import OVERLAPPING, overlaps

OPSET = 20
"""Opset of exported graphs, with Gelu as one operator; INT4 and INT2 storage raise it if they are used."""

FIXED_TYPES = ("patch_embed", "head", "linear")
"""Types of layers outside the budget: not in the blocks, or in them but neither qkv, proj, fc1 nor fc2."""


def export_model(loaded: LoadedModel) -> Exported:
    """Export with a symbolic batch dimension and find the layers by the structure of the graph.

    Raises:
        LampqError: the exporter fails, or no layers are found.
    """
    if loaded.source is not None:
        return _written(loaded, loaded.source)
    preprocessing = loaded.preprocessing
    device = next(loaded.module.parameters()).device
    example = torch.zeros(2, preprocessing.channels, *preprocessing.size, device=device)
    try:
        with _quiet(), outputs_apart(loaded.module), FourDimensionalAttention():
            program = torch.onnx.export(
                loaded.module,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["input"],
                output_names=list(loaded.task.outputs),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except Exception as error:  # torch.export's exceptions share no base class
        raise LampqError(
            f"{loaded.identity.name} cannot be exported to ONNX: {_root(error)[:300]}",
            hint="torch.export must be able to trace its forward: no branches that depend on the images, and only "
            "operators that ONNX has. Or export it yourself, and give the .onnx file",
        ) from error
    if program is None:
        raise LampqError(f"{loaded.identity.name}: torch's exporter returned nothing")
    model = program.model
    batch = model.graph.inputs[0].shape
    if batch is not None and isinstance(batch[0], int):
        raise LampqError(
            f"{loaded.identity.name} cannot be exported for any number of images: its code fixes the number",
            hint="export it yourself with a symbolic batch, and give the .onnx file",
        )
    units, skipped = _units(model, loaded.module)
    images = noise(preprocessing, loaded.module)
    units = called(units, skipped, loaded.module, images)
    _require_units(units, loaded)
    units = differentiable(units, skipped, loaded.module, loaded.identity.name, images)
    _require_units(units, loaded)
    _strip(model)
    model.producer_name = "lampq-onnx"
    write_metadata(model, loaded.identity.name, preprocessing, loaded.identity.num_classes, loaded.task)
    return Exported(model, units, skipped)


def _written(loaded: LoadedModel, source: OnnxSource) -> Exported:
    """The graph that the model was loaded from, with the module's current weights."""
    model = source.write()
    units = []
    for site in source.sites:
        module = source.module_of(site)
        assert isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
        units.append(Unit(site.name, site.type, module, fixed=site.type in FIXED_TYPES))
    _require_units(units, loaded)
    _strip(model)
    model.producer_name = "lampq-onnx"
    write_metadata(model, loaded.identity.name, loaded.preprocessing, loaded.identity.num_classes, loaded.task)
    return Exported(model, tuple(units), dict(source.skipped))


def _require_units(units: Sequence[Unit], loaded: LoadedModel) -> None:
    if all(unit.type != "qkv" for unit in units):
        raise LampqError(
            f"no attention layers were recognized in {loaded.identity.name}",
            hint="only Vision Transformers with standard attention are supported",
        )


def _units(model: ir.Model, module: torch.nn.Module) -> tuple[tuple[Unit, ...], dict[str, str]]:
    modules = dict(module.named_modules())
    units: list[Unit] = []
    skipped: dict[str, str] = {}
    sites = find_sites(model.graph)
    for site in sites:
        name = _module_name(site, modules)
        if name is None:
            skipped[site.name] = "no single Linear or Conv2d module holds its weight"
        elif overlaps(site):
            skipped[name] = OVERLAPPING
        elif any(unit.name == name for unit in units):
            skipped[f"{name} (again)"] = "the module is used twice"
        else:
            part = modules[name]
            assert isinstance(part, torch.nn.Linear | torch.nn.Conv2d)
            annotate(site, name)
            units.append(Unit(name, site.type, part, fixed=site.type in FIXED_TYPES))
    return tuple(units), skipped | other_weights(model.graph, sites)


def _module_name(site: LinearSite, modules: dict[str, torch.nn.Module]) -> str | None:
    """The module that the exporter recorded for this node, confirmed by its weight."""
    matrix = site.matrix()
    for scope in reversed((*scope_path(site.node), site.name)):
        module = modules.get(scope)
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            weight = module.weight.detach().float().cpu().flatten(1).numpy()
            if weight.shape == matrix.shape and np.array_equal(weight, matrix):
                return scope
    return None


def _root(error: BaseException) -> str:
    """First line of the root cause of an error; the exporter wraps it in advice about itself."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _strip(model: ir.Model) -> None:
    """Remove the exporter's notes (stack traces of this machine); keep ours."""
    for node in model.graph.all_nodes():
        node.doc_string = None
        for key in [k for k in node.metadata_props if not k.startswith(PREFIX)]:
            del node.metadata_props[key]
    for value in model.graph.initializers.values():
        value.metadata_props.clear()
    for node in model.graph:
        for output in node.outputs:
            output.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()
    model.doc_string = None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's reports on its own internals; its failures are still raised."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
