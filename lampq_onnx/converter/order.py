"""The passes of a conversion in their order, with the reason for each place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from lampq_onnx.converter.opset import RaiseOpset
from lampq_onnx.converter.passes import (
    BiasInGemm,
    FoldShapes,
    GemmToMatMul,
    PatchEmbedToMatMul,
    ProductPerPart,
    QuantizeActivations,
    QuantizeWeights,
    RemoveMoves,
    ReplaceBias,
    SelectEarly,
    SplitUnbind,
)
from lampq_onnx.graph.edits import CountingPass
from lampq_onnx.graph.parameters import Parameters
from lampq_onnx.graph.steps import Step
from lampq_onnx.targets import Packing, Target


def graph_steps() -> list[Step]:
    """Passes that make a float graph faster and leave its function as it is."""
    return [
        Step(FoldShapes(), "first: the passes behind it read shapes, and compare them"),
        Step(RemoveMoves(), "behind FoldShapes, which tells the Reshapes that change nothing"),
        Step(SplitUnbind(), "behind RemoveMoves: a Transpose between a tensor and its parts hides them"),
        Step(SelectEarly(), "last of these: it stops at what moves data, of which the least is left here"),
    ]


def default_graph_passes() -> list[CountingPass]:
    """The passes of `graph_steps` alone."""
    return [step.action for step in graph_steps() if isinstance(step.action, CountingPass)]


def quantizing_steps(parameters: Parameters, target: Target, packer: QuantizeWeights) -> list[Step]:
    """Passes that write the numbers of the layers into the graph.

    Args:
        parameters: layer -> its numbers.
        target: decides the form of the layers.
        packer: the pass that writes the weights, which keeps how they are stored.
    """
    facts = {name: numbers.facts for name, numbers in parameters.items()}
    return [
        Step(ReplaceBias(parameters), "before layers change their form: the bias is where the float graph has it"),
        Step(PatchEmbedToMatMul(facts), "before the input is quantized: QuantizeLinear goes in front of its moves"),
        Step(GemmToMatMul(parameters), "before the input is quantized, for the same reason"),
        Step(QuantizeActivations(parameters, signed=target.symmetric), "layers have their final inputs now"),
        Step(packer, "behind all passes that read the float weights"),
        Step(ProductPerPart(facts, target), "behind the weights: it cuts their scales"),
        Step(BiasInGemm(facts, target), "last: the other passes know a layer as a MatMul with an Add"),
    ]


def closing_steps() -> list[Step]:
    """Passes that tidy up a graph."""
    return [
        Step(common_passes.RemoveUnusedNodesPass(), "the float weights and biases have no readers any more"),
        Step(common_passes.TopologicalSortPass(), "shared unpacking may stand behind its first reader"),
    ]


def conversion_steps(
    parameters: Parameters,
    target: Target,
    packing: Packing,
    storages: Mapping[str, Packing],
    graph: Sequence[ir.passes.PassBase] | None = None,
) -> tuple[list[Step], QuantizeWeights]:
    """The passes of a conversion in order but for `closing_steps`, and the one that writes the weights.

    Args:
        parameters: layer -> its numbers.
        packing: storage of the layers that ``storages`` does not name.
        storages: layer -> storage.
        graph: in the place of `graph_steps`.
    """
    packer = QuantizeWeights(parameters, packing, target, storages)
    own = graph_steps() if graph is None else [Step(step, "given by the caller") for step in graph]
    opset = Step(
        RaiseOpset(parameters, packing, storages, target),
        "first of all: onnx's own converter, which may do it, writes the whole graph anew",
    )
    return [opset, *own, *quantizing_steps(parameters, target, packer)], packer
