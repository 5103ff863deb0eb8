"""What a sweep is asked for: budgets, metrics, and the choice of a point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lampq_onnx.allocation import METRICS
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.config.sections import Values
from lampq_onnx.errors import UsageError
from lampq_onnx.workflow.sweep.choice import Pick, parse_pick
from lampq_onnx.workflow.sweep.grid import DEFAULT_METRICS, budgets_of


@dataclass(frozen=True)
class SweepRequest:
    """A sweep, before anything is loaded.

    Attributes:
        recipe: everything but the budgets; its own is the smallest of them.
        bits: average weight bits, ascending.
        metrics: of the allocation, each once.
        pick: which point's files to write as well; None: none.
    """

    recipe: Recipe
    bits: tuple[float, ...]
    metrics: tuple[str, ...]
    pick: Pick | None


def sweep_request(
    *values: Values, bits: str | Sequence[float], metrics: str | Sequence[str] | None = None, pick: str | None = None
) -> SweepRequest:
    """Read what a user asks for.

    Args:
        values: layers of options, the later ones first in rank.
        bits: budgets, or text such as 2.5..8.
        metrics: names, or text with commas; None: the recipe's own metric and `DEFAULT_METRICS`.
        pick: text such as "drop<=1, min size".

    Raises:
        UsageError: budgets, metrics, a pick or options that cannot be.
    """
    budgets = budgets_of(bits)
    chosen = None if pick is None else parse_pick(pick)
    # The analysis is made for the smallest budget; a report compares its plan with the plain one.
    recipe = Recipe.build(*values, {"allocation": {"bits": budgets[0]}, "output": {"baselines": ["uniform"]}})
    words = metrics.split(",") if isinstance(metrics, str) else metrics
    names = [name.strip() for name in words or (recipe.allocation.metric, *DEFAULT_METRICS[1:])]
    if unknown := next((name for name in names if name not in METRICS), None):
        raise UsageError(f"--metrics: unknown metric {unknown!r}", hint=f"known: {', '.join(METRICS)}")
    return SweepRequest(recipe, budgets, tuple(dict.fromkeys(names)), chosen)
