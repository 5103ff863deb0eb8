"""Check that an ONNX file is sound, before anything in it is allocated or followed."""

from __future__ import annotations

import math
import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

import onnx
from onnx import TensorProto, helper
from onnx.external_data_helper import uses_external_data

from lampq_onnx.errors import LampqError
from lampq_onnx.graph.streamed import GRAPH, INITIALIZER, LEAST_BYTES, copy_fields

_SUBBYTE = {
    getattr(TensorProto, name): bits
    for name, bits in {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}.items()
    if hasattr(TensorProto, name)
}


def require_sound(proto: onnx.ModelProto, path: Path) -> None:
    """Check the opset, the size of every constant, where its data lies, and the rules of onnx for graphs.

    1. Every constant has as many bytes as its shape and type say, counted without allocating them.
    2. External data are regular files inside the model's folder, links resolved, and long enough.
    3. onnx's checker: operators, attributes, order of nodes, one writer per value. A missing output shape, which the
       checker rejects and runtimes accept, is allowed.

    Args:
        proto: the model, external data not loaded.
        path: its file.

    Raises:
        LampqError: names the tensor, node or field that is wrong.
    """
    _require_opset(proto, path)
    for tensor in _tensors(proto.graph):
        problem = _tensor_problem(tensor, path.parent)
        if problem:
            raise LampqError(
                f"{path} cannot be read as an ONNX model: the tensor {tensor.name!r} {problem}",
                hint="the file is damaged or was edited",
            )
    names = Counter(tensor.name for tensor in proto.graph.initializer)
    twice = next((name for name, count in names.items() if count > 1), None)
    if twice is not None:
        raise LampqError(f"{path}: two initializers are named {twice!r}")
    try:
        onnx.checker.check_model(_without_weights(proto) or str(path))
    except Exception as error:  # the checker raises unrelated exception types
        raise LampqError(
            f"{path} fails onnx's check: {' '.join(str(error).split())[:400]}",
            hint="export the model again; onnx.checker.check_model shows the same error",
        ) from error


def _without_weights(proto: onnx.ModelProto) -> onnx.ModelProto | None:
    """Return a copy in which large constants are inputs and every output has a shape.

    The checker copies a model twice, and knows nothing of a constant that `_tensor_problem` has not seen. Below IR 4,
    initializers had to be inputs as well; the checker then does not see whether a large one was.

    Returns:
        The copy; None if external data remain, which the checker looks for beside the file.
    """
    copy = onnx.ModelProto()
    copy_fields(proto, copy, lambda field: field != GRAPH)
    copy_fields(proto.graph, copy.graph, lambda field: field != INITIALIZER)
    inputs = {value.name for value in copy.graph.input}
    for tensor in proto.graph.initializer:
        counted = tensor.name and _bytes(tensor) is not None
        if not (counted and (uses_external_data(tensor) or len(tensor.raw_data) >= LEAST_BYTES)):
            copy.graph.initializer.add().CopyFrom(tensor)
        elif tensor.name not in inputs:
            copy.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    if any(uses_external_data(tensor) for tensor in _tensors(copy.graph)):
        return None
    for out in copy.graph.output:
        if out.type.HasField("tensor_type"):
            out.type.tensor_type.shape.SetInParent()
    return copy


def _require_opset(proto: onnx.ModelProto, path: Path) -> None:
    own = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    newest = onnx.defs.onnx_opset_version()
    if len(own) != 1 or not 1 <= own[0] <= newest:
        said = f"the opsets {own}" if own else "no opset"
        raise LampqError(f"{path} names {said}, but needs one opset from 1 to {newest}", hint="export the model again")


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Yield initializers and tensors in attributes, those of inner graphs included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _tensors(inner)


def _tensor_problem(tensor: TensorProto, folder: Path) -> str:
    """Say what is wrong with a tensor; empty if nothing."""
    if any(size < 0 for size in tensor.dims):
        return f"has the shape {list(tensor.dims)}"
    if uses_external_data(tensor):
        return _external_problem(tensor, folder)
    if not tensor.HasField("raw_data"):
        return ""  # typed fields are counted by the checker
    needed = _bytes(tensor)
    if needed is not None and len(tensor.raw_data) != needed:
        return f"has {len(tensor.raw_data)} bytes for the shape {list(tensor.dims)}, which needs {needed}"
    if any(getattr(tensor, f"{kind}_data") for kind in ("float", "int32", "int64", "double", "uint64", "string")):
        return "holds its numbers twice, in raw_data and in a typed field"
    return ""


def _bytes(tensor: TensorProto) -> int | None:
    """Return the bytes that shape and type need; None for types without a size."""
    count = math.prod(int(size) for size in tensor.dims)
    if tensor.data_type in _SUBBYTE:
        bits = count * _SUBBYTE[tensor.data_type]
        return -(-bits // 8)
    try:
        return count * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except (KeyError, TypeError):
        return None


def _external_problem(tensor: TensorProto, folder: Path) -> str:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    windows = PureWindowsPath(location)
    if not location or "\0" in location or windows.drive or windows.root or ".." in windows.parts:
        return f"has its data at {location[:200]!r}, which is not inside the model's folder"
    root = os.path.realpath(folder)
    file = os.path.realpath(folder / location)
    if not Path(file).is_relative_to(root):
        return f"has its data at {location[:200]!r}, a link that leads outside the model's folder"
    try:
        status = os.stat(file)
    except OSError as error:
        return f"has its data in {location[:200]}, which cannot be read: {error.strerror or error}"
    if not stat.S_ISREG(status.st_mode):
        return f"has its data in {location[:200]}, which is not a regular file"
    needed = _bytes(tensor)
    numbers = [entries.get("offset", "0"), entries.get("length", str(needed))]
    if needed is None or not all(text.isdecimal() for text in numbers):
        return f"says offset {numbers[0][:40]!r} and length {numbers[1][:40]!r}"
    offset, length = map(int, numbers)
    if length != needed:
        return f"has {length} bytes for the shape {list(tensor.dims)}, which needs {needed}"
    if offset + length > status.st_size:
        return f"lies at {offset} ... {offset + length} in {location[:200]}, which has {status.st_size} bytes"
    return ""
