"""What the passes leave undone in a converted file, and why."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lampq_onnx.artifacts.not_done import NotDone
from lampq_onnx.artifacts.plan import FLOAT_BITS
from lampq_onnx.converter.inspect import inspect_model, scaling_of
from lampq_onnx.converter.order import graph_steps
from lampq_onnx.converter.passes import BiasInGemm, PatchEmbedToMatMul, ProductPerPart
from lampq_onnx.graph.keys import TARGET_KEY, UNIT_KEY
from lampq_onnx.graph.parameters import LayerFacts
from lampq_onnx.graph.refusals import grouped
from lampq_onnx.graph.steps import Step, run_steps
from lampq_onnx.targets import TARGETS

_SPREADING = ("Cast", "Gather")
"""What gives each weight of a block the block's scale, when the file is loaded; the last axis stays."""


def unapplied(model: ir.Model) -> tuple[NotDone, ...]:
    """Run the passes that read no weights over a copy of a converted graph, and collect their refusals.

    A pass that changed the file finds nothing left to do, and one that refused refuses again. What only the form of the
    float graph kept from a pass cannot be seen here; the conversion itself reports that too.

    Args:
        model: graph of a file; it is not changed.

    Returns:
        The refusals; empty for files that this package did not convert, or for an unknown target.
    """
    target = TARGETS.get(model.metadata_props.get(TARGET_KEY, ""))
    facts = layer_facts(model)
    if target is None or not facts:
        return ()
    in_float = {name: layer for name, layer in facts.items() if layer.input_scale is None}
    order = "in the order of a conversion"
    steps = [
        *graph_steps(),
        Step(PatchEmbedToMatMul(in_float, floats=target.block is not None), order),
        Step(ProductPerPart(facts, target), order),
        Step(BiasInGemm(facts, target), order),
    ]
    done = run_steps(model.clone(), steps)
    return grouped(refusal for step in done for refusal in step.refusals)


def layer_facts(model: ir.Model) -> dict[str, LayerFacts]:
    """Read the sizes and inputs of the layers that this package quantized from the graph."""
    products: dict[str, list[ir.Node]] = {}
    for node in model.graph:
        if UNIT_KEY in node.metadata_props and node.op_type in ("MatMul", "Gemm", "Conv"):
            products.setdefault(node.metadata_props[UNIT_KEY], []).append(node)
    found = {}
    for layer in inspect_model(model):
        nodes = products.get(layer.name)
        if nodes is None:
            continue
        scale = _input_scale(nodes[0])
        outputs = sum(_output_channels(node) for node in nodes)
        found[layer.name] = LayerFacts(
            outputs=outputs,
            inputs=layer.parameters // max(outputs, 1),
            input_bits=FLOAT_BITS if scale is None else layer.activation_bits,
            input_scale=scale,
        )
    return found


def _input_scale(node: ir.Node) -> float | None:
    """Return the scale of the DequantizeLinear that a layer reads; None: the input is in float."""
    producer = node.inputs[0].producer() if node.inputs[0] is not None else None
    if producer is None or producer.op_type != "DequantizeLinear":
        return None
    scale = producer.inputs[1]
    if scale is None or scale.const_value is None or scale.const_value.size != 1:
        return None
    return float(np.asarray(scale.const_value.numpy()).reshape(-1)[0])


def _output_channels(node: ir.Node) -> int:
    """Count the output channels by the scales of the weight: one per output channel, or per block of one."""
    scaling = scaling_of(node)
    scale = scaling.inputs[1] if scaling is not None and len(scaling.inputs) > 1 else None
    while scale is not None and (producer := scale.producer()) is not None and producer.op_type in _SPREADING:
        scale = producer.inputs[0]
    return 0 if scale is None or scale.const_value is None else _channels_of(scale.const_value)


def _channels_of(scale: ir.TensorProtocol) -> int:
    """Count the output channels that scales belong to: the last axis, or none of it."""
    sizes = scale.shape.numpy()
    return sizes[-1] if sizes else 1
