"""Check that two files can be compared: a quantized file and the float file that it was made from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from lampq_onnx.converter.embedded import embedded_plan
from lampq_onnx.converter.inspect import inspect_model
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.graph.keys import CLASSES_KEY, MODEL_KEY, PREPROCESSING_KEY, SOURCE_KEY
from lampq_onnx.graph.matching import other_layers
from lampq_onnx.graph.metadata import read_task
from lampq_onnx.graph.quantized_operators import quantized_node
from lampq_onnx.graph.source import constants_sha256

_NAMED = 3
"""Most layers that a message names."""

OWN_FILE = "give the float.onnx that was written with it (--reference FILE)"


@dataclass(frozen=True)
class ModelFile:
    """A graph and the path of its file."""

    model: ir.Model
    path: Path

    @property
    def inputs(self) -> list[ir.Value]:
        """Inputs that are not constants; files of old exporters list their weights among the inputs."""
        constants = self.model.graph.initializers
        return [value for value in self.model.graph.inputs if value.name not in constants]

    @property
    def outputs(self) -> Sequence[ir.Value]:
        """Outputs of the graph, in order."""
        return self.model.graph.outputs


def require_comparable(quantized: ModelFile, reference: ModelFile) -> None:
    """Require that ``quantized`` is a quantized file of the float file ``reference``.

    The first file must be quantized and the second must not be, both must have the same inputs and outputs, and if the
    first records which file it was made from, that must be the second.

    Raises:
        UsageError: both are one file, or they are swapped.
        LampqError: the comparison would be meaningless for another reason.
    """
    _require_kinds(quantized, reference)
    _require_same_values("input", quantized, reference, quantized.inputs, reference.inputs)
    _require_same_values("output", quantized, reference, list(quantized.outputs), list(reference.outputs))
    _require_same_facts(quantized, reference)
    _require_same_source(quantized, reference)


def is_quantized(file: ModelFile) -> bool:
    """Whether a file holds quantized layers, this converter's or any other tool's."""
    return quantized_node(file.model) is not None or bool(inspect_model(file.model))


def require_quantized(file: ModelFile) -> None:
    """Check that a file holds quantized layers.

    Raises:
        LampqError: it is a float file.
    """
    if not is_quantized(file):
        raise LampqError(
            f"{file.path} holds no quantized layer: it is a float file",
            hint="give the model.onnx that quantize or convert wrote",
        )


def _require_kinds(quantized: ModelFile, reference: ModelFile) -> None:
    if os.path.samefile(quantized.path, reference.path):
        raise UsageError(
            f"{quantized.path} and {reference.path} are the same file, so there is nothing to compare",
            hint="give a quantized file, and its float file with --reference",
        )
    node = quantized_node(reference.model)
    if node is not None and not is_quantized(quantized):
        raise UsageError(
            f"the files are swapped: {quantized.path} holds no quantized layer, and {reference.path} is quantized",
            hint=f"lampq-onnx validate {reference.path} --reference {quantized.path}",
        )
    if node is not None:
        raise LampqError(
            f"the reference {reference.path} is quantized itself: node {node.name or node.outputs[0].name} is a "
            f"{node.op_type}",
            hint="give the float file that both were made from",
        )
    require_quantized(quantized)


def _require_same_values(
    kind: str, quantized: ModelFile, reference: ModelFile, first: Sequence[ir.Value], second: Sequence[ir.Value]
) -> None:
    """Compare number, input names, types and shapes; what one file leaves open fits anything."""
    for file, values in ((quantized, first), (reference, second)):
        for value in values:
            if value.type is not None and not isinstance(value.type, ir.TensorType):
                raise LampqError(f"{file.path}: the {kind} {value.name} is not a tensor, but {_text(value)}")
            if value.dtype == ir.DataType.STRING:
                raise LampqError(f"{file.path}: the {kind} {value.name} holds text, but only numbers can be compared")
    if len(first) != len(second):
        raise _differ(
            quantized, reference, f"{len(first)} {kind}(s) ({_names(first)})", f"{len(second)} ({_names(second)})"
        )
    for own, other in zip(first, second, strict=True):
        if kind == "input" and own.name != other.name:
            raise _differ(quantized, reference, f"an input named {own.name}", f"one named {other.name}")
        if own.dtype is not None and other.dtype is not None and own.dtype != other.dtype:
            raise _differ(quantized, reference, f"the {kind} {own.name} of type {own.dtype.name}", other.dtype.name)
        if not _shapes_fit(own.shape, other.shape):
            raise _differ(quantized, reference, f"the {kind} {own.name} of shape {_shape(own)}", _shape(other))


def _shapes_fit(first: ir.Shape | None, second: ir.Shape | None) -> bool:
    if first is None or second is None:
        return True
    if len(first) != len(second):
        return False
    return all(a == b or not (isinstance(a, int) and isinstance(b, int)) for a, b in zip(first, second, strict=True))


def _require_same_facts(quantized: ModelFile, reference: ModelFile) -> None:
    """Compare what both files record about themselves in their metadata."""
    for key, what in (
        (MODEL_KEY, "the model"),
        (CLASSES_KEY, "the number of classes"),
        (PREPROCESSING_KEY, "the preprocessing"),
    ):
        own, other = (file.model.metadata_props.get(key) for file in (quantized, reference))
        if own is not None and other is not None and own != other:
            raise LampqError(
                f"{quantized.path} was not made from {reference.path}: {what} is {own[:200]} in the one and "
                f"{other[:200]} in the other",
                hint=OWN_FILE,
            )
    tasks = [read_task(file.model, file.path) for file in (quantized, reference)]
    if None not in tasks and tasks[0] != tasks[1]:
        kinds = [task.kind for task in tasks if task is not None]
        raise LampqError(
            f"{quantized.path} was not made from {reference.path}: their tasks ({kinds[0]}, {kinds[1]}) or the meaning "
            "of their outputs differ",
            hint=OWN_FILE,
        )


def _require_same_source(quantized: ModelFile, reference: ModelFile) -> None:
    """Compare the constants recorded as the source of the quantized file; older files record only layer weights."""
    source = quantized.model.metadata_props.get(SOURCE_KEY)
    found = None if source is None else constants_sha256(reference.model)
    if source is not None and source == found:
        return
    plan = embedded_plan(quantized.model, quantized.path)
    others = [] if plan is None else other_layers(reference.model, plan)
    if plan is not None and others:
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        reason = f"{', '.join(others[:_NAMED])}{more} of its {len(plan.layers)} layers have other weights there"
    elif source is not None and found is not None:
        reason = f"its float file has constants of sha256 {source[:16]}..., the reference of {found[:16]}..."
    else:
        return
    raise LampqError(f"{quantized.path} was not made from {reference.path}: {reason}", hint=OWN_FILE)


def _differ(quantized: ModelFile, reference: ModelFile, own: str, other: str) -> LampqError:
    return LampqError(
        f"the files do not belong together: {quantized.path} has {own}, but {reference.path} has {other}",
        hint=OWN_FILE,
    )


def _names(values: Sequence[ir.Value]) -> str:
    return ", ".join(value.name or "" for value in values) or "none"


def _text(value: ir.Value) -> str:
    return type(value.type).__name__


def _shape(value: ir.Value) -> str:
    return "of any size" if value.shape is None else str([d if isinstance(d, int) else str(d) for d in value.shape])
