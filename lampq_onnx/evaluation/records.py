"""Make the records of the report from what the stages know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lampq_onnx.allocation import FormSolution, Solution, UpdateResult
from lampq_onnx.artifacts import BitPlan, Sensitivities
from lampq_onnx.artifacts.plan import FIXED_BITS, FLOAT_BITS
from lampq_onnx.artifacts.report import Allocation, Bits, LayerReport, RoundingRecord
from lampq_onnx.config.options import EffortName

if TYPE_CHECKING:
    from lampq_onnx.converter.inspect import QuantizedLayer


def bit_averages(plan: BitPlan | None, layers: Sequence[QuantizedLayer]) -> Bits:
    """Compute the averages of a plan, or of the file's layers if there is no plan (files of other tools)."""
    if plan is None:
        total = max(sum(layer.parameters for layer in layers), 1)
        average = sum(layer.parameters * layer.mean_weight_bits for layer in layers) / total
        plain = sum(layer.mean_weight_bits for layer in layers) / max(len(layers), 1)
        kinds = tuple(dict.fromkeys(layer.type for layer in layers))
        return Bits(
            weight_average=average,
            weight_average_unweighted=plain,
            weight_average_all=average,
            budget=None,
            covers=kinds,
        )
    plan = _completed(plan, layers)
    weighted = plan.weight_average()
    chosen = [layer for layer in plan.layers.values() if layer.quantized]
    total = sum(layer.parameters or 0 for layer in chosen)
    return Bits(
        weight_average=plan.weight_average_unweighted() if weighted is None else weighted,
        weight_average_unweighted=plan.weight_average_unweighted(),
        weight_average_all=sum((layer.parameters or 0) * layer.mean_weight_bits for layer in chosen) / max(total, 1),
        budget=plan.budget,
        activation_average=plan.activation_average(),
        activation_average_unweighted=plan.activation_average_unweighted(),
        covers=tuple(dict.fromkeys(layer.type or "unknown" for layer in chosen if not layer.fixed)),
    )


def _completed(plan: BitPlan, layers: Sequence[QuantizedLayer]) -> BitPlan:
    """Complete sizes and types that a plan lacks, as one written by hand may, from the file."""
    known = {layer.name: layer for layer in layers}
    added = {
        name: layer.model_copy(
            update={
                "type": layer.type or known[name].type,
                "parameters": known[name].parameters if layer.parameters is None else layer.parameters,
            }
        )
        for name, layer in plan.layers.items()
        if name in known
    }
    return plan.model_copy(update={"layers": {**plan.layers, **added}})


def rounding_record(
    effort: EffortName, methods: Mapping[str, str], losses: Mapping[str, float], kept: Mapping[str, bool]
) -> RoundingRecord:
    """Record which techniques were kept; see `frontend.rounding.plan.RoundedPlan` for the arguments."""
    return RoundingRecord(
        effort=effort, techniques=dict(Counter(methods.values())), held_out_kl=dict(losses), kept=dict(kept)
    )


def layer_report(layer: QuantizedLayer) -> LayerReport:
    """Record what the file says about a layer."""
    return LayerReport(
        name=layer.name,
        type=layer.type,
        weight_bits=layer.weight_bits,
        activation_bits=layer.activation_bits,
        storage=layer.storage,
        scheme=layer.scheme,
        parameters=layer.parameters,
        bytes=layer.bytes,
        channel_bits=None if layer.channel_bits is None else dict(layer.channel_bits),
    )


def with_layers(
    layers: Sequence[LayerReport], sensitivities: Sensitivities, methods: Mapping[str, str]
) -> tuple[LayerReport, ...]:
    """Add the layers' sensitivities, and the technique that each layer was rounded with."""
    model_layers = {model_layer.name: model_layer for model_layer in sensitivities.layers}
    found = []
    for layer in layers:
        known: dict[str, float | str | None] = {"rounding": methods.get(layer.name)}
        if (model_layer := model_layers.get(layer.name)) is not None:
            known |= {
                "trace": model_layer.trace,
                "alpha": sensitivities.alpha.get(model_layer.type),
                "omega": sensitivities.omega(model_layer) if sensitivities.omegas else None,
            }
        found.append(layer.model_copy(update=known))
    return tuple(found)


def now() -> str:
    """Return date and time as UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def allocation_record(
    plan: BitPlan,
    solution: Solution | FormSolution,
    result: UpdateResult | None,
    costs: tuple[float, float] | None = None,
) -> Allocation:
    """Record how the plan was found.

    Args:
        plan: the plan.
        solution: solution of the integer program.
        result: result of the iterative update; None: it did not run.
        costs: see `costs_against_uniform`.
    """
    return Allocation(
        cost=costs[0] if costs else None,
        uniform_cost=costs[1] if costs else None,
        granularity=plan.granularity,
        metric=plan.metric or "given",
        objective=solution.objective,
        bound=solution.bound,
        gap=solution.gap,
        proven_optimal=solution.proven_optimal,
        update_rounds=len(result.history) if result else 0,
        update_kept=sum(swap.kept for swap in result.history) if result else 0,
        update_score_before=result.score_before if result else None,
        update_score_after=result.score_after if result else None,
    )


def notes(sensitivities: Sensitivities, plan: BitPlan, multiplied: Sequence[str]) -> tuple[str, ...]:
    """List what needs the user's attention, as sentences.

    Args:
        sensitivities: what was measured.
        plan: the plan.
        multiplied: layers with an extra Mul before them, from equalization.
    """
    found = [f"{name} stays in float: {reason}" for name, reason in sensitivities.skipped.items()]
    if sensitivities.alpha_floored:
        found.append(
            "no positive loss was measured for "
            + ", ".join(sensitivities.alpha_floored)
            + " at the low width, so alpha of their type uses a small positive floor; more calibration images help"
        )
    if sensitivities.calibration_made:
        found.append(
            "the calibration images were made from the model: inputs keep their whole range at 8 bits, and no channels "
            "are equalized; a few real images are better"
        )
    quantized = {name: layer for name, layer in plan.layers.items() if layer.quantized}
    if any(layer.activation_bits < FIXED_BITS for layer in quantized.values()):
        found.append("inputs of fewer than 8 bits make no layer faster: no CPU kernel uses fewer than 8 bits")
    wide = [name for name, layer in quantized.items() if FIXED_BITS < layer.activation_bits < FLOAT_BITS]
    if wide:
        found.append(
            "the inputs of these layers lose too much at 8 bits, so the layers run on the float kernel: "
            + ", ".join(wide)
        )
    bare = [name for name, layer in quantized.items() if not layer.input_quantized]
    if bare:
        found.append(
            "only the weights of these layers are quantized (pointwise convolutions, which are faster on float inputs, "
            "or layers that the latency budget left like this): " + ", ".join(bare)
        )
    if multiplied:
        found.append("an extra Mul node equalizes the input channels of: " + ", ".join(multiplied))
    return tuple(found)
