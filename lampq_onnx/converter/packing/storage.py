"""How integer weights are stored in the file, and the standard operators that restore them.

How the integers are packed and how they are scaled are separate choices. Packing:

- container: one int8 per weight.
- native: INT2 up to 2 bits, INT4 up to 4 bits, int8 above; Cast to INT8. Needs opset 25 for INT2, 21 for INT4.
- exact: b bits per weight for every b (`bit_layout`). Up to 4 bits, a Gather from a table [256, 8 / width] turns each
byte into the signed contributions of its fields, and an int8 Add joins the fields; large models look up two bytes at
once, in a table of 65536 rows. From 5 to 7 bits, bytes share their spare bits (`shared_bytes`). Up to 6 bits the middle
level is their zero point; with 7 bits a Sub turns codes into levels. That loads faster than lookups. Lookups remain if
the inputs do not fill whole groups, if the target runs weights with zero points in float, and in graphs of opsets below
18.

Weights with a scale for each block of inputs: native storage is one int8 each, or INT4 up to 4 bits, with no operator
to unpack them. In exact storage a Gather repeats the scales.

Scaling:

- integer kernel, after quantized inputs of up to 8 bits: DequantizeLinear. onnxruntime folds the packing at session
creation and fuses DequantizeLinear and MatMul to its int8 kernel.
- float kernel, after inputs wider than 8 bits: Sub of the zero point if there is one, Cast to INT32 and FLOAT, and Mul
by the scale, which is the same arithmetic. It is folded to a float weight at session creation. DequantizeLinear would
become MatMulNBits here, which itself rounds the inputs to 8 bits (relative error 4e-3), even after an Identity or a
Transpose. OpenVINO does the same with one Cast and a Mul (7e-3), but not with two Casts.
- scales of blocks in native storage: DequantizeLinear with block_size (`Target.block`), which becomes MatMulNBits on
purpose.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lampq_onnx.converter.packing.bit_layout import FieldKey, shares_bytes
from lampq_onnx.converter.packing.pools import PooledRows
from lampq_onnx.converter.packing.shared_bytes import FIRST_OPSET as SHARED_OPSET
from lampq_onnx.converter.packing.shared_bytes import read_shared_bytes
from lampq_onnx.converter.packing.unpacking import Unpacking, constant, look_up_fields
from lampq_onnx.quantization import Grid, QuantizedWeight
from lampq_onnx.targets import Packing, Target

MIN_OPSET = {"container": 13, "exact": 14, "int4": 21, "int2": 25}
"""First opsets with per-axis DequantizeLinear, int8 Add, INT4 and INT2."""

BLOCKS_OPSET = 21
"""First opset with DequantizeLinear in blocks."""


@dataclass(frozen=True)
class Packed:
    """A weight's integers and scales in the graph.

    Attributes:
        value: integers (inputs, outputs), unpacked.
        scale: float32 (outputs,), (blocks, outputs) if ``block`` is given, or (inputs, outputs).
        zero_point: (outputs,) in the type of the integers; None: zero.
        nodes: nodes that unpack the integers, in topological order.
        initializers: new constants; lookup tables are shared between layers by name.
        storage: name of the storage for the report.
        bytes: bytes of the packed weights, without scales and shared tables.
        block: inputs that share a scale; None: all do.
    """

    value: ir.Value
    scale: ir.Value
    zero_point: ir.Value | None
    nodes: tuple[ir.Node, ...]
    initializers: tuple[ir.Value, ...]
    storage: str
    bytes: int
    block: int | None = None


@dataclass(frozen=True)
class Stored:
    """A layer's weight in the graph.

    Attributes:
        value: float (inputs, outputs).
        nodes: nodes that scale the integers, in topological order; the last one makes ``value``.
        storage: storage of the integers, see `Packed`.
        bytes: bytes of the packed integers, see `Packed`.
    """

    value: ir.Value
    nodes: tuple[ir.Node, ...]
    storage: str
    bytes: int


def required_opset(weight: QuantizedWeight, packing: Packing) -> int:
    """Return the lowest opset that a weight needs in this packing."""
    bits = weight.bits
    if weight.block is not None:
        return BLOCKS_OPSET if packing == "native" else MIN_OPSET["exact"]
    if weight.widths is not None and packing == "exact":
        return MIN_OPSET["exact"]
    if bits == 8 or packing == "container" or (packing == "native" and bits > 4):
        return MIN_OPSET["container"]
    if packing == "exact":
        return MIN_OPSET["exact"]
    return MIN_OPSET["int2" if bits <= 2 else "int4"]


def may_share(target: Target, opset: int) -> bool:
    """Whether bytes may share their spare bits in files for ``target`` with this opset."""
    return target.shared_bytes and opset >= SHARED_OPSET


def pooled(weight: QuantizedWeight, packing: Packing) -> bool:
    """Whether the rows of the weight are stored in a pool, see `pools`."""
    return weight.widths is not None and packing == "exact"


def pack_rows(
    weight: QuantizedWeight, name: str, rows: PooledRows, tables: dict[str, ir.Value], *, unsigned: bool
) -> Packed:
    """Take the integers of a weight out of its pool.

    Args:
        weight: the weight.
        name: prefix of new tensor names.
        rows: where its rows are.
        tables: see `pack_weight`.
        unsigned: see `needs_unsigned`.
    """
    scale = constant(f"{name}.scale", weight.scale)
    size = -(-int(weight.row_bits().astype(np.int64).sum()) * weight.codes.shape[1] // 8)
    if not unsigned:
        return Packed(rows.value, scale, None, (), (scale,), "exact", size)
    # No step leaves the range of its type: see `shared_bytes`.
    graph = Unpacking(name, tables)
    wide = graph.then("Cast", [rows.value], None, to=ir.DataType.INT32.value)
    shifted = graph.then("Add", [wide, graph.shared("lampq.half.b8", np.array([128], np.int32))], None)
    value = graph.then("Cast", [shifted], None, to=ir.DataType.UINT8.value)
    zero = constant(f"{name}.zero_point", np.full(len(weight.scale), 128, np.uint8))
    return Packed(value, scale, zero, tuple(graph.nodes), (scale, zero, *graph.new), "exact", size)


def needs_unsigned(weight: QuantizedWeight, target: Target, *, integer_kernel: bool) -> bool:
    """Whether the weight must be uint8 with zero point 128: int8 would saturate in the target's integer kernel."""
    return integer_kernel and weight.bits == 8 and not target.signed_8bit_exact


