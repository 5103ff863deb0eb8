"""Exports a PyTorch model to a float ONNX graph and marks its layers in the graph."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import onnx_ir as ir
import torch

from lampq_onnx.errors import LampqError, first_line, is_out_of_memory
from lampq_onnx.frontend.models.attention import FourDimensionalAttention
from lampq_onnx.frontend.models.called_layers import called, differentiable
from lampq_onnx.frontend.models.checks import TRANSLATIONS
from lampq_onnx.frontend.models.lengths import symbolic_lengths
from lampq_onnx.frontend.models.trial import noise
from lampq_onnx.frontend.shared.compiler import without_triton
from lampq_onnx.frontend.shared.loaded import LoadedModel
from lampq_onnx.frontend.shared.model_layers import Exported, ModelLayer
from lampq_onnx.frontend.shared.onnx_source import OnnxSource
from lampq_onnx.frontend.shared.outputs import outputs_apart
from lampq_onnx.graph.keys import PREFIX
from lampq_onnx.graph.layers import GraphLayer, annotate, find_layers, scope_path
from lampq_onnx.graph.metadata import write_metadata
from lampq_onnx.graph.other_weights import other_weights
from lampq_onnx.graph.patches import OVERLAPPING, overlaps
from lampq_onnx.graph.rewriting import forget_graphs

OPSET = 20
"""Opset of exported graphs, with Gelu as one operator; INT4 and INT2 storage raise it if they are used."""

FIXED_TYPES = ("patch_embed", "head", "linear")
"""Types of layers outside the budget: not in the blocks, or in them but neither qkv, proj, fc1 nor fc2."""

LEAST_SHARE = 0.5
"""Share of the weights that layers in the budget must hold in a model without attention."""


def export_model(loaded: LoadedModel) -> Exported:
    """Export with a symbolic batch dimension and find the layers by the structure of the graph.

    Raises:
        LampqError: the exporter fails, or no layers are found.
    """
    try:
        return _exported(loaded) if loaded.source is None else _written(loaded, loaded.source)
    finally:
        forget_graphs()


def _exported(loaded: LoadedModel) -> Exported:
    preprocessing = loaded.preprocessing
    device = next(loaded.module.parameters()).device
    example = torch.zeros(2, preprocessing.channels, *preprocessing.size, device=device)
    try:
        with (
            _quiet(),
            without_triton(),
            outputs_apart(loaded.module),
            symbolic_lengths(loaded.module),
            FourDimensionalAttention(),
        ):
            program = torch.onnx.export(
                loaded.module,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["input"],
                output_names=list(loaded.task.outputs),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                custom_translation_table=TRANSLATIONS,
                verbose=False,
            )
    except Exception as error:  # torch.export's exceptions share no base class
        if is_out_of_memory(error):
            raise
        raise LampqError(
            f"{loaded.identity.name} cannot be exported to ONNX: {_root(error)}",
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
    layers, skipped = _layers(model, loaded.module)
    images = noise(preprocessing, loaded.module)
    layers = called(layers, skipped, loaded.module, images)
    _require_layers(layers, skipped, loaded)
    layers = differentiable(layers, skipped, loaded.module, loaded.identity.name, images)
    _require_layers(layers, skipped, loaded)
    norms = _norms(model, loaded.module)
    _sign(model)
    write_metadata(model, loaded.identity.name, preprocessing, loaded.identity.num_classes, loaded.task)
    return Exported(model, layers, skipped, norms)


def _written(loaded: LoadedModel, source: OnnxSource) -> Exported:
    """The graph that the model was loaded from, with the module's current weights."""
    model = source.write()
    layers = []
    for layer in source.layers:
        module = source.module_of(layer)
        assert isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
        layers.append(ModelLayer(layer.name, layer.type, module, fixed=layer.type in FIXED_TYPES))
    _require_layers(layers, source.skipped, loaded)
    _sign(model)
    write_metadata(model, loaded.identity.name, loaded.preprocessing, loaded.identity.num_classes, loaded.task)
    return Exported(model, tuple(layers), dict(source.skipped))


