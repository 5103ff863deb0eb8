"""Decide whether a quantized file passes; exit codes, JUnit, Markdown, HTML pages and the terminal read this."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lampq_onnx.artifacts.gates import GateLimits, Problem, ProblemCode
from lampq_onnx.artifacts.report import Accuracy, Fidelity, LayerReport, Report
from lampq_onnx.errors import GateError, UsageError

LAYER_BOUND = 1e-3
EXCESS_BOUND = 0.05
"""Bounds of the fidelity figures. Saturating kernels reach 1e-2 and 0.3; exact ones 1e-6 and a few percent of noise."""

EXCESS_IMAGES = 64
"""Fewest images for which an excess error counts: on fewer, flips of rounding alone change it by percents."""

NOT_FINITE = "NaN or infinity"

NOT_COMPARED = "no layer was compared"


@dataclass(frozen=True)
class GateResult:
    """One figure and its limit.

    Attributes:
        name: what is judged, e.g. "top-1 drop".
        metric: name of the figure in the report's task, e.g. "top-1" or "AP".
        unit: unit of measure of ``measured`` and ``limit``: points, %, images, or empty for a ratio.
        measured: the figure; None: it is NaN or infinite, which fails every limit.
        shown: the figure as text, with its standard error or the layer.
        limit: the limit; None: there is none.
        side: which side of the limit is allowed.
        passed: whether the gate passes; None if there is no limit.
    """

    name: str
    metric: str
    unit: str
    measured: float | None
    shown: str
    limit: float | None
    side: Literal["at most", "at least"]
    passed: bool | None

    @property
    def bound(self) -> str:
        """The limit as text; empty if there is none."""
        return "" if self.limit is None else f"{self.side} {self.limit:g}{f' {self.unit}' if self.unit else ''}"

    @property
    def sentence(self) -> str:
        """Name, figure and limit as one sentence."""
        return f"{self.name}: {self.shown}, {self.bound} allowed" if self.bound else f"{self.name}: {self.shown}"


def gate_limits(max_drop: float | None = None, min_agreement: float | None = None) -> GateLimits:
    """Check the limits that a user requests.

    Args:
        max_drop: largest drop in points of the task's score.
        min_agreement: smallest fraction of answers that equal those of the float file, 0..1.

    Raises:
        UsageError: NaN, infinity, or a fraction outside 0..1.
    """
    if max_drop is not None and not math.isfinite(max_drop):
        raise UsageError(f"--max-drop is {max_drop}, which no drop can exceed", hint="give points, e.g. 1")
    if min_agreement is not None and not 0 <= min_agreement <= 1:  # also true for NaN
        raise UsageError(f"--gate-agreement is {min_agreement}, not a fraction", hint="give 0 to 1, e.g. 0.95")
    return GateLimits(max_drop=max_drop, min_agreement=min_agreement)


def gates_of(report: Report, limits: GateLimits | None = None) -> tuple[GateResult, ...]:
    """List every figure that can fail, with or without a limit.

    Args:
        report: what was measured.
        limits: gates; None: the ones stored in the report.

    Returns:
        one result for each figure; `passed` is None for figures without a limit.
    """
    asked = report.limits if limits is None else limits
    accuracy, fidelity = report.accuracy, report.fidelity
    codes = {problem.code for problem in report.problems}
    broken = [problem.message for problem in report.problems if problem.code == "not-finite"]
    judged = fidelity.samples >= EXCESS_IMAGES or "kernels-add-error" in codes
    worst = f" ({fidelity.layer_worst})" if fidelity.layer_worst else ""
    compared = fidelity.layer_worst is not None or fidelity.layer_max != 0
    return (
        GateResult(
            name=f"{accuracy.metric} drop",
            metric=accuracy.metric,
            unit="points",
            measured=accuracy.drop_points,
            shown=f"{accuracy.drop_points:.2f} ± {accuracy.standard_error_points:.2f} points",
            limit=asked.max_drop,
            side="at most",
            passed=None if asked.max_drop is None else accuracy.drop_points <= asked.max_drop,
        ),
        GateResult(
            name="agreement with float",
            metric="agreement",
            unit="%",
            measured=100 * accuracy.agreement,
            shown=accuracy.agreement_text,
            limit=None if asked.min_agreement is None else 100 * asked.min_agreement,
            side="at least",
            passed=None if asked.min_agreement is None else accuracy.agreement >= asked.min_agreement,
        ),
        GateResult(
            name="finite answers",
            metric=f"images answered with {NOT_FINITE}",
            unit="images",
            measured=float(accuracy.broken),
            shown="; ".join(broken) or f"{accuracy.broken} of {accuracy.samples} images answered with {NOT_FINITE}",
            limit=0,
            side="at most",
            passed=accuracy.broken == 0 and "not-finite" not in codes,
        ),
        GateResult(
            name="layers as written",
            metric="relative error of a layer",
            unit="",
            measured=fidelity.layer_max,
            shown=f"relative error {_number(fidelity.layer_max, '.1e')}{worst}" if compared else NOT_COMPARED,
            limit=LAYER_BOUND if compared else None,
            side="at most",
            passed=_within(fidelity.layer_max, LAYER_BOUND) and "layer-differs" not in codes if compared else None,
        ),
        GateResult(
            name="model as written",
            metric="error added by kernels",
            unit="%",
            measured=None if fidelity.excess_error is None else 100 * fidelity.excess_error,
            shown=f"{_number(fidelity.excess_error, '+.1%')} error from kernels (n = {fidelity.samples})",
            limit=100 * EXCESS_BOUND if judged else None,
            side="at most",
            passed=_within(fidelity.excess_error, EXCESS_BOUND) and "kernels-add-error" not in codes
            if judged
            else None,
        ),
    )


def failed_gates(gates: Sequence[GateResult]) -> tuple[GateResult, ...]:
    """Return the gates that do not pass."""
    return tuple(gate for gate in gates if gate.passed is False)


def verdict_line(gates: Sequence[GateResult]) -> str:
    """Return PASS, or FAIL and every gate that fails."""
    failed = failed_gates(gates)
    if failed:
        return "FAIL: " + "; ".join(gate.sentence for gate in failed)
    judged = [gate.name for gate in gates if gate.passed is not None]
    return f"PASS: {', '.join(judged)}"


def require_gates(report: Report, limits: GateLimits | None = None) -> None:
    """Raise an error if a gate fails.

    Args:
        report: what was measured.
        limits: gates; None: the ones stored in the report.

    Raises:
        GateError: lists every gate that failed, and what is known about the cause.
    """
    failed = failed_gates(gates_of(report, limits))
    if not failed:
        return
    asked = [gate for gate in failed if gate.name in (f"{report.accuracy.metric} drop", "agreement with float")]
    message = "the gate fails: " + "; ".join(gate.sentence for gate in failed)
    if report.problems:
        message += ". The file does not run on this machine as written: "
        message += "; ".join(problem.message for problem in report.problems)
    if asked:
        message += _worst_layers(report.layers)
    if len(asked) == len(failed):
        raise GateError(message, hint="give it more bits, or a better calibration set")
    if any(gate.name == "finite answers" for gate in failed):
        raise GateError(message, hint="check the weights of the float model for NaN, and quantize it again")
    raise GateError(message, hint="convert the plan for this machine (lampq-onnx convert --target auto)")


def problems_of(
    accuracy: Accuracy,
    fidelity: Fidelity,
    broken_plain: int = 0,
    broken_constants: Sequence[str] = (),
    runtime: str = "onnxruntime",
) -> tuple[Problem, ...]:
    """List what is wrong with a file on the machine that measured it.

    Args:
        accuracy: the measured accuracy.
        fidelity: the measured fidelity.
        broken_plain: number of images for which the file without optimizations gives NaN or infinity.
        broken_constants: constants of the file that hold NaN or infinity; QuantizeLinear may hide their effect.
        runtime: what ran the file, in words.
    """
    found: list[tuple[ProblemCode, str, str | None]] = []
    if accuracy.broken:
        found.append(
            (
                "not-finite",
                f"the quantized file answers with {NOT_FINITE} on {accuracy.broken} of {accuracy.samples} images",
                None,
            )
        )
    if broken_plain and not accuracy.broken:
        found.append(
            (
                "not-finite",
                f"without onnxruntime's optimizations, the quantized file answers with {NOT_FINITE} on {broken_plain} "
                "images",
                None,
            )
        )
    if broken_constants:
        names = ", ".join(broken_constants[:3])
        found.append(("not-finite", f"constants of the quantized file hold {NOT_FINITE}: {names}", None))
    if fidelity.layer_max is None:
        found.append(
            (
                "layer-differs",
                f"{runtime} computes layer {fidelity.layer_worst} with {NOT_FINITE}",
                fidelity.layer_worst,
            )
        )
    elif fidelity.layer_max > LAYER_BOUND:
        found.append(
            (
                "layer-differs",
                f"{runtime} computes layer {fidelity.layer_worst} with a relative error of {fidelity.layer_max:.1e} "
                f"(bound {LAYER_BOUND:.0e}): 8-bit weights saturate in its kernel on CPUs without VNNI",
                fidelity.layer_worst,
            )
        )
    if fidelity.samples >= EXCESS_IMAGES and not _within(fidelity.excess_error, EXCESS_BOUND):
        found.append(
            (
                "kernels-add-error",
                f"{runtime}'s kernels add {_number(fidelity.excess_error, '.0%')} to the error of the model "
                f"(bound {EXCESS_BOUND:.0%})",
                None,
            )
        )
    return tuple(Problem(code=code, message=message, layer=layer) for code, message, layer in found)


def _within(value: float | None, bound: float) -> bool:
    """Whether a figure is finite and at most ``bound``."""
    return value is not None and math.isfinite(value) and value <= bound


def _number(value: float | None, form: str) -> str:
    return NOT_FINITE if value is None else format(value, form)


def _worst_layers(layers: Sequence[LayerReport], count: int = 3) -> str:
    """Name the layers whose outputs changed most, if that was measured; else those with the fewest bits."""
    errors = {layer.name: e for layer in layers if (e := layer.reconstruction_error) is not None}
    if errors:
        worst = sorted(errors, key=lambda name: -errors[name])[:count]
        return "; the layers that changed most: " + ", ".join(f"{name} ({errors[name]:.2g})" for name in worst)
    narrow = sorted(layers, key=lambda layer: (layer.mean_weight_bits, layer.activation_bits))[:count]
    named = ", ".join(f"{layer.name} ({layer.bits_text}/{layer.activation_bits} bits)" for layer in narrow)
    return f"; the layers with the fewest bits: {named}" if named else ""