def pack_weight(
    weight: QuantizedWeight,
    name: str,
    packing: Packing,
    tables: dict[str, ir.Value],
    *,
    unsigned: bool = False,
    paired: Collection[FieldKey] = (),
    folds: bool = True,
    shares: bool = True,
    zero_points: bool = False,
) -> Packed:
    """Write a weight's integers in this packing.

    Args:
        weight: codes (outputs, inputs).
        name: prefix of new tensor names.
        packing: exact, native or container.
        tables: lookup tables that exist already; new ones are added.
        unsigned: see `needs_unsigned`.
        paired: fields of exact storage that are looked up two bytes at once, see `paired_fields`.
        folds: False: DequantizeLinear must read an initializer, see `Target`. INT4 then stands without a Cast, and
            weights that INT4 cannot hold directly are int8.
        shares: whether bytes of exact storage may share their spare bits, see `may_share`.
        zero_points: write zero points of int4 and int8 although they are zero, see `Target`.
    """
    if weight.block is not None and packing == "native":
        return _in_blocks(weight, name)
    if weight.block is not None:
        return _unpacked_blocks(weight, name, tables, paired)
    scale = constant(f"{name}.scale", weight.scale)
    if weight.grid is Grid.E4M3:
        numbers = constant(f"{name}.quantized", np.ascontiguousarray(weight.codes.view(ml_dtypes.float8_e4m3fn).T))
        return Packed(numbers, scale, None, (), (numbers, scale), "float8e4m3fn", weight.codes.nbytes)
    if unsigned:
        data = np.ascontiguousarray((weight.integers().astype(np.int16) + 128).astype(np.uint8).T)
        zero = constant(f"{name}.zero_point", np.full(len(weight.scale), 128, np.uint8))
        value = constant(f"{name}.quantized", data)
        return Packed(value, scale, zero, (), (value, scale, zero), "uint8", data.nbytes)
    if not folds and packing == "native" and weight.bits == 4 and weight.grid is not Grid.MID_RISE:
        return _direct_int4(weight, name, scale, zero_points=zero_points)
    if not folds or packing == "container" or weight.bits == 8 or (packing == "native" and weight.bits > 4):
        data8 = np.ascontiguousarray(weight.integers().T)
        value = constant(f"{name}.quantized", data8)
        none = constant(f"{name}.zero_point", np.zeros(len(weight.scale), np.int8)) if zero_points else None
        return Packed(value, scale, none, (), _present(value, scale, none), "int8", data8.nbytes)
    if packing == "native":
        return _native(weight, name, scale, tables)
    graph = Unpacking(name, tables)
    shared = shares and shares_bytes(weight)
    value, middle = read_shared_bytes(weight, graph) if shared else (look_up_fields(weight, graph, paired), None)
    return Packed(value, scale, middle, tuple(graph.nodes), (scale, *graph.new), "exact", graph.bytes)


def scale_weight(packed: Packed, name: str, *, integer_kernel: bool) -> Stored:
    """Scale integers that are already in the graph to float, in the form of the kernel that reads them.

    Args:
        packed: the integers.
        name: prefix of the new nodes.
        integer_kernel: whether an integer kernel reads them.
    """
    zero = [] if packed.zero_point is None else [packed.zero_point]
    if integer_kernel or packed.block is not None:
        inputs = [packed.value, packed.scale, *zero]
        where = {"axis": 1} if packed.block is None else {"axis": 0, "block_size": packed.block}
        nodes = [ir.node("DequantizeLinear", inputs, where, name=f"{name}.dequantize")]
    else:
        nodes, level = [], packed.value
        if zero:
            assert packed.storage != "uint8"  # needs_unsigned is False for the float kernel: Sub would wrap
            nodes.append(ir.node("Sub", [level, *zero], name=f"{name}.levels"))
            level = nodes[-1].outputs[0]
        nodes.append(ir.node("Cast", [level], {"to": ir.DataType.INT32.value}, name=f"{name}.int32"))
        nodes.append(ir.node("Cast", [nodes[-1].outputs[0]], {"to": ir.DataType.FLOAT.value}, name=f"{name}.float"))
        nodes.append(ir.node("Mul", [nodes[-1].outputs[0], packed.scale], name=f"{name}.scaled"))
    return Stored(nodes[-1].outputs[0], tuple(nodes), packed.storage, packed.bytes)


