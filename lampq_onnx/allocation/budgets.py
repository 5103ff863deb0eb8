"""Compute a plan from sensitivities, measured times and any mix of budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lampq_onnx.allocation.activations import inputs_for
from lampq_onnx.allocation.allocate import layer_plan
from lampq_onnx.allocation.forms import (
    FLOAT_FORM,
    LayerForm,
    beside_layers,
    form_bytes,
    forms_of,
    most_beside,
    whole_bytes,
    with_exact_widths,
)
from lampq_onnx.allocation.granular import solve_granular
from lampq_onnx.allocation.groups import ChannelGroups
from lampq_onnx.allocation.limits import Limits
from lampq_onnx.allocation.metrics import MEASURED_METRICS, budgeted_layers
from lampq_onnx.allocation.mixed_widths import own_groups, with_mix
from lampq_onnx.allocation.options import DEFAULTS, AllocationOptions
from lampq_onnx.allocation.resources import affordable, refuse_no_effect, require_reachable, resources_of
from lampq_onnx.allocation.within import FormSolution, fixed_forms, solve_forms, summed_cost
from lampq_onnx.artifacts import BitPlan, LayerPlan, LayerSensitivity, Sensitivities
from lampq_onnx.artifacts.latency import LatencyTable
from lampq_onnx.artifacts.plan import FLOAT_BITS, WIDE_ACTIVATION_BITS
from lampq_onnx.targets import Packing, Target

_ROOM = 0.001
"""Share of a size limit for which a plan is looked for again: small files may give so much to tables of no use."""


def allocate_within(
    sensitivities: Sensitivities,
    limits: Limits,
    options: AllocationOptions = DEFAULTS,
    *,
    target: Target,
    packing: Packing | None = None,
    table: LatencyTable | None = None,
    float_bytes: int | None = None,
) -> tuple[BitPlan, FormSolution]:
    """Find the form of least cost for each layer such that the file keeps all limits.

    A layer takes any of the candidates with inputs of ``activation_bits`` (or 16 bits if those were measured), in any
    storage that the target reads, or stays in float: as many layers as the budgets allow.

    Args:
        sensitivities: what the front end measured.
        limits: what must not be exceeded.
        options: metric and widths; its average bits do not count, those of ``limits`` do. Mixed input widths need no
            budget of their own here, and ``wide_price`` counts where no latency is asked for.
        target: where the file is meant to run: decides which forms there are.
        packing: the only storage to take; None: any.
        table: times of the float file's layers; needed for a latency.
        float_bytes: size of the float file; needed for a size where neither table nor sensitivities hold it.

    Raises:
        UsageError: candidates that inputs cannot have, or what a limit needs is missing.
        LampqError: the limits cannot be kept; says which of them, and what would do.
    """
    sensitivities = inputs_for(sensitivities, target)
    options = options.for_measured(sensitivities)
    forms, fixed = _offered(sensitivities, options, target, packing)
    forms = affordable(forms, sensitivities, limits, fixed, target, table, float_bytes)
    layers, own = budgeted_layers(sensitivities), own_groups(sensitivities, options)

    def solved(offered: Sequence[LayerForm]) -> FormSolution:
        def solve(groups: Sequence[ChannelGroups | None] | None) -> FormSolution:
            return solve_forms(
                sensitivities, offered, limits, fixed, target, options=options, table=table, float_bytes=float_bytes,
                groups=groups,
            )  # fmt: skip

        return solve_granular(solve, own, limits, layers, target)

    solution = solved(forms)
    while limits.max_bytes is not None:
        # What widths share in the file needs no room if no layer has them.
        fewer = with_exact_widths(forms, solution.exact_widths)
        freed = most_beside(layers, forms, target) - most_beside(layers, fewer, target)
        if freed < _ROOM * limits.max_bytes:
            break
        again = solved(fewer)
        forms, solution = fewer, replace(again, seconds=solution.seconds + again.seconds)
    chosen = {**fixed, **solution.forms}
    whole = table.float_bytes if table is not None else float_bytes or sensitivities.float_bytes
    plan = BitPlan(
        model=sensitivities.model.name,
        metric=options.metric,
        budget=limits.bits,
        promised_bytes=whole and promised_bytes(sensitivities, chosen, whole, target),
        promised_agreement=_agreement(sensitivities, solution, options),
        layers={layer.name: _layer(layer, chosen[layer.name], packing) for layer in sensitivities.layers},
    )
    if table is not None:
        plan = plan.model_copy(update={"promised_ms": table.predict(plan)})
    return plan, solution


def require_possible(
    sensitivities: Sensitivities,
    limits: Limits,
    options: AllocationOptions,
    *,
    target: Target,
    packing: Packing | None,
    table: LatencyTable | None,
) -> None:
    """Refuse limits that no plan keeps, or that the float model keeps, before anything is measured.

    Args:
        sensitivities: of layers that are not measured yet: names, types, shapes, numbers in the inputs and the size of
            the float file count.
        limits: agreement, which needs measurements, is not looked at.
        options, target, packing, table: see `allocate_within`.

    Raises:
        UsageError: candidates that inputs cannot have, or what a limit needs is missing.
        LampqError: naming the smallest value, or the one below which something is quantized.
    """
    if limits.max_bytes is None and limits.max_ms is None and limits.max_bops is None:
        return
    sensitivities = inputs_for(sensitivities, target)
    if table is not None:
        table.require_layers(sensitivities.layers)
    forms, fixed = _offered(sensitivities, options, target, packing)
    layers = budgeted_layers(sensitivities)
    known = replace(limits, min_agreement=None)
    forms = affordable(forms, sensitivities, limits, fixed, target, table, None)
    resources = resources_of(sensitivities, forms, known, fixed, target, table, None)
    for resource in resources:
        require_reachable(resource, layers, forms)
    slack = all(resource.slack(layers) for resource in resources)
    # Without a latency limit, float on its slower kernel has a price, which is compared with costs not measured yet.
    if layers and slack and known == limits and limits.max_ms is not None:
        refuse_no_effect(resources, layers, None)


def _offered(
    sensitivities: Sensitivities, options: AllocationOptions, target: Target, packing: Packing | None
) -> tuple[tuple[LayerForm, ...], dict[str, LayerForm]]:
    """Forms to choose from, float last, and those of the layers outside the budget."""
    options.require_widths()
    storages = (packing,) if packing is not None else target.packings
    for storage in storages:
        target.require_packing(storage)
    inputs = _inputs(sensitivities, options)
    forms = forms_of(target, options.candidates, inputs, storages, same=options.activation_bits == "same")
    return forms, fixed_forms(sensitivities, options.fixed_bits, storages[0])


def promised_bytes(sensitivities: Sensitivities, forms: dict[str, LayerForm], float_bytes: int, target: Target) -> int:
    """Return the size of the file: the float file, with the layers' weights in their forms."""
    return (
        whole_bytes(sensitivities, float_bytes, target)
        + sum(
            form_bytes(layer, forms[layer.name], target) - form_bytes(layer, FLOAT_FORM, target)
            for layer in sensitivities.layers
        )
        + beside_layers(sensitivities.layers, forms, target)
    )


def _inputs(sensitivities: Sensitivities, options: AllocationOptions) -> tuple[int, ...]:
    """Input widths that may be chosen: what is asked for, 16 bits where all of them were measured, and float."""
    asked = options.activation_bits
    if asked == "same":
        return options.candidates
    own = set(options.activation_candidates) if asked == "mixed" else {int(asked)}
    if all(WIDE_ACTIVATION_BITS in layer.activation_cost for layer in sensitivities.layers if not layer.fixed):
        own.add(WIDE_ACTIVATION_BITS)
    return tuple(sorted({*own, FLOAT_BITS}))


def _agreement(sensitivities: Sensitivities, solution: FormSolution, options: AllocationOptions) -> float | None:
    """As the simulated plans predict it."""
    if options.metric not in MEASURED_METRICS or not sensitivities.agreement:
        return None
    return sensitivities.agreement_at(summed_cost(sensitivities, solution.forms, options))


def _layer(layer: LayerSensitivity, form: LayerForm, packing: Packing | None) -> LayerPlan:
    storage = None if layer.fixed or packing is not None else form.storage
    return with_mix(layer, layer_plan(layer, form.weight_bits, form.activation_bits, storage), form.rows)
