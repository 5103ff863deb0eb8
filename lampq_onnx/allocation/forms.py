"""Forms that a unit can take in the file, and what they take of each budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lampq_onnx.artifacts import UnitSensitivity
from lampq_onnx.artifacts.plan import FLOAT_BITS
from lampq_onnx.errors import LampqError
from lampq_onnx.quantization.pairs import pair_table_size, pairs_pay
from lampq_onnx.targets import Packing, Target

FLOAT_BYTES = 4

LAYER_BYTES = 1050
"""Nodes, names, shapes and the plan's entry of a quantized layer, in the mean of all layers. Measured: 980 and 1010 for
the digits model at 2 and 5 bits, 1070 and 980 for DeiT-Ti at 4 and 8; what follows comes on top, measured for both."""

UNPACK_BYTES: Mapping[Packing, Mapping[int, int]] = {
    "exact": {1: 420, 2: 400, 3: 950, 4: 390, 5: 1780, 6: 1280, 7: 755},
    "native": {1: 420, 2: 400, 3: 390, 4: 390},
    "container": {},
}
"""Nodes that bring a layer's weights back to int8. Those of native storage take 200, and count as much as exact's: a
newer opset is not worth the difference."""

ZERO_POINT_BYTES = 140
"""Names of zero points, where 8-bit weights are unsigned; one more byte for each output channel holds them."""

PART_BYTES = 850
"""Nodes of queries, keys and values that are products of their own (`Target.part_products`)."""

GEMM_BYTES = 240
"""What a layer takes where the integer kernel adds biases (`Target.gemm_bias`), in the mean of all layers."""

PAIR_USERS = {4: 1, 2: 2, 1: 2}
"""Field width -> widths of at most 4 bits that have such a field."""


@dataclass(frozen=True)
class LayerForm:
    """Widths and storage of one unit; without a storage it stays in float."""

    weight_bits: int
    activation_bits: int
    storage: Packing | None

    def __str__(self) -> str:
        if self.storage is None:
            return "float"
        return f"{self.weight_bits} weight and {self.activation_bits} activation bits in {self.storage} storage"


FLOAT_FORM = LayerForm(FLOAT_BITS, FLOAT_BITS, None)


def forms_of(
    target: Target, weights: Sequence[int], activations: Sequence[int], storages: Sequence[Packing], *, same: bool
) -> tuple[LayerForm, ...]:
    """All forms that the target can run, float last.

    Args:
        same: only those whose inputs have the width of the weights (the paper's W/A).
    """
    quantized = (
        LayerForm(w, a, storage)
        for storage in storages
        for w in weights
        for a in activations
        if target.kernel(w, a) is not None and (not same or w == a)
    )
    return (*quantized, FLOAT_FORM)


def form_bytes(unit: UnitSensitivity, form: LayerForm, target: Target) -> int:
    """Bytes that a unit's weights take in the file, scales and the layer's share of the graph included."""
    if form.storage is None:
        return FLOAT_BYTES * unit.parameters
    outputs, inputs = unit.shape[0], unit.shape[1]
    # Layers with wide inputs take fewer nodes, and must not look smaller: that would choose the slow kernel.
    nodes = LAYER_BYTES + UNPACK_BYTES[form.storage].get(form.weight_bits, 0) + GEMM_BYTES * target.gemm_bias
    if target.part_products and unit.type == "qkv" and outputs == 3 * inputs:
        nodes += PART_BYTES
    if form.weight_bits == 8 and not target.signed_8bit_exact:
        nodes += ZERO_POINT_BYTES + outputs
    return stored_bytes(unit.parameters, form.weight_bits, form.storage) + FLOAT_BYTES * outputs + nodes


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


def bit_operations(unit: UnitSensitivity, form: LayerForm) -> int:
    """Multiply-adds times weight bits times input bits; 32 for float."""
    return multiply_adds(unit) * form.weight_bits * form.activation_bits
