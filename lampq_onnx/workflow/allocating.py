"""`allocate`: from sensitivities and options to a plan."""

from __future__ import annotations

from pathlib import Path

from lampq_onnx.allocation import AllocationOptions, FormSolution, Solution
from lampq_onnx.artifacts import BitPlan, LatencyTable, Sensitivities
from lampq_onnx.config.options import BudgetOptions
from lampq_onnx.config.output import OutputOptions
from lampq_onnx.config.sections import Values
from lampq_onnx.config.values import options_of
from lampq_onnx.graph.model_file import file_bytes
from lampq_onnx.runtime.environment import target_here
from lampq_onnx.workflow.planning import limits_of, make_plan, require_table_of


def allocate(
    sensitivities: Sensitivities,
    values: Values,
    *,
    table: LatencyTable | None = None,
    float_model: Path | None = None,
) -> tuple[BitPlan, Solution | FormSolution]:
    """Give out bits under one or several budgets.

    Args:
        sensitivities: what was measured of every layer.
        values: what the user said of [allocation], [budgets] and [output]; what is not in it has its default. Average
            bits are a budget if they are in it, or if there is no other budget.
        table: times of the layers; None: those of the file that ``values`` names, if it names one.
        float_model: the float file, for its size; None: the size that the sensitivities say.

    Returns:
        the plan, and how good its solution is known to be.

    Raises:
        UsageError: an option out of range, or what a budget needs is not given.
        LampqError: the budgets cannot be met; says which, and what could be.
    """
    given = values.get("allocation", {})
    budgets, form = options_of(BudgetOptions, values), options_of(OutputOptions, values)
    options = options_of(AllocationOptions, values)
    if table is None and budgets.latency is not None:
        table = LatencyTable.load(budgets.latency)
    name = form.target_name if table is None or form.target_name != "auto" else table.target
    target = target_here(name)
    if table is not None:
        require_table_of(table, target)
    return make_plan(
        sensitivities,
        options,
        limits_of(options, budgets, bits_count=not budgets.given or "bits" in given),
        target,
        packing=form.packing,
        table=table,
        float_bytes=None if float_model is None else file_bytes(float_model),
    )
