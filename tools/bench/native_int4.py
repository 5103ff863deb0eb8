"""Write the mixed 4/8-bit graph that other tools write."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from lampq_onnx.artifacts import BitPlan
from lampq_onnx.converter import convert_model
from lampq_onnx.converter.convert import planned_layers
from lampq_onnx.graph.model_file import load_model
from lampq_onnx.quantization import Grid, WeightGrid
from lampq_onnx.targets import Target


def write_native_int4(source: Path, plan: BitPlan, target: Target, path: Path) -> None:
    """Write the file of a 4-bit plan with INT4 weights right behind DequantizeLinear: no Cast, and no graph pass.

    Weights are rounded to the two's complement levels that INT4 holds, scaled by their largest magnitude.
    """
    model = load_model(source)
    weights = {}
    for name, layer in planned_layers(model, plan).items():
        matrix = layer.matrix()
        scale = np.maximum(np.abs(matrix).max(axis=1) / 7, 1e-12).astype(np.float32)
        weights[name] = WeightGrid(scale=scale, bits=4, grid=Grid.MID_TREAD, error=0.0).quantize(matrix)
    plain = dataclasses.replace(target, gemm_bias=False, part_products=False)
    conversion = convert_model(model, plan, packing="native", target=plain, weights=weights, graph_passes=[])
    proto = ir.to_proto(conversion.model)
    casts = {node.output[0]: node.input[0] for node in proto.graph.node if node.op_type == "Cast"}
    for node in proto.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in casts:
            node.input[0] = casts[node.input[0]]
    read = {name for node in proto.graph.node for name in node.input}
    kept = [node for node in proto.graph.node if node.op_type != "Cast" or node.output[0] in read]
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    onnx.checker.check_model(proto)
    onnx.save(proto, path)
