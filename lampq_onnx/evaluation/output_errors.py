"""Measure where the error of a quantized file arises, and which answers change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lampq_onnx.artifacts.details import AnswerChanges, OutputError, OutputErrors
from lampq_onnx.converter.blocks import block_outputs
from lampq_onnx.converter.inspect import QuantizedLayer
from lampq_onnx.converter.passes.select_early import SELECTED, selected_row
from lampq_onnx.data import BatchedImages, ImageSource, Preprocessing
from lampq_onnx.data.thumbnails import thumbnail
from lampq_onnx.evaluation.changes import ChangeMeter
from lampq_onnx.graph.model_file import load_model
from lampq_onnx.measures.error_meter import ErrorMeter
from lampq_onnx.runtime.inner_tensors import compare_tensors, tensor_names

ERROR_IMAGES = 32
"""Images for the errors along the model; each image needs thousands of numbers per tensor."""

_REORDERS = frozenset(["Squeeze", "Unsqueeze", "Reshape", "Transpose", "Identity"])


def measure_output_errors(
    reference: Path,
    quantized: Path,
    layers: Sequence[QuantizedLayer],
    images: npt.NDArray[np.float32],
    *,
    threads: int,
) -> OutputErrors:
    """Measure the SQNR of every layer's and every block's output; both files run whole on the same images.

    Args:
        reference: the float file.
        quantized: the quantized file.
        layers: layers of the quantized file, in graph order.
        images: (n, c, h, w), of which the first `ERROR_IMAGES` are used.
        threads: threads of the sessions.

    Raises:
        LampqError: a file does not run, or the two disagree on the shape of a tensor.
    """
    images = images[:ERROR_IMAGES]
    model = load_model(quantized)
    known = tensor_names(reference)
    values = {value.name: value for node in model.graph for value in node.outputs if value.name}
    tensors = {layer.name: _all_shared([values.get(output) for output in layer.outputs], known) for layer in layers}
    blocks = {name: _all_shared([values.get(output)], known) for name, output in block_outputs(model, layers).items()}
    names = {name: _original(name) for found in (*tensors.values(), *blocks.values()) for name in found}
    sums = compare_tensors(reference, quantized, names, images, threads=threads, row=selected_row(model.graph))

    def errors(kind: Literal["layer", "block"], found: Mapping[str, Sequence[str]]) -> list[OutputError]:
        return [
            OutputError(name=name, kind=kind, sqnr_db=ErrorMeter.joined(sums[tensor] for tensor in parts).sqnr_db)
            for name, parts in found.items()
            if parts
        ]

    return OutputErrors(
        samples=len(images),
        outputs=(*errors("layer", tensors), *errors("block", blocks)),
        missing=tuple(name for name, parts in tensors.items() if not parts),
    )


def _all_shared(values: Sequence[ir.Value | None], known: set[str]) -> tuple[str, ...]:
    """Return for each value the tensor that the float file has too; empty if one value has none."""
    found = [_shared(value, known) for value in values]
    return () if None in found else tuple(name for name in found if name is not None)


def _shared(value: ir.Value | None, known: set[str]) -> str | None:
    """Return a tensor that the float file has too: this one, or one with the same numbers, reordered downstream."""
    while value is not None and (value.name is None or _original(value.name) not in known):
        readers = [use.node for use in value.uses()]
        value = readers[0].outputs[0] if len(readers) == 1 and readers[0].op_type in _REORDERS else None
    return None if value is None else value.name


def _original(name: str) -> str:
    """Return the tensor's name in the float file, which computes all tokens."""
    return name.removesuffix(SELECTED)


def changed_answers(
    meter: ChangeMeter,
    source: ImageSource | BatchedImages,
    preprocessing: Preprocessing,
    classes: Sequence[str] = (),
) -> AnswerChanges:
    """Return what the meter counted, with names and thumbnails of the listed images, and the names of their classes.

    Raises:
        LampqError: an image cannot be read again.
    """
    found = meter.result(source.name, lambda index: thumbnail(source, preprocessing, index))
    named = {image.label for image in found.images} | {change.label for change in found.classes}
    named |= {answer for image in found.images for answer in (image.float_answer, image.quantized_answer)}
    names = {label: classes[label] for label in sorted(named) if 0 <= label < len(classes)}
    return found.model_copy(update={"names": names})
