"""What a file takes of each budget, and the checks for budgets that are too small or have no effect."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NoReturn

import numpy as np

from lampq_onnx.allocation.choices import BoolArray, Budget
from lampq_onnx.allocation.forms import (
    FLOAT_FORM,
    LayerForm,
    beside_layers,
    bit_operations,
    form_bytes,
    most_beside,
    row_bytes,
    weight_bits,
    whole_bytes,
    with_exact_widths,
)
from lampq_onnx.allocation.limits import Limits
from lampq_onnx.allocation.metrics import budgeted_layers
from lampq_onnx.allocation.overhead import node_bytes
from lampq_onnx.allocation.problem import WEIGHT_BUDGET, capacity_of
from lampq_onnx.artifacts import LayerSensitivity, Sensitivities
from lampq_onnx.artifacts.latency import LatencyTable
from lampq_onnx.artifacts.plan import FLOAT_BITS
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.targets import Target

_NANOSECONDS = 1e6
"""Nanoseconds per millisecond: latencies are whole numbers in the program."""

_SIZE_MARGIN = 0.005
"""Share of a size limit that is kept free: graphs differ in the bytes of a layer's nodes and names."""

_MOST = 2**62
"""Largest amount of a budget: the program counts in 64 bits."""

_MEGABYTE = 10**6
_GIGA = 10**9


@dataclass(frozen=True)
class Resource:
    """One quantity that a file consumes and a limit bounds.

    Attributes:
        name: name for messages, with the unit.
        amount: what a layer takes in a form, a whole number.
        by_row: what one output channel takes at least in a form, if the channels of the layer differ in width.
        by_mix: what such a layer takes at least beside its channels.
        rest: what the file takes beside the layers in the budget.
        limit: the maximum, on the same scale.
        scale: messages divide by it.
        thing: what is smallest or largest, for messages, e.g. "file".
        symbol: unit of a value divided by ``scale``.
        floor: the part that no choice of widths changes.
        margin: share of the limit that is kept free.
        beside: the part of ``rest`` that is not taken if the layers in the budget stay in float.
    """

    name: str
    amount: Callable[[LayerSensitivity, LayerForm], int]
    by_row: Callable[[LayerSensitivity, LayerForm], float]
    by_mix: Callable[[LayerSensitivity, LayerForm], float]
    rest: int
    limit: int
    scale: int
    thing: str
    symbol: str
    floor: int = 0
    margin: float = 0.0
    beside: int = 0

    def budget(self, layers: Sequence[LayerSensitivity], forms: Sequence[LayerForm]) -> Budget:
        """Return this resource as a budget of the integer program."""
        table = np.array([[self.amount(layer, form) for form in forms] for layer in layers], dtype=np.int64)
        rest = self.rest + int(self.limit * self.margin)
        return Budget(self.name, table, min(self.limit - rest, _MOST), self.scale, rest)

    def at_least(self, amount: int) -> str:
        """Format the smallest limit that ``amount`` keeps, as a user would type it."""
        return f"{_rounded(amount / (1 - self.margin) / self.scale, math.ceil)} {self.symbol}"

    def at_most(self, amount: int) -> str:
        """Format the largest limit that ``amount`` may exceed, rounded down."""
        return f"{_rounded(amount / (1 - self.margin) / self.scale, math.floor)} {self.symbol}"

    def in_float(self, layers: Sequence[LayerSensitivity]) -> int:
        """Return what is taken if all of ``layers`` stay in float."""
        return self.rest - self.beside + sum(self.amount(layer, FLOAT_FORM) for layer in layers)

    def slack(self, layers: Sequence[LayerSensitivity]) -> bool:
        """Whether the limit is kept if all of ``layers`` stay in float."""
        return self.in_float(layers) <= self.limit * (1 - self.margin)


def _rounded(value: float, towards: Callable[[float], int]) -> str:
    """Round to three decimals, or to more if the value would have fewer than four digits."""
    decimals = max(3, 3 - math.floor(math.log10(value))) if value > 0 else 3
    return f"{towards(round(value * 10**decimals, 6)) / 10**decimals:.{decimals}f}"


