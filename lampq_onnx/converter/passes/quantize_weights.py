"""Replace float weights by packed integers and the operators that unpack them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from lampq_onnx.artifacts.plan import FLOAT_BITS
from lampq_onnx.converter.packing.bit_layout import paired_fields, shares_bytes
from lampq_onnx.converter.packing.pools import Pool, PooledRows, make_pools
from lampq_onnx.converter.packing.storage import (
    Packed,
    Stored,
    may_share,
    needs_unsigned,
    pack_rows,
    pack_weight,
    pooled,
    scale_weight,
)
from lampq_onnx.converter.passes.base import LayerPass
from lampq_onnx.graph.edits import add_constant
from lampq_onnx.graph.keys import (
    ACTIVATION_BITS_KEY,
    CHANNEL_BITS_KEY,
    CHANNEL_ROWS_KEY,
    SCHEME_KEY,
    STORAGE_KEY,
    UNIT_KEY,
    WEIGHT_BITS_KEY,
)
from lampq_onnx.graph.parameters import LayerParameters, Parameters
from lampq_onnx.quantization import QuantizedWeight
from lampq_onnx.targets import Packing, Target

MIXED_SCHEME = "mixed"
"""Scheme of weights whose rows have different grids, by their width."""


class QuantizeWeights(LayerPass[LayerParameters]):
    """Replace the weight of every layer by its stored integers.

    1. Weights whose rows differ in width are packed together in pools, see `pools`, unless they are int8 anyway.
    2. A weight that several layers share with equal numbers is stored and unpacked once. Each layer scales it: by
       DequantizeLinear for the integer kernel, by Cast and Mul for the float kernel (see `storage`).
    3. A Conv reads its weight through a Transpose and a Reshape.
    4. The last of the nodes that scale a weight carries the layer's name, widths, scheme and storage in its metadata.

    Attributes:
        stored: layer name -> how its weight is stored in the file; filled by the call.

    Args:
        parameters: layer -> its quantization parameters.
        packing: storage of the layers that ``storages`` does not name.
        target: where the file is meant to run.
        storages: layer name -> storage.
    """

    def __init__(
        self, parameters: Parameters, packing: Packing, target: Target, storages: Mapping[str, Packing] | None = None
    ) -> None:
        super().__init__(parameters)
        self.packing = packing
        self._storages = storages or {}
        self.target = target
        self.stored: dict[str, Stored] = {}

    def apply(self, model: ir.Model) -> int:
        """Run the pass as the class describes."""
        graph = model.graph
        tables: dict[str, ir.Value] = {}
        layers = self.layers(model)
        pools = self._pools(graph, [name for name, _ in layers])
        weights = [self.parameters[name].weight for name in self.parameters if not self._in_pool(name)]
        weights += [part for pool in pools for part in pool.parts]
        shares = may_share(self.target, graph.opset_imports.get("", 0))
        paired = paired_fields(w for w in weights if not (shares and shares_bytes(w)))
        rows: dict[bytes, PooledRows] = {}
        for pool in pools:
            unpacking, found = pool.unpack(tables, paired, shares=shares)
            _register(graph, layers[0][1], unpacking.nodes, unpacking.new)
            rows |= {_fingerprint(self.parameters[name].weight): own for name, own in found.items()}
        first: dict[tuple[bytes, bool, Packing], Packed] = {}
        for name, node in layers:
            numbers = self.parameters[name]
            kernel = self.target.kernel(numbers.weight.bits, _input_bits(numbers))
            integer = kernel is not None and kernel.kind != "float"
            unsigned = needs_unsigned(numbers.weight, self.target, integer_kernel=integer)
            packing = self._storages.get(name, self.packing)
            key = (_fingerprint(numbers.weight), unsigned, packing)
            if key not in first:
                own = rows.get(key[0]) if self._in_pool(name) else None
                packed = first[key] = (
                    pack_rows(numbers.weight, f"{name}.weight", own, tables, unsigned=unsigned)
                    if own is not None
                    else pack_weight(
                        numbers.weight,
                        f"{name}.weight",
                        packing,
                        tables,
                        unsigned=unsigned,
                        paired=paired,
                        folds=self.target.folds,
                        shares=shares,
                        zero_points=self.target.zero_points,
                    )
                )
                _register(graph, node, packed.nodes, packed.initializers)
            kernel_shape = _kernel_shape(node)
            stored = scale_weight(first[key], f"{name}.weight", integer_kernel=integer)
            graph.insert_before(node, list(stored.nodes))
            node.replace_input_with(1, stored.value)
            if kernel_shape is not None:
                _reshape_weight(graph, name, node, kernel_shape)
            stored.nodes[-1].metadata_props.update(self._labels(name, stored, rows.get(key[0])))
            self.stored[name] = stored
        return len(self.stored)

    def _in_pool(self, name: str) -> bool:
        return pooled(self.parameters[name].weight, self._storages.get(name, self.packing))

    def _pools(self, graph: ir.Graph, names: Sequence[str]) -> list[Pool]:
        """Distribute the weights whose rows differ in width to pools, equal ones once."""
        different: dict[bytes, str] = {}
        for name in names:
            if self._in_pool(name):
                different.setdefault(_fingerprint(self.parameters[name].weight), name)
        weights = {name: self.parameters[name].weight for name in different.values()}
        values = (value.name for node in graph for value in node.outputs)
        return make_pools(weights, {name for name in (*graph.initializers, *values) if name})

    def _labels(self, name: str, stored: Stored, rows: PooledRows | None) -> dict[str, str]:
        numbers = self.parameters[name]
        groups = numbers.weight.row_groups()
        schemes = {group.grid.value for group in groups}
        labels = {
            UNIT_KEY: f"{name}.weight",
            WEIGHT_BITS_KEY: str(numbers.weight.bits),
            ACTIVATION_BITS_KEY: str(_input_bits(numbers)),
            SCHEME_KEY: schemes.pop() if len(schemes) == 1 else MIXED_SCHEME,
            STORAGE_KEY: stored.storage,
        }
        if numbers.weight.widths is not None:
            labels[CHANNEL_BITS_KEY] = " ".join(f"{group.bits}:{len(group.rows)}" for group in groups)
            if rows is not None and stored.storage == "exact":
                labels[CHANNEL_ROWS_KEY] = f"{rows.pool} {rows.first} {numbers.weight.codes.shape[1]}"
        return labels


def _register(graph: ir.Graph, node: ir.Node, nodes: Sequence[ir.Node], constants: Sequence[ir.Value]) -> None:
    """Put new nodes before ``node``, and new constants into the graph."""
    for value in constants:
        graph.register_initializer(value)
    graph.insert_before(node, list(nodes))


def _kernel_shape(node: ir.Node) -> tuple[int, ...] | None:
    """Return (outputs, inputs, height, width) of a Conv's weight; None for other nodes."""
    weight = node.inputs[1]
    if node.op_type != "Conv" or weight is None or weight.const_value is None:
        return None
    return tuple(int(size) for size in weight.const_value.shape.numpy())


def _reshape_weight(graph: ir.Graph, name: str, node: ir.Node, shape: tuple[int, ...]) -> None:
    """Reshape a weight (inputs, outputs) to what a Conv reads; these are constants, folded when the file is loaded."""
    rows = ir.node("Transpose", [node.inputs[1]], {"perm": [1, 0]}, name=f"{name}.weight.rows")
    kernel = add_constant(graph, f"{name}.weight.kernel", np.array(shape, np.int64))
    reshape = ir.node("Reshape", [rows.outputs[0], kernel], name=f"{name}.weight.reshape")
    graph.insert_before(node, [rows, reshape])
    node.replace_input_with(1, reshape.outputs[0])


def _input_bits(numbers: LayerParameters) -> int:
    return FLOAT_BITS if numbers.activation is None else numbers.activation.bits


def _fingerprint(weight: QuantizedWeight) -> bytes:
    """Compute a hash that is equal for equal numbers."""
    digest = hashlib.sha256(f"{weight.bits} {weight.grid} {weight.codes.shape} ".encode())
    if weight.widths is not None:
        digest.update(weight.row_bits().tobytes() + weight.row_rises().tobytes())
    digest.update(weight.codes.tobytes())
    digest.update(weight.scale.tobytes())
    return digest.digest()