def _require_layers(layers: Sequence[ModelLayer], skipped: Mapping[str, str], loaded: LoadedModel) -> None:
    """Require attention, or layers in the budget that hold most of the weights.

    Raises:
        LampqError: quantization would gain little; the message says what holds the other weights.
    """
    inner = [layer for layer in layers if not layer.fixed]
    if any(layer.type == "qkv" for layer in inner):
        return
    everything = sum(value.numel() for value in loaded.module.parameters())
    share = sum(layer.parameters for layer in inner) / max(everything, 1)
    if share >= LEAST_SHARE:
        return
    reasons = Counter(skipped.values()).most_common(2)
    others = "; ".join(f"{count} layer(s) stay in float: {reason}" for reason, count in reasons)
    raise LampqError(
        f"no attention layers were recognized in {loaded.identity.name}, and only {100 * share:.0f} % of its weights "
        f"are in other layers that can be quantized{f' ({others})' if others else ''}",
        hint="supported are Vision Transformers, and other models whose weights are mostly in linear layers and "
        "pointwise convolutions",
    )


def _layers(model: ir.Model, module: torch.nn.Module) -> tuple[tuple[ModelLayer, ...], dict[str, str]]:
    modules = dict(module.named_modules())
    model_layers: list[ModelLayer] = []
    skipped: dict[str, str] = {}
    graph_layers = find_layers(model.graph)
    for graph_layer in graph_layers:
        name = _module_name(graph_layer, modules)
        if name is None:
            skipped[graph_layer.name] = "no single Linear or Conv2d module holds its weight"
        elif overlaps(graph_layer):
            skipped[name] = OVERLAPPING
        elif any(model_layer.name == name for model_layer in model_layers):
            skipped[f"{name} (again)"] = "the module is used twice"
        else:
            part = modules[name]
            assert isinstance(part, torch.nn.Linear | torch.nn.Conv2d)
            annotate(graph_layer, name)
            model_layers.append(ModelLayer(name, graph_layer.type, part, fixed=graph_layer.type in FIXED_TYPES))
    return tuple(model_layers), skipped | other_weights(model.graph, graph_layers)


def _module_name(layer: GraphLayer, modules: dict[str, torch.nn.Module]) -> str | None:
    """The module that the exporter recorded for this node, confirmed by its weight."""
    matrix = layer.matrix()
    for scope in reversed((*scope_path(layer.node), layer.name)):
        module = modules.get(scope)
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            weight = module.weight.detach().float().cpu().flatten(1).numpy()
            if weight.shape == matrix.shape and np.array_equal(weight, matrix):
                return scope
    return None


def _norms(model: ir.Model, module: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Node -> LayerNorm that it computes, confirmed by its weight and bias; names that two nodes have are left out."""
    modules = dict(module.named_modules())
    found: dict[str, torch.nn.Module] = {}
    names = Counter(node.name for node in model.graph)
    for node in model.graph:
        if node.op_type != "LayerNormalization" or not node.name or names[node.name] > 1:
            continue
        for scope in reversed(scope_path(node)):
            norm = modules.get(scope)
            if isinstance(norm, torch.nn.LayerNorm) and _holds(node, 1, norm.weight) and _holds(node, 2, norm.bias):
                found[node.name] = norm
                break
    return found


def _holds(node: ir.Node, position: int, parameter: torch.Tensor | None) -> bool:
    value = node.inputs[position] if position < len(node.inputs) else None
    if value is None or value.const_value is None or parameter is None:
        return False
    return np.array_equal(np.asarray(value.const_value.numpy()), parameter.detach().float().cpu().numpy())


def _root(error: BaseException) -> str:
    """First line of the root cause of an error; the exporter wraps it in advice about itself."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def _sign(model: ir.Model) -> None:
    """Name this package as the producer; remove the exporter's version and notes (stack traces of this machine)."""
    model.producer_name, model.producer_version = "lampq-onnx", None
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
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.utils", "onnxscript", "onnx_ir")]
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
