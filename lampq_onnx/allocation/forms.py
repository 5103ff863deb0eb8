"""Forms that a layer can take in the file, and what each takes of the budgets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from lampq_onnx.allocation.groups import RowCounts
from lampq_onnx.allocation.overhead import (
    MIXED,
    UNSIGNED_ROWS,
    block_bytes,
    fields_of,
    node_bytes,
    shared_bytes,
    unpack_bytes,
    zero_point_bytes,
)
from lampq_onnx.artifacts import LayerSensitivity, Sensitivities
from lampq_onnx.artifacts.plan import FLOAT_BITS
from lampq_onnx.errors import LampqError
from lampq_onnx.quantization.pools import pool_bytes
from lampq_onnx.targets import Packing, Target

FLOAT_BYTES = 4

CLASS_BITS = 3
"""Bits of the number that says the width of an output channel, if those of a layer differ."""

HALF_BYTES = 2
"""Bytes of a number of float16."""


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

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths that the output channels of the layer have: one, unless these differ."""
        return (self.weight_bits,) if self.rows is None else tuple(bits for bits, _ in self.rows)

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
        # There is no type for fewer bits than 4 in blocks.
        bits = form.weight_bits if form.storage == "exact" else max(form.weight_bits, 4)
        nodes = block_bytes(layer, form.weight_bits, form.storage)
        return stored_bytes(layer.parameters, bits, form.storage) + number * scales + nodes
    # Layers with wide inputs take fewer nodes. They must not look smaller: that would favour the slow kernel.
    nodes = node_bytes(layer, target) + unpack_bytes(layer, form.weight_bits, form.storage, target)
    nodes += zero_point_bytes(layer, form.weight_bits, form.storage, target)
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
    nodes = node_bytes(layer, target) + MIXED.of(layer)
    if max(bits for bits, _ in rows) == 8 and not target.signed_8bit_exact:
        nodes += UNSIGNED_ROWS.of(layer) + zero_point_bytes(layer, 8, "exact", target)
    return stored + -(-outputs * CLASS_BITS // 8) + FLOAT_BYTES * outputs + nodes


def with_exact_widths(forms: Sequence[LayerForm], widths: Collection[int]) -> tuple[LayerForm, ...]:
    """Return the forms without those in exact storage that have another width than ``widths``."""
    return tuple(form for form in forms if form.storage != "exact" or form.weight_bits in widths)


def beside_layers(layers: Sequence[LayerSensitivity], forms: Mapping[str, LayerForm], target: Target) -> int:
    """Return the most bytes that a file takes beside its layers: metadata, and what layers share to unpack weights.

    Args:
        layers: the layers.
        forms: layer -> its form.
        target: where the file is meant to run.
    """
    exact, weights = dict[int, list[LayerSensitivity]](), Counter[int]()
    for layer in layers:
        form = forms[layer.name]
        if form.rows is not None:
            weights.update({bits: count * layer.shape[1] for bits, count in form.rows})
        elif form.storage == "exact":
            exact.setdefault(form.weight_bits, []).append(layer)
            weights[form.weight_bits] += layer.parameters
    quantized = [layer for layer in layers if forms[layer.name].storage is not None]
    return shared_bytes(quantized, exact, weights, target) + pools_beside(layers, forms)


def most_beside(layers: Sequence[LayerSensitivity], forms: Sequence[LayerForm], target: Target) -> int:
    """Return the most bytes that a file takes beside its layers, whichever forms these have; without pools.

    Args:
        layers: the layers.
        forms: forms to choose from.
        target: where the file is meant to run.
    """
    widths = {form.weight_bits for form in forms if form.storage == "exact"}
    total = sum(layer.parameters for layer in layers)
    return shared_bytes(layers, dict.fromkeys(widths, layers), dict.fromkeys(widths, total), target)


def pools_beside(layers: Sequence[LayerSensitivity], forms: Mapping[str, LayerForm]) -> int:
    """Return the bytes of the nodes that unpack all layers whose output channels differ in width.

    Args:
        layers: the layers.
        forms: layer -> its form.
    """
    mixed = {layer.name: layer.shape for layer in layers if forms[layer.name].rows is not None}
    widths = {bits for name in mixed for bits, _ in forms[name].rows or ()}
    return pool_bytes(mixed, widths)


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
        fields = fields_of(bits)
    elif storage == "native":
        fields = (next(width for width in (2, 4, 8) if bits <= width),)
    else:
        fields = (8,)
    return sum(-(-parameters * width // 8) for width in fields)


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
