"""Which layers of a model are quantized, and why the others are not; known before anything is measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from lampq_onnx.artifacts.not_done import NotDone

PRODUCTS = ("MatMul", "Attention", "Einsum", "MultiHeadAttention")
"""Operators that multiply activations with each other if none of their operands is constant."""

REASONS = {
    "products of activations": "they hold no weights, and attention keeps its accuracy in float",
    "normalizations, softmax and activation functions": "they hold no matrices, and rounding would hurt them most",
}

_ELEMENTWISE = frozenset(
    [
        *("LayerNormalization", "RMSNormalization", "GroupNormalization", "BatchNormalization", "Softmax"),
        *("Gelu", "Erf", "Relu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Swish"),
    ]
)


@dataclass(frozen=True)
class RecognizedLayer:
    """A layer that gets a width.

    Attributes:
        name: layer name.
        type: layer type, e.g. qkv.
        shape: (outputs, inputs) of its weight as a matrix.
        fixed: whether it is outside the budget.
    """

    name: str
    type: str
    shape: tuple[int, int]
    fixed: bool

    @property
    def parameters(self) -> int:
        """Number of weights of the layer."""
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class PlannedStage:
    """A stage that a run will have.

    Attributes:
        name: what is done.
        seconds: about how long it takes on this machine.
    """

    name: str
    seconds: float


@dataclass(frozen=True)
class Recognition:
    """What was recognized in a model.

    Attributes:
        model: name of the model.
        preprocessing: its preprocessing, as text.
        layers: layers with widths, in order.
        skipped: layers that stay in float -> reason.
        elsewhere: other operators that stay in float -> number of operators; `REASONS` says why.
        blocks: number of transformer blocks that can be computed alone.
        changes: what was done to bring a file into normal form -> how often.
        not_done: changes of a file that were not made although a place for them was found, with the reason.
        parity: relative difference between a file's outputs in PyTorch and in onnxruntime; None for other models.
        task: meaning of its outputs.
        why: why this task, if nothing shows it; empty otherwise.
        outputs: the outputs that are scored, and the task of each if there are several.
        links: number of places where input channels can be equalized; None: they are not equalized.
        stages: stages that measure and round, in their order; empty: not asked for.
        peak_bytes: about how much memory they need; None: not asked for.
    """

    model: str
    preprocessing: str
    layers: tuple[RecognizedLayer, ...]
    skipped: Mapping[str, str]
    elsewhere: Mapping[str, int]
    blocks: int
    changes: Mapping[str, int]
    not_done: tuple[NotDone, ...]
    parity: float | None
    task: str
    why: str
    outputs: Mapping[str, str]
    links: int | None
    stages: tuple[PlannedStage, ...] = ()
    peak_bytes: float | None = None


def float_operators(model: ir.Model) -> dict[str, int]:
    """Count the operators that stay in float, by kind."""
    counts: Counter[str] = Counter()
    products, rest = REASONS
    for node in model.graph:
        if node.op_type in PRODUCTS and not any(v is not None and v.const_value is not None for v in node.inputs[:2]):
            counts[products] += 2 if "Attention" in node.op_type else 1
        elif node.op_type in _ELEMENTWISE:
            counts[rest] += 1
    return dict(counts)
