"""Descriptions that viewers of ONNX files, such as Netron, show beside a graph and its layers."""

from __future__ import annotations

import onnx_ir as ir

from lampq_onnx.artifacts import BitPlan
from lampq_onnx.artifacts.plan import FLOAT_BITS
from lampq_onnx.graph.keys import MODEL_KEY, TARGET_KEY, TYPE_KEY, UNIT_KEY


def describe_layers(model: ir.Model, plan: BitPlan) -> None:
    """Write into each layer's product which bits it has, and into the model what it is and its name.

    Args:
        model: a quantized model, changed in place.
        plan: its plan.
    """
    average = plan.weight_average()
    bits = "" if average is None else f", {average:.2f} weight bits on average"
    target = model.metadata_props.get(TARGET_KEY)
    made_for = f", made for {target}" if target else ""
    count = sum(layer.quantized for layer in plan.layers.values())
    model.doc_string = f"{count} quantized layers{bits}{made_for}. The description of a layer's product has its bits."
    model.graph.name = model.metadata_props.get(MODEL_KEY, model.graph.name)
    for node in model.graph:
        layer = plan.layers.get(node.metadata_props.get(UNIT_KEY, ""))
        if layer is None or TYPE_KEY not in node.metadata_props or not layer.quantized:
            continue
        inputs = "float" if layer.activation_bits == FLOAT_BITS else f"{layer.activation_bits} bits"
        node.doc_string = f"{node.metadata_props[UNIT_KEY]}: weights {layer.bits_text} bits, inputs {inputs}"