def _in_blocks(weight: QuantizedWeight, name: str) -> Packed:
    """Write INT4 or INT8 with the scales of the blocks."""
    assert weight.block is not None
    integers = np.ascontiguousarray(weight.integers().T)
    scale = constant(f"{name}.scale", np.ascontiguousarray(weight.scale.T))
    narrow = weight.bits <= 4 and weight.grid is Grid.MID_TREAD
    value = _int4(f"{name}.quantized", integers) if narrow else constant(f"{name}.quantized", integers)
    size = -(-integers.size // 2) if narrow else integers.nbytes
    return Packed(value, scale, None, (), (value, scale), "int4" if narrow else "int8", size, weight.block)


def _unpacked_blocks(
    weight: QuantizedWeight, name: str, tables: dict[str, ir.Value], paired: Collection[FieldKey]
) -> Packed:
    """Write exact storage, and the scale of each weight as a Gather of those of the blocks."""
    assert weight.block is not None
    graph, inputs = Unpacking(name, tables), weight.codes.shape[1]
    if weight.bits == 8:
        value = graph.packed("quantized", np.ascontiguousarray(weight.integers().T))
    else:
        value = look_up_fields(weight, graph, paired)
    blocks = graph.shared(f"lampq.blocks.{inputs}", np.arange(inputs, dtype=np.int32) // np.int32(weight.block))
    half = graph.own("scale", np.ascontiguousarray(weight.scale.T).astype(np.float16))
    scale = graph.then("Cast", [half], "scale.float", to=ir.DataType.FLOAT.value)
    spread = graph.then("Gather", [scale, blocks], "scales", axis=0)
    storage = "int8" if weight.bits == 8 else "exact"
    return Packed(value, spread, None, tuple(graph.nodes), tuple(graph.new), storage, graph.bytes)


def _direct_int4(weight: QuantizedWeight, name: str, scale: ir.Value, *, zero_points: bool) -> Packed:
    value = _int4(f"{name}.quantized", weight.integers().T)
    zero = _int4(f"{name}.zero_point", np.zeros(len(weight.scale), np.int8)) if zero_points else None
    return Packed(value, scale, zero, (), _present(value, scale, zero), "int4", -(-weight.codes.size // 2))


def _int4(name: str, integers: npt.NDArray[np.int8]) -> ir.Value:
    tensor = ir.Tensor(np.ascontiguousarray(integers).astype(ml_dtypes.int4), dtype=ir.DataType.INT4, name=name)
    return ir.Value(name=name, const_value=tensor, type=ir.TensorType(ir.DataType.INT4), shape=ir.Shape(integers.shape))


def _present(*values: ir.Value | None) -> tuple[ir.Value, ...]:
    return tuple(value for value in values if value is not None)


def _native(weight: QuantizedWeight, name: str, scale: ir.Value, tables: dict[str, ir.Value]) -> Packed:
    kind, dtype, ml = (
        ("int2", ir.DataType.INT2, ml_dtypes.int2) if weight.bits <= 2 else ("int4", ir.DataType.INT4, ml_dtypes.int4)
    )
    # A level of the mid-rise grid is 2 m + 1 with m = code - 2^(b-1), and m is what the type can hold.
    half = weight.codes.T.astype(np.int8) - np.int8(2 ** (weight.bits - 1))
    tensor = ir.Tensor(np.ascontiguousarray(half).astype(ml), dtype=dtype, name=f"{name}.quantized")
    value = ir.Value(
        name=f"{name}.quantized", const_value=tensor, type=ir.TensorType(dtype), shape=ir.Shape(half.shape)
    )
    cast = ir.node("Cast", [value], {"to": ir.DataType.INT8.value}, name=f"{name}.cast")
    nodes, last = [cast], cast.outputs[0]
    new = [value, scale]
    if weight.grid is Grid.MID_RISE:
        one = tables.get("lampq.one")
        if one is None:
            one = tables["lampq.one"] = constant("lampq.one", np.ones(1, np.int8))
            new.append(one)
        double = ir.node("Add", [last, last], name=f"{name}.double")
        odd = ir.node("Add", [double.outputs[0], one], name=f"{name}.odd")
        nodes += [double, odd]
        last = odd.outputs[0]
    packed = -(-half.size * (2 if kind == "int2" else 4) // 8)
    return Packed(last, scale, None, tuple(nodes), tuple(new), kind, packed)
