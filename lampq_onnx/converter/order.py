"""The passes of a conversion in their order, with the reason for each place."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from lampq_onnx.converter.opset import RaiseOpset
from lampq_onnx.converter.passes import (
    BiasInGemm,
    FixBatch,
    FoldShapes,
    GemmToMatMul,
    OneAttention,
    PatchEmbedToMatMul,
    ProductPerPart,
    QuantizeActivations,
    QuantizeProducts,
    QuantizeWeights,
    RemoveMoves,
    ReplaceBias,
    SelectEarly,
    SplitUnbind,
    StayInRows,
    ToFloat16,
    TokensFirst,
)
from lampq_onnx.graph.edits import CountingPass
from lampq_onnx.graph.parameters import Parameters
from lampq_onnx.graph.steps import Step
from lampq_onnx.targets import Packing, Target


def graph_steps() -> list[Step]:
    """List the passes that make a float graph faster without changing its function."""
    return [
        Step(FoldShapes(), "first: later passes read and compare shapes"),
        Step(RemoveMoves(), "after FoldShapes, which shows the Reshapes that change nothing"),
        Step(SplitUnbind(), "after RemoveMoves: a Transpose between a tensor and its parts hides them"),
        Step(SelectEarly(), "last of these: it stops at nodes that move data, and the fewest are left here"),
    ]


def default_graph_passes() -> list[CountingPass]:
    """Return the passes of `graph_steps` without their reasons."""
    return [step.action for step in graph_steps() if isinstance(step.action, CountingPass)]


def quantizing_steps(
    parameters: Parameters,
    target: Target,
    packer: QuantizeWeights,
    wide: Collection[str] = (),
    *,
    one_attention: bool = False,
) -> list[Step]:
    """List the passes that write the quantization parameters of the layers into the graph.

    Args:
        parameters: layer -> its quantization parameters.
        target: decides the form of the layers.
        packer: the pass that writes the weights; it remembers how they are stored.
        wide: tensors that stay in float32, see `ToFloat16`.
        one_attention: see `OneAttention`.
    """
    half = [Step(ToFloat16(wide), "last: the other passes compute and compare float32 constants")]
    products = [
        Step(
            QuantizeProducts(parameters, signed=target.symmetric),
            "before passes that cut products: their parts are not quantized one by one",
        )
    ]
    facts = {name: numbers.facts for name, numbers in parameters.items()}
    return [
        Step(ReplaceBias(parameters), "before layers change their form: the bias is where the float graph has it"),
        Step(
            PatchEmbedToMatMul(facts, floats=target.block is not None),
            "before the input is quantized: QuantizeLinear goes behind its moves",
        ),
        Step(GemmToMatMul(parameters), "before the input is quantized: its Unsqueeze stands before QuantizeLinear"),
        Step(
            QuantizeActivations(parameters, signed=target.symmetric),
            "layers have their final inputs now",
        ),
        Step(packer, "after all passes that read the float weights"),
        *(products if target.output_ranges else []),
        Step(ProductPerPart(facts, target), "after the weights are written: it cuts their scales"),
        Step(BiasInGemm(facts, target), "late: the passes before recognize a layer as a MatMul with an Add"),
        Step(OneAttention(wanted=one_attention, wide=wide), "queries, keys and values have their final products now"),
        Step(StayInRows(target), "it follows the rows that Gemms read and write"),
        Step(TokensFirst(facts, target), "after StayInRows, which takes the rows of two values for the same"),
        *(half if target.half else []),
    ]


def closing_steps() -> list[Step]:
    """List the passes that clean up a graph."""
    return [
        Step(common_passes.RemoveUnusedNodesPass(), "the float weights and biases are no longer read"),
        Step(common_passes.TopologicalSortPass(), "shared unpacking may stand after its first reader"),
    ]


def conversion_steps(
    parameters: Parameters,
    target: Target,
    packing: Packing,
    storages: Mapping[str, Packing],
    graph: Sequence[ir.passes.PassBase] | None = None,
    batch: int | None = None,
    wide: Collection[str] = (),
    *,
    one_attention: bool = False,
) -> tuple[list[Step], QuantizeWeights]:
    """List the passes of a conversion in order, without `closing_steps`, and return the pass that writes the weights.

    Args:
        parameters: layer -> its quantization parameters.
        target: where the file is meant to run.
        packing: storage of the layers that ``storages`` does not name.
        storages: layer -> storage.
        graph: passes to use instead of `graph_steps`.
        batch: number of images that the file takes at once; None: any.
        wide: see `quantizing_steps`.
        one_attention: see `OneAttention`.
    """
    packer = QuantizeWeights(parameters, packing, target, storages)
    own = graph_steps() if graph is None else [Step(step, "given by the caller") for step in graph]
    opset = Step(
        RaiseOpset(parameters, packing, storages, target, one_attention=one_attention),
        "first of all: the version converter of onnx, which may do it, rewrites the whole graph",
    )
    fixed = [] if batch is None else [Step(FixBatch(batch), "before FoldShapes, which then sees only numbers")]
    quantizing = quantizing_steps(parameters, target, packer, wide, one_attention=one_attention)
    return [opset, *fixed, *own, *quantizing], packer
