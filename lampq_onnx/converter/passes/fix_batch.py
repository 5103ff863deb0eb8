"""Give a graph a fixed number of images."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from lampq_onnx.errors import LampqError
from lampq_onnx.graph.edits import CountingPass


class FixBatch(CountingPass):
    """Replace the open batch dimension by a number.

    Every size of the graph is a number afterwards, if the batch was the only open one. Some runtimes load nothing else,
    see `Target.batch`.

    Args:
        batch: number of images.

    Raises:
        LampqError: the graph is fixed to another number of images.
    """

    purpose = "fixed number of images"

    def __init__(self, batch: int) -> None:
        super().__init__()
        self._batch = batch

    def apply(self, model: ir.Model) -> int:
        """Run the pass as the class describes."""
        graph, batch = model.graph, self._batch
        image = graph.inputs[0]
        if image.shape is None:
            return 0
        symbol = image.shape[0]
        if isinstance(symbol, int):
            if symbol != batch:
                raise LampqError(
                    f"the graph takes {symbol} images at once, and {batch} are requested",
                    hint="export it with an open batch dimension",
                )
            return 0
        values = [image, *graph.outputs, *(value for node in graph for value in node.outputs)]
        for value in dict.fromkeys(values):
            if value.shape is not None and (value is image or symbol.value is not None):
                value.shape = ir.Shape([batch if d == symbol else d for d in value.shape])
        common_passes.ShapeInferencePass()(model)
        return 1
