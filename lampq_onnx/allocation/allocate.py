"""From measured sensitivities to a plan."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from lampq_onnx.allocation.ilp import solve
from lampq_onnx.allocation.metrics import METRICS, budgeted_units
from lampq_onnx.allocation.problem import MAX_BITS, MIN_BITS, Problem, Solution, check_candidates
from lampq_onnx.artifacts import BitPlan, LayerPlan, Sensitivities
from lampq_onnx.artifacts.plan import ACTIVATION_BITS, FIXED_BITS, FLOAT_BITS
from lampq_onnx.errors import LampqError, UsageError

DEFAULT_CANDIDATES = tuple(range(2, 9))

MAX_GAMMA = 1024
"""gamma^-8 times a Fisher trace stays a normal number."""


def allocate(
    sensitivities: Sensitivities,
    *,
    bits: float,
    candidates: Sequence[int] = DEFAULT_CANDIDATES,
    metric: str = "lampq",
    gamma: float = 4.0,
    activation_bits: int | None = None,
    time_limit: float = 10.0,
    fixed_bits: int = 8,
) -> tuple[BitPlan, Solution]:
    """Find the widths of least cost whose average keeps the budget.

    Parameters
    ----------
    sensitivities : what the front end measured.
    bits : budget, average weight bits over the units that are not fixed, 1..8.
    candidates : weight widths to choose from, in bits.
    metric : a key of ``METRICS``.
    gamma : factor by which one bit more reduces the cost. The power of uniform quantization noise falls by 4
        per bit. gamma sets the spread of the widths: relaxed to real numbers, B_i = const + log_gamma(Omega_i
        / c_i).
    activation_bits : width of the inputs of the units in the budget; default: the one that the ranges were measured
        for. The units outside read 8 bits.
    time_limit : seconds for the integer program.
    fixed_bits : weight width of the units outside the budget.

    Returns
    -------
    tuple[BitPlan, Solution]
        the plan in the order of ``sensitivities.units``, and the quality of the solution for the units in the
        budget.

    Raises
    ------
    UsageError: an option that cannot be right.
    LampqError: no unit in the budget, a budget below the smallest candidate, or a measurement is missing.
    """
    chosen = tuple(sorted(set(candidates)))
    check_request(
        bits=bits,
        metric=metric,
        gamma=gamma,
        fixed_bits=fixed_bits,
        candidates=chosen,
        activation_bits=activation_bits,
    )
    activations = _activation_bits(sensitivities, activation_bits)
    names = [unit.name for unit in sensitivities.units]
    if len(set(names)) != len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise LampqError(f"two units are named {repeated} in the sensitivities of {sensitivities.model.name}")
    units = budgeted_units(sensitivities)
    if not units:
        raise LampqError(
            f"the sensitivities of {sensitivities.model.name} have no unit in the budget: "
            + ("all units are fixed" if names else "there are no units")
        )
    problem = Problem(
        names=tuple(unit.name for unit in units),
        sizes=np.array([unit.parameters for unit in units], dtype=np.int64),
        candidates=chosen,
        costs=METRICS[metric](sensitivities, chosen, gamma),
        budget=float(bits),
    )
    solution = solve(problem, time_limit=time_limit)
    layers = {
        unit.name: LayerPlan(
            weight_bits=fixed_bits if unit.fixed else solution.bits[unit.name],
            activation_bits=_fixed_activation_bits(fixed_bits) if unit.fixed else activations,
            type=unit.type,
            parameters=unit.parameters,
            fixed=unit.fixed,
            activation_range=unit.activation_range,
        )
        for unit in sensitivities.units
    }
    plan = BitPlan(model=sensitivities.model.name, metric=metric, budget=float(bits), layers=layers)
    return plan, solution


def parse_candidates(text: str) -> tuple[int, ...]:
    """Widths from ``2-8`` or ``2,4,8`` or a mix of both, ascending.

    Raises
    ------
    UsageError: anything else, or a width outside 1..8.
    """
    widths: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,2})(?:-([0-9]{1,2}))?", part.strip(), re.ASCII)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not MIN_BITS <= low <= high <= MAX_BITS:
            raise UsageError(
                f"cannot read {text!r} as candidate widths",
                hint=f"Give a range such as 2-8 or a list such as 2,4,8, within {MIN_BITS}..{MAX_BITS}.",
            )
        widths.update(range(low, high + 1))
    return tuple(sorted(widths))


def check_request(
    *,
    bits: float,
    metric: str = "lampq",
    gamma: float = 4.0,
    fixed_bits: int = 8,
    candidates: Sequence[int] = DEFAULT_CANDIDATES,
    activation_bits: int | None = None,
) -> None:
    """Refuse options that cannot be right, before anything is measured.

    Raises
    ------
    UsageError: an option out of range.
    LampqError: the budget is below the smallest candidate.
    """
    chosen = tuple(sorted(set(candidates)))
    check_candidates(chosen)
    if not MIN_BITS <= bits <= MAX_BITS:
        raise UsageError(f"the average bits must be in {MIN_BITS}..{MAX_BITS}, not {bits:g}")
    if bits < chosen[0]:
        raise LampqError(
            f"an average of {bits:g} bits cannot be met: the smallest candidate is {chosen[0]} bits",
            hint=f"ask for at least {chosen[0]}, or add smaller candidates",
        )
    if metric not in METRICS:
        raise UsageError(f"unknown metric {metric!r}; known: {', '.join(METRICS)}")
    if not 1 < gamma <= MAX_GAMMA:
        raise UsageError(
            f"gamma must be above 1 (one bit more has to cost less) and at most {MAX_GAMMA}, not {gamma:g}"
        )
    if fixed_bits not in (*range(MIN_BITS, MAX_BITS + 1), FLOAT_BITS):
        raise UsageError(f"fixed_bits must be in {MIN_BITS}..{MAX_BITS} or {FLOAT_BITS} (float), not {fixed_bits}")
    allowed = [b for b in ACTIVATION_BITS if b != FLOAT_BITS]
    if activation_bits is not None and activation_bits not in allowed:
        raise UsageError(f"activation_bits must be one of {', '.join(map(str, allowed))}, not {activation_bits}")


def _fixed_activation_bits(fixed_bits: int) -> int:
    return FLOAT_BITS if fixed_bits == FLOAT_BITS else FIXED_BITS


def _activation_bits(sensitivities: Sensitivities, asked: int | None) -> int:
    bits = sensitivities.activation_bits if asked is None else asked
    allowed = [b for b in ACTIVATION_BITS if b != FLOAT_BITS]
    if bits not in allowed:
        source = "the sensitivities say" if asked is None else "not"
        raise UsageError(f"activation_bits must be one of {', '.join(map(str, allowed))}; {source} {bits}")
    return bits
