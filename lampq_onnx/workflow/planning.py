"""Make plans from options: choose between the two allocations, and give each what it needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

from lampq_onnx.allocation import (
    AllocationOptions,
    FormSolution,
    Limits,
    Solution,
    allocate,
    allocate_within,
    parse_bops,
    parse_latency,
    parse_size,
)
from lampq_onnx.allocation.activations import inputs_for
from lampq_onnx.allocation.budgets import promised_bytes
from lampq_onnx.allocation.forms import FLOAT_FORM, LayerForm
from lampq_onnx.allocation.metrics import MEASURED_METRICS
from lampq_onnx.allocation.options import DEFAULTS
from lampq_onnx.allocation.within import summed_cost
from lampq_onnx.artifacts import BitPlan, ChannelWidths, LatencyTable, Sensitivities
from lampq_onnx.artifacts.plan import FIXED_BITS, WIDE_ACTIVATION_BITS
from lampq_onnx.artifacts.sensitivities import AgreementPoint
from lampq_onnx.config.options import BudgetOptions
from lampq_onnx.config.output import OutputOptions, PackingName
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.errors import UsageError
from lampq_onnx.targets import Packing, Target

NATIVE_WIDTHS = frozenset({4, 8})
"""Widths that take their own bits in native storage of blocks."""

SIMULATED_BITS = (2.0, 2.5, 3.0, 4.0, 6.0)
"""Average widths of the plans from which agreement is predicted: from useless to nearly float."""


class Simulator(Protocol):
    """What planning asks of the quantized model."""

    def agreement(self, bits: Mapping[str, int | ChannelWidths]) -> tuple[float, int]:
        """Return the fraction of images with the float model's top answer, and the number of images."""
        ...


def limits_of(allocation: AllocationOptions, budgets: BudgetOptions, *, bits_count: bool) -> Limits:
    """Join all budgets to one value.

    Args:
        allocation: options of the allocation.
        budgets: options of the other budgets.
        bits_count: whether the average bits are one of the budgets, see `Recipe.bits_count`.
    """
    return Limits(
        bits=allocation.bits if bits_count else None,
        max_bytes=None if budgets.max_size is None else parse_size(budgets.max_size),
        max_ms=None if budgets.max_latency is None else parse_latency(budgets.max_latency),
        max_bops=None if budgets.max_bops is None else parse_bops(budgets.max_bops),
        min_agreement=budgets.min_agreement,
    )


def make_plan(
    sensitivities: Sensitivities,
    options: AllocationOptions,
    limits: Limits,
    target: Target,
    *,
    packing: PackingName = "auto",
    table: LatencyTable | None = None,
    float_bytes: int | None = None,
) -> tuple[BitPlan, Solution | FormSolution]:
    """Find widths, and storages if there are budgets beyond average bits, from what was measured.

    Raises:
        UsageError: see `allocate` and `allocate_within`.
        LampqError: see `allocate` and `allocate_within`.
    """
    options = options_for(with_granularity(options, target, packing), target, packing)
    if limits.only_bits:
        target.require_widths(options.for_measured(sensitivities).width_pairs)
        if target.kernel(FIXED_BITS, WIDE_ACTIVATION_BITS) is None:
            options = options.with_values(wide_price=math.inf)
        plan, solution = allocate(inputs_for(sensitivities, target), options)
        storage = target.packing if packing == "auto" else packing
        return _with_promises(plan, sensitivities, target, storage, table, float_bytes), solution
    return allocate_within(
        sensitivities,
        limits,
        options,
        target=target,
        packing=None if packing == "auto" else packing,
        table=table,
        float_bytes=float_bytes,
    )


def options_for(options: AllocationOptions, target: Target, packing: PackingName) -> AllocationOptions:
    """Return the options with widths that have a kernel on the target, where no widths were chosen.

    Where the target quantizes no input, costs are those of inputs of 16 bits, which lose nothing.

    Args:
        options: options of the allocation.
        target: where the file is to run.
        packing: storage of the weights.

    Raises:
        UsageError: inputs are to be quantized, and the target leaves them in float.
    """
    found: dict[str, object] = {}
    if target.weights_only:
        if options.activation_bits not in (DEFAULTS.activation_bits, WIDE_ACTIVATION_BITS):
            raise UsageError(
                f"{target.name} leaves all inputs in float, and activation bits of {options.activation_bits} are asked "
                "for",
                hint="leave out --activation-bits",
            )
        found["activation_bits"] = WIDE_ACTIVATION_BITS
    possible = {bits for kernel in target.kernels for bits in kernel.weights}
    if target.block is not None and (target.packing if packing == "auto" else packing) == "native":
        possible &= NATIVE_WIDTHS
    if options.candidates == DEFAULTS.candidates and not set(options.candidates) <= possible:
        candidates = tuple(bits for bits in options.candidates if bits in possible)
        found["candidates"] = candidates
        if options.bits == DEFAULTS.bits < candidates[0]:
            found["bits"] = float(candidates[0])
    return options.model_copy(update=found) if found else options


