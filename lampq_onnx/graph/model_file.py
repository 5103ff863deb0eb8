"""Read and write ONNX files with their external data."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import onnx
import onnx_ir as ir

from lampq_onnx.disk.files import MODEL_FILE, PATH_HINT, created, shortened
from lampq_onnx.errors import LampqError, first_line
from lampq_onnx.graph.soundness import require_sound
from lampq_onnx.graph.streamed import pieces, size_of

PROTOBUF_LIMIT = 2**31 - 2**20
"""Size limit of a protobuf message, 2 GiB, less a margin for everything but weights."""


def require_model_file(path: Path) -> None:
    """Refuse a name that is not that of a file.

    Raises:
        LampqError: there is nothing of that name, or it is a folder.
    """
    if os.path.isdir(path):
        raise LampqError(
            f"{shortened(path)} is a folder, and one ONNX file is needed",
            hint=f"name the file in it, e.g. {shortened(path / MODEL_FILE)}",
        )
    if not os.path.isfile(path):  # returns False where pathlib raises, for a name that is too long
        raise LampqError(f"no such ONNX file: {shortened(path)}", hint=PATH_HINT)


def load_model(path: Path) -> ir.Model:
    """Read an ONNX file; external data stay on disk until they are used.

    Raises:
        LampqError: the file is missing, not ONNX, or unsound (see `require_sound`).
    """
    require_model_file(path)
    try:
        proto = onnx.load(path, load_external_data=False, format="protobuf")
    except Exception as error:  # protobuf and the operating system raise unrelated exception types
        raise LampqError(
            f"{path} cannot be read as an ONNX model: {first_line(error)}", hint="it is damaged, or of another format"
        ) from error
    if not proto.graph.input or not proto.graph.output or not proto.graph.node:
        raise LampqError(f"{path} holds no graph with nodes, inputs and outputs: it is empty or truncated")
    require_sound(proto, path)
    try:
        model = ir.from_proto(proto)
        ir.external_data.set_base_dir(model.graph, path.parent)
    except Exception as error:
        raise LampqError(f"{path} cannot be read as an ONNX model: {first_line(error)}") from error
    return model


def save_model(model: ir.Model, path: Path) -> None:
    """Write ``model``; weights go to ``<name>.data`` beside it if the file would exceed 2 GB.

    The caller stages the files (see ``files.staging``), so that they appear together.
    """
    size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    if size > PROTOBUF_LIMIT:
        with created(path.parent):
            ir.save(model, path, external_data=path.name + ".data")
        return
    # Tensors that still lie in the source's data file would be written as references to it.
    ir.external_data.load_to_model(model)
    with created(path.parent), path.open("wb") as file:
        file.writelines(pieces(model))


def model_bytes(model: ir.Model) -> int:
    """Return the size of the file that `save_model` would write."""
    weights = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    # Protobuf cannot compute a size that it cannot hold; next to such weights the graph is negligible.
    return weights if weights > PROTOBUF_LIMIT else size_of(model)


def float_numbers(model: ir.Model) -> int:
    """Count the float32 numbers of a graph's constants."""
    tensors = [v.const_value for v in model.graph.initializers.values() if v.const_value is not None]
    return sum(int(tensor.size) for tensor in tensors if tensor.dtype == ir.DataType.FLOAT)


def file_bytes(path: Path) -> int:
    """Return the size on disk, external data included."""
    data = path.with_name(path.name + ".data")
    return path.stat().st_size + (data.stat().st_size if data.exists() else 0)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file and of the external data beside it."""
    data = path.with_name(path.name + ".data")
    digest = hashlib.sha256()
    for part in (path, data) if data.exists() else (path,):
        with part.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
