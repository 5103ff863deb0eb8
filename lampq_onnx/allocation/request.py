"""Options of an allocation, checked before anything is measured."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from lampq_onnx.allocation.activations import DEFAULT_ACTIVATION_CANDIDATES, WIDE_PRICE, ActivationChoice
from lampq_onnx.allocation.metrics import METRICS
from lampq_onnx.allocation.problem import MAX_BITS, MIN_BITS, check_candidates
from lampq_onnx.artifacts.plan import ACTIVATION_BITS, FIXED_BITS, FLOAT_BITS
from lampq_onnx.errors import LampqError, UsageError

DEFAULT_CANDIDATES = tuple(range(2, 9))
DEFAULT_ACTIVATION_BUDGET = 8.0

INPUT_WIDTHS = tuple(b for b in ACTIVATION_BITS if b != FLOAT_BITS)
"""Widths that quantized inputs may have."""

MAX_GAMMA = 1024
"""Largest gamma: gamma^-8 times a Fisher trace is still a normal float."""


def parse_candidates(text: str) -> tuple[int, ...]:
    """Parse widths from ``2-8`` or ``2,4,8`` or a mix of both; the result is ascending.

    Raises:
        UsageError: the text is not such a list, or a width is outside 1..8.
    """
    return _parse(text, tuple(range(MIN_BITS, MAX_BITS + 1)), "candidate widths", "2,4,8")


def parse_activation_candidates(text: str) -> tuple[int, ...]:
    """Parse input widths from ``4,6,8,16`` or ``4-8,16``; the result is ascending.

    Raises:
        UsageError: the text is not such a list, or inputs cannot have a width.
    """
    return _parse(text, INPUT_WIDTHS, "candidate widths of activations", "4,6,8,16")


def _parse(text: str, allowed: tuple[int, ...], what: str, example: str) -> tuple[int, ...]:
    widths: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,2})(?:-([0-9]{1,2}))?", part.strip(), re.ASCII)
        named = range(int(match[1]), int(match[2] or match[1]) + 1) if match else range(0)
        if not named or not set(named) <= set(allowed):
            raise UsageError(
                f"cannot read {text!r} as {what}",
                hint=f"Give a range such as {allowed[0]}-8 or a list such as {example}; widths are "
                f"{', '.join(map(str, allowed))}.",
            )
        widths.update(named)
    return tuple(sorted(widths))


def check_request(
    *,
    bits: float,
    metric: str = "lampq",
    gamma: float = 4.0,
    fixed_bits: int = 8,
    candidates: Sequence[int] = DEFAULT_CANDIDATES,
    activation_bits: ActivationChoice | None = None,
    activation_budget: float = DEFAULT_ACTIVATION_BUDGET,
    activation_candidates: Sequence[int] = DEFAULT_ACTIVATION_CANDIDATES,
    wide_price: float = WIDE_PRICE,
) -> None:
    """Reject invalid options before anything is measured.

    Raises:
        UsageError: an option is out of range.
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
            f"gamma must be above 1 (an extra bit must reduce the cost) and at most {MAX_GAMMA}, not {gamma:g}"
        )
    if fixed_bits not in (*range(MIN_BITS, MAX_BITS + 1), FLOAT_BITS):
        raise UsageError(f"fixed_bits must be in {MIN_BITS}..{MAX_BITS} or {FLOAT_BITS} (float), not {fixed_bits}")
    if not wide_price > 0:
        raise UsageError(f"wide_price must be above 0 (infinite: no wide inputs), not {wide_price:g}")
    if activation_bits == "mixed":
        _check_mixed(activation_budget, tuple(sorted(set(activation_candidates))))
    elif activation_bits == "same":
        if not set(chosen) <= set(INPUT_WIDTHS):
            raise UsageError(
                f"with activation_bits same the candidates are widths of inputs too, which cannot have {chosen[0]} bit",
                hint=f"Leave {chosen[0]} out of the candidates.",
            )
    elif activation_bits is not None and activation_bits not in INPUT_WIDTHS:
        raise UsageError(
            f"activation_bits must be one of {', '.join(map(str, INPUT_WIDTHS))}, mixed or same, not {activation_bits}"
        )


class Widths(Protocol):
    """The part of an allocation's options that holds widths."""

    @property
    def candidates(self) -> tuple[int, ...]:
        """Weight widths to choose from."""

    @property
    def activation_bits(self) -> ActivationChoice:
        """Input width; see `allocate`."""

    @property
    def activation_candidates(self) -> tuple[int, ...]:
        """Input widths to choose from if ``activation_bits`` is "mixed"."""

    @property
    def fixed_bits(self) -> int:
        """Weight width of the layers outside the budget."""


def width_pairs(options: Widths) -> list[tuple[int, int]]:
    """List all (weight, input) width pairs that an allocation may assign."""
    asked = options.activation_bits
    fixed = (options.fixed_bits, FLOAT_BITS if options.fixed_bits == FLOAT_BITS else FIXED_BITS)
    if asked == "same":
        return [*((b, b) for b in options.candidates), fixed]
    inputs = options.activation_candidates if asked == "mixed" else (asked,)
    return [*((w, a) for w in options.candidates for a in inputs), fixed]


def _check_mixed(budget: float, candidates: tuple[int, ...]) -> None:
    if not candidates or not set(candidates) <= set(INPUT_WIDTHS):
        raise UsageError(
            f"activation_candidates must be widths of {', '.join(map(str, INPUT_WIDTHS))}, not {candidates}"
        )
    if not INPUT_WIDTHS[0] <= budget <= INPUT_WIDTHS[-1]:
        raise UsageError(
            f"the average activation bits must be in {INPUT_WIDTHS[0]}..{INPUT_WIDTHS[-1]}, not {budget:g}"
        )
    if budget < candidates[0]:
        raise LampqError(
            f"an average of {budget:g} activation bits cannot be met: the smallest candidate is {candidates[0]} bits",
            hint=f"ask for at least {candidates[0]}, or add smaller candidates",
        )
