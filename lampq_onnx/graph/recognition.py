"""What of a model is quantized, and why the rest is not: known before anything is measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

PRODUCTS = ("MatMul", "Attention", "Einsum", "MultiHeadAttention")
"""Operators that multiply activations with each other where none of their operands is constant."""

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
        shape: (outputs, inputs) of its weight as a matrix.
        fixed: outside the budget.
    """

    name: str
    type: str
    shape: tuple[int, int]
    fixed: bool

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class Recognition:
    """Layers of a model.

    Attributes:
        model: its name.
        preprocessing: for people.
        units: layers with widths, in order.
        skipped: layers that stay in float -> why.
        elsewhere: what else is computed in float -> number of operators; `REASONS` says why.
        blocks: transformer blocks that can be computed on their own.
        changes: what was done to a file to bring it into normal form -> how often.
        parity: relative difference between a file's outputs in PyTorch and in onnxruntime; None for other models.
        task: what its outputs mean.
        links: places where input channels can be equalized; None: they are not equalized.
    """

    model: str
    preprocessing: str
    units: tuple[RecognizedLayer, ...]
    skipped: Mapping[str, str]
    elsewhere: Mapping[str, int]
    blocks: int
    changes: Mapping[str, int]
    parity: float | None
    task: str
    links: int | None


def float_operators(model: ir.Model) -> dict[str, int]:
    """Number of the operators that stay in float, by kind."""
    counts: Counter[str] = Counter()
    products, rest = REASONS
    for node in model.graph:
        if node.op_type in PRODUCTS and not any(v is not None and v.const_value is not None for v in node.inputs[:2]):
            counts[products] += 2 if "Attention" in node.op_type else 1
        elif node.op_type in _ELEMENTWISE:
            counts[rest] += 1
    return dict(counts)
