"""Forms that a unit can take in the file, and what they take of each budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lampq_onnx.artifacts import UnitSensitivity
from lampq_onnx.artifacts.plan import FLOAT_BITS
from lampq_onnx.errors import LampqError
from lampq_onnx.pairs import pair_table_size, pairs_pay
from lampq_onnx.targets import Packing, Target

FLOAT_BYTES = 4

LAYER_BYTES = 1500
"""Nodes, names, shapes and the plan's entry of a quantized layer. Measured: 1470 for the digits model; for DeiT-Ti, all
layers at one width in exact storage, 1790, 1230, 2470, 1770 and 1530 at 3 to 7 bits."""

BLOCK_BYTES = {3: 300, 5: 1000, 6: 300}
"""What more nodes take in exact storage whose bytes lie in several blocks."""

PART_BYTES = 200
"""What more layers take where queries, keys and values are products of their own (`Target.part_products`). Measured, in
the mean of all layers: 180 for DeiT-Ti."""

GEMM_BYTES = 250
"""What more layers take where the integer kernel adds biases (`Target.gemm_bias`), of those parts as well. Measured, in
the mean of all layers: 240 for DeiT-Ti."""

PAIR_USERS = {4: 1, 2: 2, 1: 2}
"""Field width -> widths of at most 4 bits that have such a field."""


@dataclass(frozen=True)
class Form:
    """Widths and storage of one unit; without a storage it stays in float."""

    weight_bits: int
    activation_bits: int
    storage: Packing | None

    def __str__(self) -> str:
        if self.storage is None:
            return "float"
        return f"{self.weight_bits} weight and {self.activation_bits} activation bits in {self.storage} storage"


FLOAT_FORM = Form(FLOAT_BITS, FLOAT_BITS, None)


def forms_of(
    target: Target, weights: Sequence[int], activations: Sequence[int], storages: Sequence[Packing], *, same: bool
) -> tuple[Form, ...]:
    """All forms that the target can run, float last.

    Args:
        same: only those whose inputs have the width of the weights (the paper's W/A).
    """
    quantized = (
        Form(w, a, storage)
        for storage in storages
        for w in weights
        for a in activations
        if target.kernel(w, a) is not None and (not same or w == a)
    )
    return (*quantized, FLOAT_FORM)


def form_bytes(unit: UnitSensitivity, form: Form, target: Target) -> int:
    """Bytes that a unit's weights take in the file, scales and the layer's share of the graph included."""
    if form.storage is None:
        return FLOAT_BYTES * unit.parameters
    nodes = LAYER_BYTES + (BLOCK_BYTES.get(form.weight_bits, 0) if form.storage == "exact" else 0)
    # Layers with wide inputs take fewer nodes, and must not look smaller: that would choose the slow kernel.
    nodes += PART_BYTES * target.part_products + GEMM_BYTES * target.gemm_bias
    return stored_bytes(unit.parameters, form.weight_bits, form.storage) + FLOAT_BYTES * unit.shape[0] + nodes


def stored_bytes(parameters: int, bits: int, storage: Packing) -> int:
    """Bytes of packed integers: exact packs fields of 4, 2 and 1 bits, native has types of 2, 4 and 8."""
    if storage == "exact":
        fields = [width for width in (8, 4, 2, 1) if bits & width]
    elif storage == "native":
        fields = [next(width for width in (2, 4, 8) if bits <= width)]
    else:
        fields = [8]
    return sum(-(-parameters * width // 8) for width in fields)


def pair_table_bytes(parameters: int) -> int:
    """The most that tables of byte pairs take in a file whose units have so many weights in all."""
    return sum(
        users * pair_table_size(width)
        for width, users in PAIR_USERS.items()
        if pairs_pay(width, parameters * width // 8)
    )


def multiply_adds(unit: UnitSensitivity) -> int:
    """Weights times tokens, for one image.

    Raises:
        LampqError: the size of the unit's input is not known.
    """
    if unit.activation_elements is None:
        raise LampqError(
            f"the sensitivities do not say how many numbers the input of unit {unit.name} has",
            hint="measure the sensitivities again",
        )
    return unit.parameters * unit.activation_elements // unit.shape[1]


def bit_operations(unit: UnitSensitivity, form: Form) -> int:
    """Multiply-adds times weight bits times input bits; 32 for float."""
    return multiply_adds(unit) * form.weight_bits * form.activation_bits
