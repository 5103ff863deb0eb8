"""Forms that a layer can take in the file, and what each takes of the budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lampq_onnx.allocation.groups import RowCounts
from lampq_onnx.artifacts import LayerSensitivity, Sensitivities
from lampq_onnx.artifacts.plan import FLOAT_BITS
from lampq_onnx.errors import LampqError
from lampq_onnx.quantization.pairs import pair_table_size, pairs_pay
from lampq_onnx.quantization.pools import pool_bytes
from lampq_onnx.targets import Packing, Target

FLOAT_BYTES = 4

LAYER_BYTES = 1050
"""Mean bytes per quantized layer for nodes, names, shapes and its plan entry.

Measured: 980 and 1010 for the digits model at 2 and 5 bits, 1070 and 980 for DeiT-Ti at 4 and 8. The constants below
are added to it; they were measured on both models.
"""

UNPACK_BYTES: Mapping[Packing, Mapping[int, int]] = {
    "exact": {1: 420, 2: 400, 3: 950, 4: 390, 5: 1780, 6: 1280, 7: 755},
    "native": {1: 420, 2: 400, 3: 390, 4: 390},
    "container": {},
}
"""Bytes of the nodes that unpack a layer's weights to int8. Native storage takes 200, and counts as much as exact: a
newer opset is not worth the small difference."""

CLASS_BITS = 3
"""Bits of the number that says the width of an output channel, if those of a layer differ."""

ZERO_POINT_BYTES = 140
"""Bytes of names of zero points, if 8-bit weights are unsigned; each output channel takes one more byte."""

PART_BYTES = 850
"""Bytes of the nodes for queries, keys and values as separate products (`Target.part_products`)."""

TOKENS_BYTES = 185
"""Bytes of the nodes that move the input of queries, keys and values (`Target.tokens_first`): 171 to 180 in a ViT."""

GEMM_BYTES = 240
"""Mean bytes per layer if the integer kernel adds biases (`Target.gemm_bias`)."""

BLOCKED_BYTES = 715
"""Mean bytes per layer whose weights are in blocks (`Target.block`), in place of `LAYER_BYTES`."""

UNPACKED_BYTES = 1100
"""The same for exact storage of blocks, beside `UNPACK_BYTES`."""

HALF_BYTES = 2
"""Bytes of a number of float16."""

USUAL_NAME = 18
"""Characters of a layer's name in the models on which the bytes of nodes were measured."""

BYTES_PER_NAME = 62
"""Bytes of nodes, plan and shapes in which the name of their layer is once: 18 to 36 times for each layer (YOLOS)."""

PAIR_USERS = {4: 1, 2: 2, 1: 2}
"""Field width -> weight widths of at most 4 bits that are stored in such a field."""


@dataclass(frozen=True)
class LayerForm:
    """Widths and storage of one layer; without a storage it stays in float.

    Attributes:
        weight_bits: width of the weights; the widest if output channels differ.
        activation_bits: width of the input.
        storage: storage of the weights.
        rows: output channels of each width; None: all have ``weight_bits``.
    """

    weight_bits: int
    activation_bits: int
    storage: Packing | None
    rows: RowCounts | None = None

    def __str__(self) -> str:
        if self.storage is None:
            return "float"
        if self.rows is not None:
            widths = "/".join(str(bits) for bits, _ in self.rows)
            return f"{widths} weight and {self.activation_bits} activation bits in {self.storage} storage"
        return f"{self.weight_bits} weight and {self.activation_bits} activation bits in {self.storage} storage"


FLOAT_FORM = LayerForm(FLOAT_BITS, FLOAT_BITS, None)


def forms_of(
    target: Target, weights: Sequence[int], activations: Sequence[int], storages: Sequence[Packing], *, same: bool
) -> tuple[LayerForm, ...]:
    """List all forms that the target can run, float last.

    Args:
        target: where the file is meant to run.
        weights: weight widths.
        activations: input widths.
        storages: storages to use.
        same: only forms whose inputs have the width of the weights (the paper's W/A).
    """
    quantized = (
        LayerForm(w, a, storage)
        for storage in storages
        for w in weights
        for a in activations
        if target.kernel(w, a) is not None and (not same or w == a)
    )
    return (*quantized, FLOAT_FORM)


