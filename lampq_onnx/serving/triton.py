"""Write a model repository for Triton Inference Server."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from lampq_onnx.errors import LampqError
from lampq_onnx.serving.source import PREPROCESSING_FILE, Source, copy_model, device_of, write_preprocessing
from lampq_onnx.targets import Device

MAX_BATCH = 32
QUEUE_DELAY_US = 1000
"""Longest time in microseconds that a request waits for others to form a batch."""

_DEVICES: dict[Device, str] = {
    "CPU": "on a GPU, onnxruntime has no integer kernels for it, and is slower than with the float model. `lampq-onnx "
    "quantize --target onnxruntime-cuda` makes a file for a GPU.",
    "GPU": "its numbers are float16, which a CPU computes in float32. `lampq-onnx quantize --target auto` makes a file "
    "for a CPU.",
}
"""Device -> what happens on the other one."""

_TYPES = {
    ir.DataType.FLOAT: "TYPE_FP32",
    ir.DataType.FLOAT16: "TYPE_FP16",
    ir.DataType.UINT8: "TYPE_UINT8",
    ir.DataType.INT64: "TYPE_INT64",
}


def to_triton(source: Source, folder: Path) -> None:
    """Write ``config.pbtxt``, ``1/model.onnx``, ``preprocessing.json`` and ``README.md`` into a folder ``<name>``.

    The config asks for the device that the file is made for, see `device_of`. The server forms batches if the file
    takes any batch; a file with a fixed batch is served as it is. The preprocessing is in the JSON file, in the README
    and in the parameters of the config.

    Raises:
        LampqError: tritonclient is missing, or Triton does not know the type of a tensor.
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
    device = device_of(source, "onnxruntime, in which Triton runs it on a CPU or an NVIDIA GPU,")
    config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.Kind.Value(f"KIND_{device}"))
    if batched:
        config.dynamic_batching.max_queue_delay_microseconds = QUEUE_DELAY_US
    note = _preprocessing(source)
    config.parameters["preprocessing"].string_value = note
    place = folder / source.name
    version = place / "1"
    version.mkdir(parents=True)
    copy_model(source.path, version / "model.onnx")
    write_preprocessing(source, place)
    (place / "config.pbtxt").write_text(text_format.MessageToString(config), encoding="utf-8")
    inputs = ", ".join(f"`{entry.name}` {list(entry.dims)}" for entry in config.input)
    (place / "README.md").write_text(
        f"# {source.name}\n\nInput, without the batch: {inputs}, float32, channels first.\n\n"
        f"It runs on the {device} (`instance_group`): {_DEVICES[device]}\n\n"
        f"The server does not prepare images. Clients do: {note}. `{PREPROCESSING_FILE}` has each value.\n",
        encoding="utf-8",
    )


def _preprocessing(source: Source) -> str:
    found = source.preprocessing()
    return "the file does not say how its images are prepared" if found is None else found.describe()
