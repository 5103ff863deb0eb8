"""Write a folder that transformers.js loads, in browsers and in Node."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir

from lampq_onnx.artifacts.task import CLASSIFICATION
from lampq_onnx.disk.files import FLOAT_FILE
from lampq_onnx.errors import LampqError
from lampq_onnx.evaluation.comparable import ModelFile, require_comparable
from lampq_onnx.graph.edits import add_constant
from lampq_onnx.graph.keys import STORAGE_KEY
from lampq_onnx.graph.metadata import read_metadata
from lampq_onnx.graph.model_file import PROTOBUF_LIMIT, file_bytes, load_model, save_model
from lampq_onnx.importer.class_names import CONFIG, UNNAMED
from lampq_onnx.serving.source import Source, device_of, write_preprocessing
from lampq_onnx.serving.web_images import GREY, PREPROCESSOR_CONFIG, preprocessor_config

INPUT, OUTPUT = "pixel_values", "logits"
"""Names that the library reads and gives."""

FILES = {"q8": "onnx/model_quantized.onnx", "fp32": "onnx/model.onnx"}
"""Its names of precisions -> the files that it looks for."""

MODEL_TYPES = ("beit", "deit", "dinov2", "hiera", "swin", "vit")
"""Types of models that it classifies images with; all give the input to the graph as it is. The last one stands for
all others."""

_PACKED = ("int2", "int4")
"""Storages of native packing that its runtimes do not read on every device."""


def to_transformers_js(source: Source, folder: Path) -> None:
    """Write ``config.json``, ``preprocessor_config.json``, ``onnx/model_quantized.onnx`` and ``README.md``.

    The float file becomes ``onnx/model.onnx`` if it lies beside the quantized one. Without a choice by the user the
    library takes the quantized file, on every device.

    Raises:
        LampqError: the file is for another device, or the library has no pipeline for the model's task, cannot prepare
            its images, or would have to read weights of 2 or 4 bits.
    """
    device_of(source, "transformers.js")
    facts = read_metadata(source.model, source.path)
    if facts.task.kind != CLASSIFICATION.kind or facts.num_classes is None:
        raise LampqError(
            f"{source.path}: this format is for classification, and the file's task is {facts.task.kind}",
            hint="package it as ort or openvino-ir, or give the file itself to onnxruntime-web",
        )
    images = preprocessor_config(facts.preprocessing, source.path)
    (folder / "onnx").mkdir()
    _write(source.model, source.path, folder / FILES["q8"])
    reference = source.path.with_name(FLOAT_FILE)
    if reference.is_file():
        other = load_model(reference)
        require_comparable(ModelFile(load_model(source.path), source.path), ModelFile(other, reference))
        _write(other, reference, folder / FILES["fp32"])
    names = facts.task.classes or tuple(UNNAMED.format(index) for index in range(facts.num_classes))
    config = {
        "model_type": next((name for name in MODEL_TYPES if facts.name.startswith(name)), MODEL_TYPES[-1]),
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
        "transformers.js_config": {"dtype": "q8"},
    }
    for name, values in ((CONFIG, config), (PREPROCESSOR_CONFIG, images)):
        text = json.dumps(values, indent=2, ensure_ascii=False)
        (folder / name).write_text(text + "\n", encoding="utf-8")
    write_preprocessing(source, folder)
    (folder / "README.md").write_text(_readme(source.name, facts.preprocessing.describe()), encoding="utf-8")


def _write(model: ir.Model, path: Path, target: Path) -> None:
    """Save a graph under the library's names of input and output; a grey model takes colors."""
    packed = next((n for n in model.graph if n.metadata_props.get(STORAGE_KEY) in _PACKED), None)
    if packed is not None:
        raise LampqError(
            f"{path} has weights in {packed.metadata_props[STORAGE_KEY].upper()}, which browsers do not read on every "
            "device",
            hint="write the file again with --packing exact",
        )
    if file_bytes(path) > PROTOBUF_LIMIT:
        raise LampqError(f"{path} has more than 2 GB, and browsers do not load that", hint="package a smaller model")
    (value,), (output,) = ModelFile(model, path).inputs, model.graph.outputs
    if value.shape is not None and len(value.shape) == 4 and value.shape[1] == 1:
        value = _in_color(model.graph, value)
    for taken in (INPUT, OUTPUT):
        for node in model.graph:
            for result in node.outputs:
                if result.name == taken and result is not output:
                    result.name = f"{taken}.inner"
    value.name, output.name = INPUT, OUTPUT
    save_model(model, target)


def _in_color(graph: ir.Graph, grey: ir.Value) -> ir.Value:
    """Put the luminance of a color image before the first operator, and return the new input."""
    assert grey.shape is not None
    batch, _, height, width = grey.shape
    color = ir.Value(name=INPUT, type=grey.type, shape=ir.Shape([batch, 3, height, width]))
    weights = add_constant(graph, "lampq.luminance", np.array(GREY, np.float32).reshape(1, 3, 1, 1))
    mixed = ir.node("Conv", [color, weights], name="luminance")
    mixed.outputs[0].name, mixed.outputs[0].type, mixed.outputs[0].shape = "luminance", grey.type, grey.shape
    grey.replace_all_uses_with(mixed.outputs[0])
    graph.inputs[graph.inputs.index(grey)] = color
    graph.insert_before(graph[0], mixed)
    return color


def _readme(name: str, images: str) -> str:
    return f"""# {name}

```js
import {{ env, pipeline }} from '@huggingface/transformers';

env.allowLocalModels = true;       // this folder is served as /models/{name}, or lies there in Node
env.localModelPath = '/models/';
const classify = await pipeline('image-classification', '{name}');
const answers = await classify('image.png');
```

The library takes `{FILES["q8"]}`, the quantized file. `{{ dtype: 'fp32' }}` takes `{FILES["fp32"]}`, the
float file, if it is there.

Images: {images}. Browsers resize with a canvas, and Node without a filter against aliasing: answers for images that
have to be made smaller differ a little from those in Python.
"""
