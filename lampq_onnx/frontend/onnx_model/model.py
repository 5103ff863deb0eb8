"""Builds a PyTorch module that computes the function of an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch

from lampq_onnx.artifacts.task import BOXES
from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.onnx_model.blocks import Span, find_blocks
from lampq_onnx.frontend.onnx_model.build import layers_of, steps_of
from lampq_onnx.frontend.onnx_model.dependence import BATCHES, Dependence, Folded, dependence_of, fold
from lampq_onnx.frontend.onnx_model.graph import BatchAxis, Graph, Step
from lampq_onnx.frontend.onnx_model.operators import WITHOUT_GRADIENT
from lampq_onnx.frontend.shared.outputs import Joining, join
from lampq_onnx.graph.layers import GraphLayer


class OnnxModel(Graph, Joining):
    """Takes float32 (n, c, h, w) and returns the graph's output, or a tuple of outputs in the file's order.

    Attributes:
        transformer_blocks: names of the submodules that are transformer blocks, in order; the last argument of each is
            the result of the part before it.
        joined: whether several outputs are returned as one, see `join`.
        structure: text that differs between graphs with different computations.
    """

    joined: bool = False
    transformer_blocks: tuple[str, ...] = ()
    structure: str = ""

    @property
    def has_queries(self) -> bool:
        """Whether the rows of the outputs are queries of a detector."""
        return BOXES in self.outputs

    def forward(self, *arguments: torch.Tensor) -> Any:
        """Compute the outputs; see `Graph.forward`."""
        found = super().forward(*arguments)
        return join(found) if self.joined and isinstance(found, tuple) else found


@dataclass(frozen=True)
class Built:
    """A module and its relation to the nodes of the graph.

    Attributes:
        model: the module in evaluation mode, without gradients for parameters.
        layers: node -> Linear, Conv2d or LayerNorm inside the model, for nodes that depend on the images.
        depth: node of a layer -> index of its block.
        folded: values that the graph computes independently of the images; see `fold`.
    """

    model: OnnxModel
    layers: Mapping[ir.Node, torch.nn.Module]
    depth: Mapping[ir.Node, int]
    folded: Folded


def build(graph: ir.Graph, graph_layers: Sequence[GraphLayer], shape: tuple[int, int, int]) -> Built:
    """Build a module for a float32 graph with one image input.

    Args:
        graph: the graph, without subgraphs and functions.
        layers: its layers.
        shape: (channels, height, width) of an image.

    Raises:
        LampqError: an operator has no PyTorch counterpart, or has no gradient although one is needed.
    """
    layers = layers_of(graph, graph_layers)
    steps, constants, modules = steps_of(graph, layers)
    image = graph.inputs[0].name or ""
    outputs = [value.name or "" for value in graph.outputs]
    seen = dependence_of(steps, constants, modules, image, shape)
    blind = [name for name in outputs if name not in seen.dependent]
    if blind:
        raise LampqError(f"the output {blind[0]} does not depend on the images")
    folded = fold(steps, constants, seen, outputs)
    called = {step.call for step in folded.steps if isinstance(step.call, str)}
    names = {modules[name]: name for name in modules if name in called}
    kinds = {
        names[layers.modules[layer.node]]: layer.type
        for layer in graph_layers
        if layers.modules.get(layer.node) in names
    }
    _require_gradients(folded.steps, outputs, kinds)
    types = {i: kinds[step.call] for i, step in enumerate(folded.steps) if step.call in kinds}
    model, depth = _assemble(folded, modules, image, outputs, seen, types)
    model.structure = repr([(step.operator, step.inputs, step.outputs) for step in folded.steps])
    node_of = {module: node for node, module in layers.modules.items()}
    return Built(
        model.eval().requires_grad_(False),
        {node_of[module]: module for module in names},
        {node_of[modules[name]]: index for name, index in depth.items()},
        folded,
    )


def _assemble(
    folded: Folded,
    modules: Mapping[str, torch.nn.Module],
    image: str,
    outputs: Sequence[str],
    seen: Dependence,
    types: Mapping[int, str],
) -> tuple[OnnxModel, dict[str, int]]:
    """The model, and layer name -> index of its block for the layers in blocks."""
    # Steps that do not depend on the images run first, so that they never separate blocks.
    free = [step for step in folded.steps if step.outputs[0] in folded.expanded]
    early = {id(step) for step in free}
    order = [(i, step) for i, step in enumerate(folded.steps) if id(step) not in early]
    steps = [step for _, step in order]
    kinds = {position: types[i] for position, (i, _) in enumerate(order) if i in types}
    spans = [
        (span, axis)
        for span in find_blocks(steps, image, folded.expanded, kinds, outputs)
        if (axis := _batch_axis(seen, span.source)) is not None
    ]
    outer: list[Step] = list(free)
    blocks: dict[str, Graph] = {}
    depth: dict[str, int] = {}
    position = 0
    for span, axis in spans:
        outer += steps[position : span.start]
        name = f"block{len(blocks)}"
        inner = steps[span.start : span.stop]
        extra = _outside(inner, span, folded)
        block = Graph(inner, (*extra, span.source), (span.result,), folded.constants, folded.shapes, axis)
        _adopt(block, modules)
        depth |= {step.call: len(blocks) for step in inner if isinstance(step.call, str)}
        blocks[name] = block
        outer.append(Step(name, "block", block.inputs, block.outputs, name))
        position = span.stop
    outer += steps[position:]
    model = OnnxModel(outer, (image,), outputs, folded.constants, folded.shapes, BatchAxis())
    _adopt(model, {**modules, **blocks})
    model.transformer_blocks = tuple(blocks)
    return model, depth


def _adopt(graph: Graph, modules: Mapping[str, torch.nn.Module]) -> None:
    for step in graph.steps:
        if isinstance(step.call, str):
            graph.add_module(step.call, modules[step.call])


def _outside(inner: Sequence[Step], span: Span, folded: Folded) -> list[str]:
    """Values that a block reads besides its source, its constants and its own results."""
    own = {name for step in inner for name in step.outputs}
    own |= {span.source, "", *folded.constants, *folded.shapes}
    return list(dict.fromkeys(name for step in inner for name in step.inputs if name not in own))


def _batch_axis(seen: Dependence, name: str) -> BatchAxis | None:
    """The first axis whose size is a multiple of the batch size at both of `BATCHES`."""
    low, high = (sizes[name] for sizes in seen.sizes)
    for axis, (small, large) in enumerate(zip(low, high, strict=True)):
        if small * BATCHES[1] == large * BATCHES[0]:
            return BatchAxis(axis, small // BATCHES[0])
    return None


def _require_gradients(steps: Sequence[Step], outputs: Sequence[str], layers: Mapping[str, str]) -> None:
    """Check that gradients can flow back from the outputs to every layer.

    Raises:
        LampqError: names the first node that blocks them.
    """
    wanted = set(outputs)
    for step in reversed(steps):
        if any(name in wanted for name in step.outputs):
            wanted.update(step.inputs)
    behind: dict[str, str] = {}
    for step in steps:
        source = next((behind[name] for name in step.inputs if name in behind), None)
        if step.call in layers:
            source = step.node
        elif source is not None and step.operator in WITHOUT_GRADIENT and wanted.intersection(step.outputs):
            raise LampqError(
                f"node {step.node} ({step.operator}) has no useful derivative and stands between layer {source} and "
                "the output, so the layer's sensitivity cannot be measured",
                hint="export the model without it, for instance without its rounding or decoding of outputs",
            )
        if source is not None:
            behind |= dict.fromkeys(step.outputs, source)
