"""The mixes of widths that layers can take, with what each takes of the cost and of the budgets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lampq_onnx.allocation.choices import FloatArray
from lampq_onnx.allocation.forms import LayerForm
from lampq_onnx.allocation.groups import ChannelGroups, RowCounts
from lampq_onnx.allocation.mixes import MixKind, linear_costs
from lampq_onnx.allocation.resources import Resource
from lampq_onnx.artifacts import LayerSensitivity


@dataclass(frozen=True, eq=False)
class CostLimit:
    """A limit of the cost, if bytes are what is minimized.

    Attributes:
        ceiling: nats that all layers may cost together.
        scale: units of the budget per nat.
    """

    ceiling: float
    scale: float

    def units(self, cost: float) -> int:
        """Return a cost in units of the budget, rounded up; a cost that does not fit is cut."""
        return math.ceil(min(cost, 2 * self.ceiling) * self.scale)


@dataclass(frozen=True)
class FormMixes:
    """Mixes of one input width and storage.

    Attributes:
        mixes: what they cost and take.
        inputs: width of the input.
    """

    mixes: MixKind
    inputs: int

    def form(self, rows: RowCounts) -> LayerForm:
        """Return the form of a layer with this mix.

        Args:
            rows: output channels of each width.
        """
        return LayerForm(rows[-1][0], self.inputs, "exact", rows)


def kinds_of_forms(
    layers: Sequence[LayerSensitivity],
    groups: Sequence[ChannelGroups | None],
    forms: Sequence[LayerForm],
    costs: FloatArray,
    weight_costs: FloatArray,
    resources: Sequence[Resource],
    objective: Resource | None,
    limit: CostLimit | None,
) -> list[FormMixes]:
    """Make one kind for each input width in exact storage; other storages save nothing by narrow channels.

    Args:
        layers: layers in the budget.
        groups: their channels; None for a layer without mixes.
        forms: forms of whole layers, of which mixes are made.
        costs: (n, k) costs of the layers in these forms.
        weight_costs: (n, b) the part of the weights, at the widths of the forms, ascending.
        resources: the budgets, in the order of the program.
        objective: what is minimized instead of the cost; None: the cost.
        limit: limit of the cost, as the last budget; None: there is none.
    """
    widths = tuple(sorted({form.weight_bits for form in forms if form.storage is not None}))
    exact = [form for form in forms if form.storage == "exact"]
    kinds = []
    for inputs in sorted({form.activation_bits for form in exact}):
        own = {form.weight_bits: form for form in exact if form.activation_bits == inputs}
        if len(own) < 2:
            continue
        kept = tuple(sorted(own))
        columns = [widths.index(bits) for bits in kept]
        # What the input costs is the same at every width of the weights.
        beside = costs[:, forms.index(own[kept[0]])] - weight_costs[:, columns[0]]
        mixes = _kind(layers, groups, own, kept, weight_costs[:, columns], beside, resources, objective, limit)
        kinds.append(FormMixes(mixes, inputs))
    return kinds


def _kind(
    layers: Sequence[LayerSensitivity],
    groups: Sequence[ChannelGroups | None],
    forms: dict[int, LayerForm],
    widths: tuple[int, ...],
    weight_costs: FloatArray,
    beside: FloatArray,
    resources: Sequence[Resource],
    objective: Resource | None,
    limit: CostLimit | None,
) -> MixKind:
    own = [forms[bits] for bits in widths]

    def of(resource: Resource) -> tuple[FloatArray, FloatArray, FloatArray]:
        by_row = np.array([[resource.by_row(layer, form) for form in own] for layer in layers])
        by_mix = np.array([min(resource.by_mix(layer, form) for form in own) for layer in layers])
        return by_mix, np.zeros_like(by_row), by_row

    def of_cost(scale: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        return beside * scale, weight_costs * scale, np.zeros_like(weight_costs)

    quantities = [of_cost(1.0) if objective is None else of(objective), *map(of, resources)]
    if limit is not None:
        quantities.append(of_cost(limit.scale))

    def exact(index: int, mix: RowCounts) -> tuple[float, list[int]]:
        channels = groups[index]
        assert channels is not None
        form = replace(forms[mix[-1][0]], rows=mix)
        cost = float(beside[index]) + linear_costs(channels, mix, weight_costs[index].tolist(), widths)
        amounts = [resource.amount(layers[index], form) for resource in resources]
        if limit is not None:
            amounts.append(limit.units(cost))
        return (cost if objective is None else float(objective.amount(layers[index], form))), amounts

    fixed, by_share, by_row = (np.stack(parts) for parts in zip(*quantities, strict=True))
    return MixKind(tuple(groups), widths, fixed, by_share, by_row, exact)
