"""Writes a model as protobuf, tensor by tensor: the bytes of `onnx.save`, without two more copies of all weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx
import onnx_ir as ir
from google.protobuf.message import Message

LEAST_BYTES = 2**16
"""Bytes from which on a tensor is written by itself."""

GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
INITIALIZER = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number


def pieces(model: ir.Model) -> Iterator[bytes]:
    """Iterate over the bytes of the model's file, in order.

    Protobuf writes the fields of a message in the order of their numbers, each with its key and, if it is a message,
    its length. So the graph is written in three parts: what comes before its initializers, these, and the rest.
    """
    proto, large = _without_large(model)
    head, tail = _divided(proto, GRAPH)
    graph_head, graph_tail = _divided(proto.graph, INITIALIZER)
    tensors = [(tensor.name, large.get(tensor.name, tensor)) for tensor in proto.graph.initializer]
    sizes = [int(_proto(*named).ByteSize()) for named in tensors]
    inside = len(graph_head) + len(graph_tail) + sum(len(_key(INITIALIZER, size)) + size for size in sizes)
    yield head + _key(GRAPH, inside) + graph_head
    for named, size in zip(tensors, sizes, strict=True):
        yield _key(INITIALIZER, size) + _proto(*named).SerializeToString()
    yield graph_tail + tail


def size_of(model: ir.Model) -> int:
    """Return the number of bytes of the model's file."""
    return sum(map(len, pieces(model)))


def _without_large(model: ir.Model) -> tuple[onnx.ModelProto, dict[str, ir.TensorProtocol]]:
    """The model with empty tensors in place of large ones, and those by name; ``model`` is as it was afterwards."""
    large: dict[str, ir.TensorProtocol] = {}
    values = []
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.dtype != ir.DataType.STRING and tensor.nbytes >= LEAST_BYTES:
            large[name] = tensor
            values.append(value)
    try:
        for value in values:
            value.const_value = ir.tensor([0.0], name=value.name)
        return ir.to_proto(model), large
    finally:
        for value in values:
            value.const_value = large[value.name or ""]


def _divided(message: onnx.ModelProto | onnx.GraphProto, number: int) -> tuple[bytes, bytes]:
    """Bytes of the fields before a number, and after it."""
    before, after = type(message)(), type(message)()
    copy_fields(message, before, lambda field: field < number)
    copy_fields(message, after, lambda field: field > number)
    return before.SerializeToString(), after.SerializeToString()


def copy_fields(message: Message, other: Message, wanted: Callable[[int], bool]) -> None:
    """Copy the fields of a message with these numbers to another, empty one of the same type."""
    for field, value in message.ListFields():
        if not wanted(field.number):
            continue
        own = getattr(other, field.name)
        if hasattr(own, "MergeFrom"):  # a repeated field or a message
            own.MergeFrom(value)
        else:
            setattr(other, field.name, value)


def _proto(name: str, tensor: ir.TensorProtocol | onnx.TensorProto) -> onnx.TensorProto:
    """The tensor with the name of its initializer; several initializers may share a tensor."""
    if isinstance(tensor, onnx.TensorProto):
        return tensor
    tensor.name = name  # as in `onnx_ir`, whose tensors are named like their values in a file
    return ir.serde.serialize_tensor(tensor)


def _key(number: int, size: int) -> bytes:
    """Key of a field that holds a message of so many bytes, and the length."""
    return _varint(number << 3 | 2) + _varint(size)


def _varint(value: int) -> bytes:
    """Number in groups of seven bits, the lowest first."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)
