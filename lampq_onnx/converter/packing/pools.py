"""Exact storage of weights whose rows differ in width.

A pool holds the rows (output channels) of several weights with the same number of inputs. Its rows are gathered by
width and grid, whatever weight they belong to, and each of these classes is packed at its width like one weight of
exact storage. So nodes that unpack cost bytes once for a pool, and a row costs exactly its bits.

The order of the rows is not stored as indices. Each row has the number of its class, packed in 1 to 4 bits, in the
natural order. Sorting these numbers tells which row stands where in the classes, and sorting that tells the place of
each row. Then one Concat joins the classes, one Gather brings the rows into their order, a Transpose makes them
columns, and a Split cuts them into weights (inputs, outputs). Runtimes that fold constants do all of this when the file
is loaded; OpenVINO folds TopK, but not CumSum (2026.4). Zero points are subtracted here: the unpacked weight is int8
levels, whatever its widths are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lampq_onnx.converter.packing.bit_layout import SHARED_BITS, FieldKey, codes_in_group, shares_bytes
from lampq_onnx.converter.packing.shared_bytes import read_shared_bytes
from lampq_onnx.converter.packing.unpacking import Unpacking, look_up_fields
from lampq_onnx.graph.keys import CHANNEL_CLASSES_KEY
from lampq_onnx.quantization import Grid, QuantizedWeight
from lampq_onnx.quantization.pools import class_bits, pools_of

Class = tuple[int, Grid]
"""Width and grid of the rows of one class."""


@dataclass(frozen=True)
class PooledRows:
    """Where the rows of one weight are.

    Attributes:
        pool: name of the pool.
        first: index of its first row in the pool.
        value: int8 levels (inputs, outputs), unpacked.
    """

    pool: str
    first: int
    value: ir.Value


class Pool:
    """Weights whose rows are packed together.

    Attributes:
        classes: width and grid of each class, in the order of their numbers.
        parts: for each class, its codes as a weight whose packed form is that of the class.

    Args:
        name: prefix of tensors and nodes.
        weights: layer -> weight; all have the same number of inputs.
    """

    def __init__(self, name: str, weights: Mapping[str, QuantizedWeight]) -> None:
        self.name = name
        self._weights = dict(weights)
        groups = {name: weight.row_groups() for name, weight in weights.items()}
        self.classes: tuple[Class, ...] = tuple(sorted({(g.bits, g.grid) for own in groups.values() for g in own}))
        number = {kind: at for at, kind in enumerate(self.classes)}
        ids, rows = [], dict[Class, list[np.ndarray]]()
        for layer, weight in weights.items():
            own = np.empty(len(weight.codes), np.uint8)
            for group in groups[layer]:
                own[group.rows] = number[group.bits, group.grid]
                rows.setdefault((group.bits, group.grid), []).append(weight.codes[group.rows])
            ids.append(own)
        self._ids = np.concatenate(ids)
        self.parts = tuple(_part(np.concatenate(rows[kind]), *kind) for kind in self.classes)

    def unpack(
        self, tables: dict[str, ir.Value], paired: Collection[FieldKey], *, shares: bool
    ) -> tuple[Unpacking, dict[str, PooledRows]]:
        """Make the nodes that unpack the rows, and tell where those of each layer are.

        Args:
            tables, paired, shares: see `pack_weight`.
        """
        graph = Unpacking(self.name, tables)
        inputs = next(iter(self._weights.values())).codes.shape[1]
        pieces = [
            self._levels(graph, kind, part, inputs, paired, shares=shares)
            for kind, part in zip(self.classes, self.parts, strict=True)
        ]
        matrix = graph.then("Concat", pieces, None, axis=0) if len(pieces) > 1 else pieces[0]
        ordered = ir.node("Gather", [matrix, self._places(graph)], {"axis": 0}, name=self.name)
        ordered.metadata_props[CHANNEL_CLASSES_KEY] = " ".join(str(bits) for bits, _ in self.classes)
        graph.nodes.append(ordered)
        sizes = np.array([len(weight.codes) for weight in self._weights.values()], np.int64)
        # Split comes last, also for one weight: OpenVINO moves a Transpose right before DequantizeLinear into the
        # product, which is then none of integers (2026.4).
        columns = graph.transpose(ordered.outputs[0])
        cut = graph.split(columns, graph.own("sizes", sizes), len(sizes), axis=1)
        found, first = {}, 0
        for layer, rows, size in zip(self._weights, cut, sizes.tolist(), strict=True):
            found[layer] = PooledRows(self.name, first, rows)
            first += size
        return graph, found

    def _levels(
        self,
        graph: Unpacking,
        kind: Class,
        part: QuantizedWeight,
        inputs: int,
        paired: Collection[FieldKey],
        *,
        shares: bool,
    ) -> ir.Value:
        """Unpack the levels of one class, int8 (rows, inputs)."""
        bits, grid = kind
        name = f"b{bits}{'r' if grid is Grid.MID_RISE else ''}"
        if bits == 8:
            return graph.packed(name, np.ascontiguousarray(part.integers().T))
        own = graph.part(name)
        if shares and shares_bytes(part):
            value, _ = read_shared_bytes(part, own, levels=True)
        else:
            value = look_up_fields(part, own, paired)
        graph.join(own)
        shape = (part.codes.size // inputs, inputs)
        if part.codes.shape[::-1] == shape:
            return value
        return graph.then("Reshape", [value, graph.own(f"{name}.rows", np.array(shape, np.int64))], None)

    def _places(self, graph: Unpacking) -> ir.Value:
        """Compute the place of each row among the classes, int64 (rows,)."""
        bits = class_bits(len(self.classes))
        ids = graph.part("ids")
        numbers = QuantizedWeight(self._ids[None], np.ones(1, np.float32), bits, Grid.MID_TREAD)
        numbers_of_rows = look_up_fields(numbers, ids, ())
        graph.join(ids)
        flat = graph.then("Reshape", [numbers_of_rows, graph.shared("lampq.flat", np.array([-1], np.int64))], None)
        keys = graph.then("Cast", [flat], None, to=ir.DataType.INT32.value)
        # Equal keys keep their order: TopK puts the one with the lower index first. So the first gives the row at each
        # place, and the second, on different numbers, the place of each row.
        count = graph.own("count", np.array([len(self._ids)], np.int64))
        return graph.sort(graph.sort(keys, count), count)


def make_pools(weights: Mapping[str, QuantizedWeight], taken: Collection[str]) -> list[Pool]:
    """Distribute weights to pools.

    Args:
        weights: layer -> weight, in graph order.
        taken: names that tensors of the graph have.
    """
    sizes = {name: weight.codes.shape for name, weight in weights.items()}
    prefix = "channels"
    while any(name.startswith(f"{prefix}.") for name in taken):
        prefix += "_"
    return [Pool(f"{prefix}.{at}", {name: weights[name] for name in names}) for at, names in enumerate(pools_of(sizes))]


def _part(codes: np.ndarray, bits: int, grid: Grid) -> QuantizedWeight:
    """Return rows of codes (rows, inputs) as a weight whose transposed codes are packed.

    Codes that share bytes do so in groups along the first axis of that; it needs no more than one group.
    """
    flat = np.ascontiguousarray(codes)
    if bits in SHARED_BITS and grid is Grid.MID_TREAD and codes.size % codes_in_group(bits) == 0:
        flat = flat.reshape(codes_in_group(bits), -1)
    return QuantizedWeight(flat.T, np.ones(flat.shape[1], np.float32), bits, grid)