def form_bytes(layer: LayerSensitivity, form: LayerForm, target: Target) -> int:
    """Return the bytes of a layer in the file: weights, scales and its share of the graph."""
    number = HALF_BYTES if target.half else FLOAT_BYTES
    if form.storage is None:
        return number * layer.parameters
    if form.rows is not None:
        return mix_bytes(layer, form.rows, target)
    outputs, inputs = layer.shape
    if target.block is not None:
        scales = outputs * -(-inputs // target.block)
        if form.storage == "exact":
            nodes = with_name(layer, UNPACKED_BYTES + UNPACK_BYTES["exact"].get(form.weight_bits, 0))
            return stored_bytes(layer.parameters, form.weight_bits, "exact") + number * scales + nodes
        # There is no type for fewer bits than 4 in blocks.
        bits = max(form.weight_bits, 4)
        return stored_bytes(layer.parameters, bits, form.storage) + number * scales + with_name(layer, BLOCKED_BYTES)
    # Layers with wide inputs take fewer nodes. They must not look smaller: that would favour the slow kernel.
    nodes = node_bytes(layer, target) + with_name(layer, UNPACK_BYTES[form.storage].get(form.weight_bits, 0))
    if form.weight_bits == 8 and not target.signed_8bit_exact:
        nodes += ZERO_POINT_BYTES + outputs
    return stored_bytes(layer.parameters, form.weight_bits, form.storage) + number * outputs + nodes


def whole_bytes(sensitivities: Sensitivities, float_bytes: int, target: Target) -> int:
    """Return the size of a file for the target with all layers in float.

    Args:
        sensitivities: say how many numbers the float file has.
        float_bytes: size of the float32 file.
        target: where the file is meant to run.
    """
    if not target.half:
        return float_bytes
    numbers = sensitivities.float_numbers or sum(layer.parameters for layer in sensitivities.layers)
    return float_bytes - (FLOAT_BYTES - HALF_BYTES) * numbers


def mix_bytes(layer: LayerSensitivity, rows: RowCounts, target: Target) -> int:
    """Return the bytes of a layer whose output channels differ in width, in exact storage.

    Args:
        layer: its shape counts.
        rows: output channels of each width.
        target: where the file is meant to run.
    """
    outputs, inputs = layer.shape
    stored = sum(stored_bytes(count * inputs, bits, "exact") for bits, count in rows)
    return stored + -(-outputs * CLASS_BITS // 8) + FLOAT_BYTES * outputs + node_bytes(layer, target)


def pools_beside(layers: Sequence[LayerSensitivity], forms: Mapping[str, LayerForm]) -> int:
    """Return the bytes of the nodes that unpack all layers whose output channels differ in width.

    Args:
        layers: the layers.
        forms: layer -> its form.
    """
    mixed = {layer.name: layer.shape for layer in layers if forms[layer.name].rows is not None}
    widths = {bits for name in mixed for bits, _ in forms[name].rows or ()}
    return pool_bytes(mixed, widths)


def node_bytes(layer: LayerSensitivity, target: Target) -> int:
    """Return the bytes of a quantized layer's nodes, without those that unpack its weights."""
    outputs, inputs = layer.shape
    heads = layer.type == "qkv"
    parts = target.part_products and heads and outputs == 3 * inputs
    nodes = PART_BYTES * parts + TOKENS_BYTES * (target.tokens_first and heads)
    return with_name(layer, LAYER_BYTES + GEMM_BYTES * target.gemm_bias + nodes)


def with_name(layer: LayerSensitivity, nodes: int) -> int:
    """Return the bytes of nodes that take ``nodes`` bytes for a layer whose name has a usual length."""
    return nodes + nodes * max(0, len(layer.name) - USUAL_NAME) // BYTES_PER_NAME


def row_bytes(inputs: int, bits: int) -> float:
    """Return the bytes of one output channel at a width, at least, in a layer whose channels differ in width.

    Args:
        inputs: weights of the channel.
        bits: their width.
    """
    return inputs * bits / 8 + CLASS_BITS / 8 + FLOAT_BYTES


def stored_bytes(parameters: int, bits: int, storage: Packing) -> int:
    """Return the bytes of packed integers: exact packs fields of 4, 2 and 1 bits; native has types of 2, 4 and 8."""
    if storage == "exact":
        fields = [width for width in (8, 4, 2, 1) if bits & width]
    elif storage == "native":
        fields = [next(width for width in (2, 4, 8) if bits <= width)]
    else:
        fields = [8]
    return sum(-(-parameters * width // 8) for width in fields)


def pair_table_bytes(parameters: int) -> int:
    """Return the most bytes that tables of byte pairs take in a file with this many weights in its layers."""
    return sum(
        users * pair_table_size(width)
        for width, users in PAIR_USERS.items()
        if pairs_pay(width, parameters * width // 8)
    )


def weight_bits(layer: LayerSensitivity, form: LayerForm) -> int:
    """Return the bits of all weights of a layer; float counts 32 each."""
    if form.rows is None:
        return layer.parameters * form.weight_bits
    return layer.shape[1] * sum(bits * count for bits, count in form.rows)


def multiply_adds(layer: LayerSensitivity) -> int:
    """Return weights times tokens, for one image.

    Raises:
        LampqError: the size of the layer's input is not known.
    """
    if layer.activation_elements is None:
        raise LampqError(
            f"the sensitivities do not say how many numbers the input of layer {layer.name} has",
            hint="measure the sensitivities again",
        )
    return layer.parameters * layer.activation_elements // layer.shape[1]


def timed_multiply_adds(layer: LayerSensitivity) -> int:
    """Return multiply-adds for one image as the time of the quantized file counts them, see `timed_elements`.

    Raises:
        LampqError: see `multiply_adds`.
    """
    if layer.timed_elements is None:
        return multiply_adds(layer)
    return layer.parameters * layer.timed_elements // layer.shape[1]


def bit_operations(layer: LayerSensitivity, form: LayerForm) -> int:
    """Return multiply-adds times weight bits times input bits; float counts 32 bits."""
    if form.rows is None:
        return multiply_adds(layer) * form.weight_bits * form.activation_bits
    per_row = multiply_adds(layer) // layer.shape[0]
    return per_row * sum(bits * count for bits, count in form.rows) * form.activation_bits
