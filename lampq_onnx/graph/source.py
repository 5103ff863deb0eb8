"""Identify the float file that a quantized file was made from."""

from __future__ import annotations

import hashlib

import onnx_ir as ir


def constants_sha256(model: ir.Model) -> str:
    """Return a sha256 over a graph's constants: type, shape and bytes.

    Names, metadata and the place of external data do not count, so a file that is saved again keeps its hash.
    """
    found = []
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None:
            head = f"{tensor.dtype.name}{[int(d) for d in tensor.shape.numpy()]}".encode()
            found.append(hashlib.sha256(head + tensor.tobytes()).digest())
    return hashlib.sha256(b"".join(sorted(found))).hexdigest()