def require_reachable(
    resource: Resource,
    layers: Sequence[LayerSensitivity],
    forms: Sequence[LayerForm],
    possible: BoolArray | None = None,
) -> None:
    """Refuse a limit that no choice of forms keeps.

    Args:
        possible: (n, k) whether a layer has a form; None: every layer has every form.

    Raises:
        LampqError: names the smallest limit that could be kept.
    """
    budget = resource.budget(layers, forms)
    least = _least(budget, possible)
    if least <= budget.capacity:
        return
    fixed = f"{resource.floor / resource.scale:.3f} {resource.symbol}"
    floor = f"; {fixed} of it cannot be quantized" if resource.floor else ""
    raise LampqError(
        f"a budget of {resource.limit / resource.scale:.6g} {resource.name} cannot be met. The smallest possible "
        f"{resource.thing} is {resource.at_least(resource.rest + least)}{floor}.",
        hint="raise this budget, or add smaller candidates",
    )


def _least(budget: Budget, possible: BoolArray | None = None) -> int:
    """Return the least that all layers take of a budget."""
    table = budget.weights if possible is None else np.where(possible, budget.weights, np.iinfo(np.int64).max)
    return int(table.min(axis=1).sum())


def affordable(
    forms: Sequence[LayerForm],
    sensitivities: Sensitivities,
    limits: Limits,
    fixed: Mapping[str, LayerForm],
    target: Target,
    table: LatencyTable | None,
    float_bytes: int | None,
) -> tuple[LayerForm, ...]:
    """Leave out widths if what all of them share in the file, such as tables, leaves no room for the layers.

    Args:
        forms: forms to choose from.
        sensitivities, limits, fixed, target, table, float_bytes: see `resources_of`.

    Returns:
        the forms; if no file could hold all widths, the cheapest width and those that fit beside it.

    Raises:
        UsageError: see `resources_of`.
    """
    if limits.max_bytes is None:
        return tuple(forms)
    layers, size = budgeted_layers(sensitivities), Limits(max_bytes=limits.max_bytes)

    def lacking(widths: Collection[int]) -> int:
        """Bytes that the smallest file with these widths takes beyond the limit."""
        kept = with_exact_widths(forms, widths)
        (resource,) = resources_of(sensitivities, kept, size, fixed, target, table, float_bytes)
        budget = resource.budget(layers, kept)
        return _least(budget) - budget.capacity

    widths = sorted({form.weight_bits for form in forms if form.storage == "exact"})
    if len(widths) < 2 or not layers or lacking(widths) <= 0:
        return tuple(forms)
    found = {min(widths, key=lambda bits: lacking({bits}))}
    for bits in widths:
        if lacking({*found, bits}) <= 0:
            found.add(bits)
    return with_exact_widths(forms, found)


def refuse_no_effect(
    resources: Sequence[Resource], layers: Sequence[LayerSensitivity], best_agreement: float | None
) -> NoReturn:
    """Refuse limits within which every layer stays in float.

    Args:
        best_agreement: the highest predicted agreement of a quantized plan, if agreement is a limit.

    Raises:
        LampqError: names the limits below which something is quantized.
    """
    if best_agreement is not None:
        raise LampqError(
            "nothing would be quantized: only the float model is predicted to reach the requested agreement",
            hint=f"ask for at most {math.floor(1000 * best_agreement) / 1000:.3f}, or add larger candidates",
        )
    said = [
        f"of {r.limit / r.scale:.6g} {r.name} (something is quantized below {r.at_most(r.in_float(layers))})"
        for r in resources
    ]
    raise LampqError(
        f"nothing would be quantized: the float model is within {'the budget' if len(said) == 1 else 'the budgets'} "
        + " and ".join(said),
        hint="give a smaller budget, or an average width with --bits (bits in Python)",
    )


