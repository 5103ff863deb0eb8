"""Brings the input of a file to float images with channels first, the form that all stages feed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lampq_onnx.errors import LampqError
from lampq_onnx.graph.edits import place
from lampq_onnx.graph.nodes import users
from lampq_onnx.importer.refusals import channels_last, image_input

_MOVES = frozenset({"Transpose", "Reshape", "Identity", "Slice", "Squeeze", "Unsqueeze", "Gather", "Split", "Concat"})
"""Operators that pass on the type of what they read."""

_ENDS = frozenset({"Cast", "Shape", "Size"})
"""Operators whose result has the same type whatever they read."""

TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
"""Permutations of images: channels to the last axis, and back to the second."""


@dataclass(frozen=True)
class InputForm:
    """The images that a file takes.

    Attributes:
        half: whether they are float16.
        pixels: whether they are uint8 pixels, which the graph normalizes itself.
        channels_last: whether they are (n, height, width, channels).
    """

    half: bool = False
    pixels: bool = False
    channels_last: bool = False

    def fed(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.generic]:
        """Return images, float32 (n, c, h, w), as the file takes them."""
        found = images.transpose(TO_LAST) if self.channels_last else images
        return found.astype(np.uint8 if self.pixels else np.float16 if self.half else np.float32)

    @property
    def changes(self) -> dict[str, int]:
        """What `to_images` changes -> 1, for each change."""
        said = {"input of pixels as float32": self.pixels, "input with channels first": self.channels_last}
        return {what: 1 for what, done in said.items() if done}


def to_images(model: ir.Model, path: Path) -> InputForm:
    """Give the graph an input of float images (n, c, h, w), in place.

    uint8 pixels become float32 from 0 to 255. Images with channels last are moved from channels first inside the graph,
    unless the graph moves them back.

    Returns:
        The form that the file takes.

    Raises:
        LampqError: the input is no batch of images, or uint8 pixels are used before they become float.
    """
    value = image_input(model, path)
    form = InputForm(
        half=value.dtype == ir.DataType.FLOAT16,
        pixels=value.dtype == ir.DataType.UINT8,
        channels_last=channels_last(value),
    )
    if form.pixels:
        _as_float(value, path)
    if form.channels_last:
        _channels_first(model.graph, value)
    return form


def _as_float(value: ir.Value, path: Path) -> None:
    """Make a value of pixels float32, up to the Cast that made it float."""
    value.type = ir.TensorType(ir.DataType.FLOAT)
    for node in users(value):
        if node.op_type in _ENDS:
            continue
        if node.op_type not in _MOVES:
            raise LampqError(
                f"{path} takes uint8 images, and node {place(node)}, a {node.op_type}, reads them before they become "
                "float",
                hint="export it with a Cast to float as the first operator, or with float images",
            )
        for output in node.outputs:
            _as_float(output, path)


def _channels_first(graph: ir.Graph, old: ir.Value) -> None:
    shape = old.shape
    assert shape is not None
    new = ir.Value(name=old.name, shape=ir.Shape([shape[axis] for axis in TO_FIRST]), type=old.type)
    old.name = f"{new.name}.channels_last"
    graph.inputs[0] = new
    for node in users(old):
        perm = node.attributes.get("perm")
        if node.op_type == "Transpose" and perm is not None and tuple(perm.as_ints()) == TO_FIRST:
            node.outputs[0].replace_all_uses_with(new, replace_graph_outputs=True)
            graph.remove(node, safe=True)
    if users(old):
        move = ir.node("Transpose", [new], {"perm": list(TO_LAST)}, name=old.name)
        graph.insert_before(graph[0], move)
        move.outputs[0].type, move.outputs[0].shape, move.outputs[0].name = old.type, shape, old.name
        old.replace_all_uses_with(move.outputs[0])
