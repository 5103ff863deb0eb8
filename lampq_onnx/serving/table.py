"""The formats that `package` writes, by name; each loads what writes it only when it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lampq_onnx.serving.source import Source


@dataclass(frozen=True)
class Format:
    """A format in which a file can be packaged.

    Attributes:
        write: writes the files of a quantized model into an empty folder.
        summary: what it is, in one line for `lampq-onnx list formats`.
        runs: where the result may run, and with what.
    """

    write: Callable[[Source, Path], None]
    summary: str
    runs: str


def _ort(source: Source, folder: Path) -> None:
    from lampq_onnx.serving.ort_format import to_ort

    to_ort(source, folder)


def _triton(source: Source, folder: Path) -> None:
    from lampq_onnx.serving.triton import to_triton

    to_triton(source, folder)


def _openvino(source: Source, folder: Path) -> None:
    from lampq_onnx.serving.openvino_ir import to_openvino

    to_openvino(source, folder)


def _transformers_js(source: Source, folder: Path) -> None:
    from lampq_onnx.serving.transformers_js import to_transformers_js

    to_transformers_js(source, folder)


FORMATS: Mapping[str, Format] = {
    "ort": Format(
        _ort,
        "onnxruntime's own format, for phones and small devices",
        "onnxruntime of this version or newer, on processors like this one: the graph is optimized for it; "
        "weights are unpacked to int8, so the file is larger and loads faster",
    ),
    "triton": Format(
        _triton,
        "a model repository for Triton Inference Server",
        "Triton Inference Server with its onnxruntime backend, on the device that config.pbtxt asks for; start it with "
        "--model-repository FOLDER",
    ),
    "openvino-ir": Format(
        _openvino,
        "OpenVINO IR: model.xml with model.bin",
        "OpenVINO of this version or newer, on CPUs",
    ),
    "transformers-js": Format(
        _transformers_js,
        "a folder for transformers.js: config.json, preprocessor_config.json, onnx/model_quantized.onnx",
        "browsers and Node with @huggingface/transformers 3 or newer",
    ),
}
"""Name -> format."""