def with_granularity(options: AllocationOptions, target: Target, packing: PackingName) -> AllocationOptions:
    """Return the options with the granularity that the target and the storage allow, if it was left open.

    Args:
        options: options of the allocation.
        target: where the file is to run.
        packing: storage of the weights.

    Raises:
        UsageError: groups of channels were asked for, and the target or the storage has one width for a layer.
    """
    storage = target.packing if packing == "auto" else packing
    if options.granularity == "group":
        options.require_granularity()
        target.require_channel_widths(storage)
    if options.granularity == "auto" and (not target.folds or target.block is not None or storage != "exact"):
        return options.with_values(granularity="layer")
    return options


def _with_promises(
    plan: BitPlan,
    sensitivities: Sensitivities,
    target: Target,
    storage: Packing,
    table: LatencyTable | None,
    float_bytes: int | None,
) -> BitPlan:
    whole = table.float_bytes if table is not None else float_bytes or sensitivities.float_bytes
    promises: dict[str, float | None] = {}
    if whole is not None:
        promises["promised_bytes"] = promised_bytes(sensitivities, plan_forms(plan, storage), whole, target)
    if table is not None:
        table.require_layers(sensitivities.layers)
        promises["promised_ms"] = table.predict(plan)
    return plan.model_copy(update=promises)


def plan_forms(plan: BitPlan, storage: Packing) -> dict[str, LayerForm]:
    """Return the forms of a plan's layers; ``storage`` is used for layers that name none."""
    return {
        name: LayerForm(
            layer.weight_bits,
            layer.activation_bits,
            layer.storage or storage,
            None if layer.channel_widths is None else tuple(layer.channel_widths.counts.items()),
        )
        if layer.quantized
        else FLOAT_FORM
        for name, layer in plan.layers.items()
    }


def require_inputs(recipe: Recipe, target: Target) -> None:
    """Refuse budgets that cannot be kept whatever is measured, before anything is measured.

    Raises:
        UsageError: something that a budget needs is not given, or was measured for another target.
    """
    budgets, output = recipe.budgets, recipe.output
    if budgets.latency is not None:
        table = LatencyTable.load(budgets.latency)
        require_table_of(table, target)
        require_timed_as(table, output)
    elif budgets.max_latency is not None:
        raise UsageError(
            "--max-latency needs measured times",
            hint="write the float graph (analyze --float float.onnx), time it (lampq-onnx probe float.onnx), and give "
            "--latency latency.json",
        )
    others = [metric for metric in (recipe.allocation.metric, *output.baselines) if metric not in MEASURED_METRICS]
    if budgets.min_agreement is not None and others:
        raise UsageError(
            f"--min-agreement needs costs in nats, but the metric {others[0]} has none",
            hint="use --metric kl, and no --baseline of another metric",
        )


def require_table_of(table: LatencyTable, target: Target) -> None:
    """Refuse times that were measured for another target.

    Raises:
        UsageError: names both targets.
    """
    if table.target != target.name:
        raise UsageError(
            f"the latencies were measured for {table.target}, but the target is {target.name}",
            hint=f"probe the float file for it, or give --target {table.target}",
        )


def require_timed_as(table: LatencyTable, output: OutputOptions) -> None:
    """Refuse times that were measured with other threads or batches than the file's will be.

    Raises:
        UsageError: names both values.
    """
    for option, measured, asked in (
        ("--latency-threads", table.threads, output.latency_threads),
        ("--latency-batch", table.batch, output.latency_batch),
    ):
        if measured != asked:
            raise UsageError(
                f"the latencies were measured with {option} {measured}, but the run has {asked}",
                hint=f"probe the float file again, or give {option} {measured}",
            )


def simulate_plans(
    sensitivities: Sensitivities, options: AllocationOptions, simulator: Simulator
) -> tuple[AgreementPoint, ...]:
    """Measure how far plans of several average widths agree with the float model, with the summed cost of their layers.

    Inputs have the width that the ranges were measured for.
    """
    points = []
    for bits in (bits for bits in SIMULATED_BITS if min(options.candidates) <= bits <= max(options.candidates)):
        asked = AllocationOptions(
            bits=bits, candidates=options.candidates, metric="kl", gamma=options.gamma, time_limit=options.time_limit,
            granularity=options.granularity,
        )  # fmt: skip
        plan, _ = allocate(sensitivities, asked)
        bits_of = {name: layer.widths for name, layer in plan.layers.items() if not layer.fixed}
        agreement, images = simulator.agreement(bits_of)
        cost = summed_cost(sensitivities, plan_forms(plan, "exact"), asked)
        points.append(AgreementPoint(cost=cost, agreement=agreement, bits=bits, images=images))
    return tuple(points)
