"""Apply a plan that was made on one file of a model to another file of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from lampq_onnx.artifacts import BitPlan
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.keys import SKETCH_KEY
from lampq_onnx.graph.layers import GraphLayer, find_layers
from lampq_onnx.quantization.sketch import Sketch, from_text, same_weights, weight_sketch


@dataclass(frozen=True)
class FittedPlan:
    """A plan with the layer names of a file.

    Attributes:
        plan: the plan.
        renamed: layer of the plan -> layer of the file; empty if the names were the same.
    """

    plan: BitPlan
    renamed: Mapping[str, str]


def names_layers(model: ir.Model, plan: BitPlan) -> bool:
    """Whether the model has a layer for every name in the plan."""
    return set(plan.layers) <= {layer.name for layer in find_layers(model.graph)}


def fit_plan(model: ir.Model, plan: BitPlan) -> FittedPlan:
    """Rename a plan to the layer names of ``model``; layers with other names are found by their weights.

    A plan that was matched by weights keeps no input ranges: equalization may have scaled the inputs that it was made
    on.

    Raises:
        LampqError: layers of the plan have no counterpart with their weights; the message names them.
    """
    graph_layers = {graph_layer.name: graph_layer for graph_layer in find_layers(model.graph)}
    if all(name in graph_layers for name in plan.layers) or not all(layer.sketch for layer in plan.layers.values()):
        # Match by name; for a plan without sketches there is no other way.
        wrong = [
            name
            for name, layer in plan.layers.items()
            if name in graph_layers and layer.sketch and not same_weights(layer.sketch, _sketch(graph_layers[name]))
        ]
        if wrong:
            raise _differs(plan, wrong, f"layer(s) have other weights in the model: {', '.join(wrong[:5])}")
        return FittedPlan(plan, {})
    left = {name: _sketch(graph_layer) for name, graph_layer in graph_layers.items()}
    renamed: dict[str, str] = {}
    for name, layer in plan.layers.items():
        found = next((own for own, sketch in left.items() if same_weights(layer.sketch or (), sketch)), None)
        if found is not None:
            renamed[name] = found
            del left[found]
    missing = [name for name in plan.layers if name not in renamed]
    if missing:
        raise _differs(
            plan,
            missing,
            f"layer(s) have no counterpart with their weights: {', '.join(missing[:5])}; layers of the model "
            f"without a counterpart in the plan: {', '.join(list(left)[:5]) or 'none'}",
        )
    unmeasured = {"activation_range": None, "output_range": None}
    layers = {renamed[name]: layer.model_copy(update=unmeasured) for name, layer in plan.layers.items()}
    return FittedPlan(plan.model_copy(update={"layers": layers}), renamed)


def other_layers(model: ir.Model, plan: BitPlan) -> list[str]:
    """List the layers of the plan whose weights the model does not have; layers without a sketch are skipped.

    Args:
        model: a float graph.
        plan: with the layer names of any file of the model.
    """
    sketches = [_sketch(graph_layer) for graph_layer in find_layers(model.graph)]
    return [
        name
        for name, layer in plan.layers.items()
        if layer.sketch and not any(same_weights(layer.sketch, own) for own in sketches)
    ]


def _sketch(layer: GraphLayer) -> Sketch:
    text = layer.node.metadata_props.get(SKETCH_KEY)
    return weight_sketch(layer.matrix()) if text is None else from_text(text)


def _differs(plan: BitPlan, layers: list[str], what: str) -> LampqError:
    of = f" of {plan.model}" if plan.model else ""
    return LampqError(
        f"the plan{of} does not fit this model: {len(layers)} of {len(plan.layers)} {what}",
        hint="use a plan made for the same weights; to match layers by name only, remove the sketch fields",
    )
