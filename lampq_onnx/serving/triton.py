"""A model repository for Triton Inference Server."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from lampq_onnx.data import Preprocessing
from lampq_onnx.errors import LampqError
from lampq_onnx.metadata_keys import PREPROCESSING_KEY
from lampq_onnx.serving.source import Source, copy_model

MAX_BATCH = 32
QUEUE_DELAY_US = 1000
"""Longest time that a request waits for others."""

_TYPES = {
    ir.DataType.FLOAT: "TYPE_FP32",
    ir.DataType.FLOAT16: "TYPE_FP16",
    ir.DataType.UINT8: "TYPE_UINT8",
    ir.DataType.INT64: "TYPE_INT64",
}


def to_triton(source: Source, folder: Path) -> None:
    """Write ``<name>/config.pbtxt``, ``<name>/1/model.onnx`` and ``<name>/README.md``.

    Batches are formed on the server where the file takes any batch; a file with a fixed batch is served as it is. What
    images go through before the model stands in the README and in the config's parameters.

    Raises:
        LampqError: tritonclient is missing, or a tensor's type is none that Triton knows.
    """
    try:
        from google.protobuf import text_format
        from tritonclient.grpc import model_config_pb2
    except ImportError as error:
        raise LampqError(
            "a Triton repository is written with tritonclient's own definition of config.pbtxt, which is not installed",
            hint="install lampq-onnx[triton]",
        ) from error
    graph = source.model.graph
    batched = all(source.tensor(value)[2][:1] == (None,) for value in (*graph.inputs, *graph.outputs))
    config = model_config_pb2.ModelConfig(
        name=source.name, backend="onnxruntime", max_batch_size=MAX_BATCH if batched else 0
    )
    for values, entries in ((graph.inputs, config.input), (graph.outputs, config.output)):
        for value in values:
            name, dtype, shape = source.tensor(value)
            if dtype not in _TYPES:
                raise LampqError(f"{source.path}: Triton has no name for the type {dtype.name} of {name}")
            dims = [-1 if d is None else d for d in (shape[1:] if batched else shape)]
            entries.add(name=name, data_type=model_config_pb2.DataType.Value(_TYPES[dtype]), dims=dims)
    if batched:
        config.dynamic_batching.max_queue_delay_microseconds = QUEUE_DELAY_US
    note = _preprocessing(source)
    config.parameters["preprocessing"].string_value = note
    place = folder / source.name
    version = place / "1"
    version.mkdir(parents=True)
    copy_model(source.path, version / "model.onnx")
    (place / "config.pbtxt").write_text(text_format.MessageToString(config), encoding="utf-8")
    inputs = ", ".join(f"`{entry.name}` {list(entry.dims)}" for entry in config.input)
    (place / "README.md").write_text(
        f"# {source.name}\n\nInput, without the batch: {inputs}, float32, channels first.\n\n"
        f"The server does not prepare images. Clients do: {note}.\n",
        encoding="utf-8",
    )


def _preprocessing(source: Source) -> str:
    text = source.model.metadata_props.get(PREPROCESSING_KEY)
    if text is None:
        return "the file does not say how its images are prepared"
    return Preprocessing.model_validate_json(text).describe()