def resources_of(
    sensitivities: Sensitivities,
    forms: Sequence[LayerForm],
    limits: Limits,
    fixed: Mapping[str, LayerForm],
    target: Target,
    table: LatencyTable | None,
    float_bytes: int | None,
    pools: int = 0,
) -> list[Resource]:
    """List the limits that are set, one resource each; agreement is not among them.

    Args:
        sensitivities: shapes of the layers; measurements are not used.
        forms: forms to choose from: room for what each of them shares in the file is kept free.
        fixed: forms of the layers outside the budget.
        table, float_bytes: see `allocate_within`.
        pools: most bytes of the nodes for layers whose output channels differ in width.

    Raises:
        UsageError: something that a limit needs is not given.
    """
    outside = [layer for layer in sensitivities.layers if layer.fixed]
    total = sum(layer.parameters for layer in budgeted_layers(sensitivities))
    found = []
    if limits.bits is not None:
        found.append(
            Resource(
                WEIGHT_BUDGET,
                weight_bits,
                lambda layer, form: float(layer.shape[1] * form.weight_bits),
                _nothing,
                0,
                capacity_of(limits.bits, total),
                total,
                "average",
                "bits",
            )
        )
    if limits.max_bytes is not None:
        beside = pools + most_beside(sensitivities.layers, (*forms, *fixed.values()), target)
        found.append(_size(sensitivities, limits.max_bytes, outside, fixed, target, table, float_bytes, beside))
    if limits.max_ms is not None:
        if table is None:
            raise UsageError(
                "--max-latency needs measured times",
                hint="make them with lampq-onnx probe float.onnx -o latency.json, and give --latency latency.json",
            )
        found.append(_latency(sensitivities, table, limits.max_ms, outside, fixed))
    if limits.max_bops is not None:
        rest = sum(bit_operations(layer, fixed[layer.name]) for layer in outside)
        limit = int(limits.max_bops)
        found.append(
            Resource("G bit operations", bit_operations, _row_operations, _nothing, rest, limit, _GIGA, "number", "G")
        )
    return found


def bytes_of_layers(target: Target) -> Resource:
    """The bytes of layers as what is minimized: it has no limit."""
    amount = partial(form_bytes, target=target)

    def by_row(layer: LayerSensitivity, form: LayerForm) -> float:
        return row_bytes(layer.shape[1], form.weight_bits)

    def by_mix(layer: LayerSensitivity, _: LayerForm) -> float:
        return float(node_bytes(layer, target))

    return Resource("MB of file", amount, by_row, by_mix, 0, _MOST, _MEGABYTE, "file", "MB")


def _nothing(_: LayerSensitivity, __: LayerForm) -> float:
    return 0.0


def _row_operations(layer: LayerSensitivity, form: LayerForm) -> float:
    return bit_operations(layer, form) / layer.shape[0]


def _size(
    sensitivities: Sensitivities,
    limit: int,
    outside: Sequence[LayerSensitivity],
    fixed: Mapping[str, LayerForm],
    target: Target,
    table: LatencyTable | None,
    float_bytes: int | None,
    beside: int,
) -> Resource:
    whole = table.float_bytes if table is not None else float_bytes or sensitivities.float_bytes
    if whole is None:
        raise UsageError(
            "--max-size needs the size of the float file, which these sensitivities do not hold",
            hint="measure them again, or give --latency latency.json or --float float.onnx",
        )
    whole = whole_bytes(sensitivities, whole, target)
    rest = whole - sum(form_bytes(layer, FLOAT_FORM, target) for layer in sensitivities.layers)
    rest += sum(form_bytes(layer, fixed[layer.name], target) for layer in outside)
    rest += beside
    floor = whole - sum(form_bytes(layer, FLOAT_FORM, target) for layer in sensitivities.layers)
    alone = beside_layers(outside, fixed, target)
    return replace(
        bytes_of_layers(target), rest=rest, limit=limit, floor=max(0, floor), margin=_SIZE_MARGIN, beside=beside - alone
    )


def _latency(
    sensitivities: Sensitivities,
    table: LatencyTable,
    limit: float,
    outside: Sequence[LayerSensitivity],
    fixed: Mapping[str, LayerForm],
) -> Resource:
    times = table.layer_times()

    def amount(model_layer: LayerSensitivity, form: LayerForm) -> int:
        return round(_NANOSECONDS * times.ms(model_layer.name, form.weight_bits, form.activation_bits, form.storage))

    known = {model_layer.name for model_layer in sensitivities.layers}
    others = sum(times.ms(layer.name, FLOAT_BITS, FLOAT_BITS) for layer in table.layers if layer.name not in known)
    beside = round(_NANOSECONDS * (table.fixed_ms + others))
    rest = beside + sum(amount(model_layer, fixed[model_layer.name]) for model_layer in outside)
    limit_ns = int(_NANOSECONDS * limit)

    def by_mix(model_layer: LayerSensitivity, form: LayerForm) -> float:
        return float(amount(model_layer, form))

    return Resource(
        "ms of latency", amount, _nothing, by_mix, rest, limit_ns, int(_NANOSECONDS), "latency", "ms", max(0, beside)
    )
