"""Compute a plan from sensitivities, measured times and any mix of budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lampq_onnx.allocation.activations import (
    DEFAULT_ACTIVATION_CANDIDATES,
    WIDE_PRICE,
    ActivationChoice,
    inputs_for,
)
from lampq_onnx.allocation.allocate import layer_plan
from lampq_onnx.allocation.forms import FLOAT_FORM, Form, form_bytes, forms_of
from lampq_onnx.allocation.limits import Limits
from lampq_onnx.allocation.metrics import MEASURED_METRICS, budgeted_units
from lampq_onnx.allocation.request import DEFAULT_CANDIDATES, check_request
from lampq_onnx.allocation.resources import refuse_no_effect, require_reachable, resources_of
from lampq_onnx.allocation.within import FormSolution, fixed_forms, solve_forms, summed_cost
from lampq_onnx.artifacts import BitPlan, LayerPlan, Sensitivities, UnitSensitivity
from lampq_onnx.artifacts.latency import LatencyTable
from lampq_onnx.artifacts.plan import FIXED_BITS, FLOAT_BITS, WIDE_ACTIVATION_BITS
from lampq_onnx.targets import Packing, Target


def allocate_within(
    sensitivities: Sensitivities,
    limits: Limits,
    *,
    target: Target,
    packing: Packing | None = None,
    candidates: Sequence[int] = DEFAULT_CANDIDATES,
    metric: str = "kl",
    gamma: float = 4.0,
    activation_bits: ActivationChoice | None = None,
    activation_candidates: Sequence[int] = DEFAULT_ACTIVATION_CANDIDATES,
    fixed_bits: int = FIXED_BITS,
    table: LatencyTable | None = None,
    float_bytes: int | None = None,
    wide_price: float = WIDE_PRICE,
    time_limit: float = 8.0,
) -> tuple[BitPlan, FormSolution]:
    """Find the form of least cost for each layer such that the file keeps all limits.

    A layer takes any width of ``candidates`` with inputs of ``activation_bits`` (or 16 bits if those were measured), in
    any storage that the target reads, or stays in float. As many layers are quantized as the budgets require.

    Args:
        sensitivities: what the front end measured.
        limits: what must not be exceeded.
        target: where the file is meant to run; decides which forms exist.
        packing: the only storage to use; None: any.
        candidates: weight widths.
        metric: see `allocate`.
        gamma: see `allocate`.
        activation_bits: see `allocate`; "mixed" needs no budget of its own here.
        activation_candidates: input widths for "mixed".
        fixed_bits: weight width of the layers outside the budget.
        table: times of the float file's layers; needed for a latency limit.
        float_bytes: size of the float file; needed for a size limit if neither the table nor the sensitivities hold it.
        wide_price: see `allocate`; used only without a latency limit.
        time_limit: seconds for the integer program.

    Raises:
        UsageError: an option is out of range, or something that a limit needs is missing.
        LampqError: the limits cannot be kept; the message says which, and what could be kept.
    """
    sensitivities = inputs_for(sensitivities, target)
    main = sensitivities.activation_bits if activation_bits is None else activation_bits
    forms, fixed = _offered(
        sensitivities, limits, target, packing, candidates, metric, gamma, main, activation_candidates, fixed_bits
    )
    solution = solve_forms(
        sensitivities, forms, limits, fixed, target,
        metric=metric, gamma=gamma, table=table, float_bytes=float_bytes, float_price=wide_price,
        time_limit=time_limit,
    )  # fmt: skip
    chosen = {**fixed, **solution.forms}
    whole = table.float_bytes if table is not None else float_bytes or sensitivities.float_bytes
    plan = BitPlan(
        model=sensitivities.model.name,
        metric=metric,
        budget=limits.bits,
        promised_bytes=whole and promised_bytes(sensitivities, chosen, whole, target),
        promised_agreement=_agreement(sensitivities, solution, metric, gamma),
        layers={unit.name: _layer(unit, chosen[unit.name], packing) for unit in sensitivities.units},
    )
    if table is not None:
        plan = plan.model_copy(update={"promised_ms": table.predict(plan)})
    return plan, solution


def require_possible(
    sensitivities: Sensitivities,
    limits: Limits,
    *,
    target: Target,
    packing: Packing | None,
    candidates: Sequence[int],
    activation_bits: ActivationChoice,
    activation_candidates: Sequence[int],
    fixed_bits: int,
    table: LatencyTable | None,
) -> None:
    """Refuse limits of size and latency that no plan keeps, or that the float model keeps, before measuring anything.

    Args:
        sensitivities: layers that are not measured yet: names, types, shapes and the size of the float file are used.
        limits: limits that need measurements are not checked.
        target: see `allocate_within`, which also describes the other arguments.

    Raises:
        UsageError: an option is out of range, or something that a limit needs is missing.
        LampqError: names the smallest possible value, or the value below which something is quantized.
    """
    if limits.max_bytes is None and limits.max_ms is None:
        return
    sensitivities = inputs_for(sensitivities, target)
    if table is not None:
        table.require_layers(unit.name for unit in sensitivities.units)
    forms, fixed = _offered(
        sensitivities,
        limits,
        target,
        packing,
        candidates,
        "kl",
        4.0,
        activation_bits,
        activation_candidates,
        fixed_bits,
    )
    units = budgeted_units(sensitivities)
    known = replace(limits, max_bops=None, min_agreement=None)
    resources = resources_of(sensitivities, known, fixed, target, table, None)
    for resource in resources:
        require_reachable(resource, units, forms)
    slack = all(resource.in_float(units) <= resource.limit * (1 - resource.margin) for resource in resources)
    # Without a latency limit, float on its slower kernel has a price, which is compared with costs not measured yet.
    if units and slack and known == limits and limits.max_ms is not None:
        refuse_no_effect(resources, units, None)


def _offered(
    sensitivities: Sensitivities,
    limits: Limits,
    target: Target,
    packing: Packing | None,
    candidates: Sequence[int],
    metric: str,
    gamma: float,
    main: ActivationChoice,
    activation_candidates: Sequence[int],
    fixed_bits: int,
) -> tuple[tuple[Form, ...], dict[str, Form]]:
    """Check the options; return the forms to choose from, float last, and those of the layers outside the budget."""
    weights = tuple(sorted(set(candidates)))
    check_request(
        bits=max(weights[0], min(limits.bits or weights[0], 8)) if weights else 1, candidates=weights, metric=metric,
        gamma=gamma, fixed_bits=fixed_bits, activation_bits=main, activation_candidates=activation_candidates,
    )  # fmt: skip
    storages = (packing,) if packing is not None else target.packings
    for storage in storages:
        target.require_packing(storage)
    inputs = _inputs(sensitivities, main, weights, activation_candidates)
    forms = forms_of(target, weights, inputs, storages, same=main == "same")
    return forms, fixed_forms(sensitivities, fixed_bits, storages[0])


def promised_bytes(sensitivities: Sensitivities, forms: dict[str, Form], float_bytes: int, target: Target) -> int:
    """Return the size of the file: the float file, with the layers' weights in their forms."""
    return float_bytes + sum(
        form_bytes(unit, forms[unit.name], target) - form_bytes(unit, FLOAT_FORM, target)
        for unit in sensitivities.units
    )


def _inputs(
    sensitivities: Sensitivities, main: ActivationChoice, weights: Sequence[int], candidates: Sequence[int]
) -> tuple[int, ...]:
    """Return the input widths to choose from: the requested ones, 16 bits if measured for all layers, and float."""
    if main == "same":
        return tuple(weights)
    own = set(candidates) if main == "mixed" else {main}
    if all(WIDE_ACTIVATION_BITS in unit.activation_cost for unit in sensitivities.units if not unit.fixed):
        own.add(WIDE_ACTIVATION_BITS)
    return tuple(sorted({*own, FLOAT_BITS}))


def _agreement(sensitivities: Sensitivities, solution: FormSolution, metric: str, gamma: float) -> float | None:
    """Return the agreement that the simulated plans predict; None if they predict none."""
    if metric not in MEASURED_METRICS or not sensitivities.agreement:
        return None
    return sensitivities.agreement_at(summed_cost(sensitivities, solution.forms, metric, gamma))


def _layer(unit: UnitSensitivity, form: Form, packing: Packing | None) -> LayerPlan:
    storage = None if unit.fixed or packing is not None else form.storage
    return layer_plan(unit, form.weight_bits, form.activation_bits, storage)
