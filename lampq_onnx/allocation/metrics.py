"""Metrics: the cost of each layer at each width, from the measured sensitivities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lampq_onnx.allocation.choices import FloatArray
from lampq_onnx.artifacts import LayerSensitivity, Sensitivities
from lampq_onnx.errors import LampqError

Measurement = Literal["trace", "alpha", "weight_error", "nuclear_norm", "weight_cost"]
"""What the front end can measure of the weights of a layer."""

Costs = Callable[[Sensitivities, tuple[int, ...], float], FloatArray]
"""(sensitivities, candidate widths in bits, gamma) -> (n, k) costs of the n layers in the budget."""


@dataclass(frozen=True)
class Metric:
    """How sensitivities become the cost of each layer at each width.

    Attributes:
        costs: computes them; float64 of shape (n, k), one row for each layer in the budget, one column for each width.
        summary: what it is, in one line for `lampq-onnx list metrics`.
        reads: measurements that it needs; nothing else is measured for it.
        measured: the costs are nats of mean KL, like the costs of the inputs.
    """

    costs: Costs
    summary: str
    reads: frozenset[Measurement]
    measured: bool = False

    def __call__(self, sensitivities: Sensitivities, candidates: tuple[int, ...], gamma: float) -> FloatArray:
        """Costs, see the attribute ``costs``."""
        return self.costs(sensitivities, candidates, gamma)


SHRINKAGE = 0.25
"""Weight of the size-based cost in `kl`, between 0 and 1.

On DeiT-Ti at 3 and 4 bits, two seeds: KL of the plans .200 .199 .0446 .0465; with weight 0 .203 .200 .0447 .0475.
"""

SHRINKAGE_BITS = 4
"""Width whose costs give the scale of the blend."""


def budgeted_layers(sensitivities: Sensitivities) -> tuple[LayerSensitivity, ...]:
    """Return the layers that share the budget: all but those with a fixed width."""
    return tuple(layer for layer in sensitivities.layers if not layer.fixed)


def lampq(sensitivities: Sensitivities, candidates: tuple[int, ...], gamma: float) -> FloatArray:
    """Compute Omega_i gamma^-B with Omega_i = alpha_t tr(F_i), the type-aware Fisher metric, shape (n, k).

    Source: LampQ (AAAI 2026, arXiv 2511.10004). The unit is that of the loss that alpha was measured in.
    """
    return _decaying([sensitivities.omega(layer) for layer in budgeted_layers(sensitivities)], candidates, gamma)


def fisher(sensitivities: Sensitivities, candidates: tuple[int, ...], gamma: float) -> FloatArray:
    """Compute tr(F_i) gamma^-B: `lampq` without the factor per type (the ablation in the LampQ paper)."""
    return _decaying([sensitivities.trace(layer) for layer in budgeted_layers(sensitivities)], candidates, gamma)


def nuclear_norm(sensitivities: Sensitivities, candidates: tuple[int, ...], _gamma: float) -> FloatArray:
    """Compute the nuclear norm of the layer's output times ||W(B) - W||_F^2, both measured; gamma is not used.

    Source: VT-PTQ, Liu et al., "Post-Training Quantization for Vision Transformer", NeurIPS 2021.
    """
    layers = budgeted_layers(sensitivities)
    return np.array([[_nuclear_norm(layer) * _weight_error(layer, bits) for bits in candidates] for layer in layers])


def uniform(sensitivities: Sensitivities, candidates: tuple[int, ...], gamma: float) -> FloatArray:
    """Compute c_i gamma^-B: every weight counts the same.

    gamma^-B is strictly convex in B, so by Jensen's inequality the mean of gamma^-B_i over all weights is at least
    gamma to the minus mean B_i, with equality only for equal widths. If the budget is one of the candidates, the
    optimum is that width everywhere. At other budgets the layers are split between the two candidates around it.
    """
    return _decaying([float(layer.parameters) for layer in budgeted_layers(sensitivities)], candidates, gamma)


def kl(sensitivities: Sensitivities, candidates: tuple[int, ...], _gamma: float) -> FloatArray:
    """Return the mean KL to the float model in nats, measured with only this layer rounded; gamma is not used.

    Costs measured on tens of images are noisy, and choosing the least of noisy costs chooses noise. So each cost is
    blended with the cost if every weight counted the same: `SHRINKAGE` of the sum of all costs, distributed by the
    layers' sizes and falling by a factor of 4 per bit.
    """
    layers = budgeted_layers(sensitivities)
    costs = np.array([[_weight_cost(layer, bits) for bits in candidates] for layer in layers])
    sizes = np.array([float(layer.parameters) for layer in layers])
    reference = int(np.argmin([abs(bits - SHRINKAGE_BITS) for bits in candidates]))
    even = (sizes / sizes.sum())[:, None] * costs[:, reference].sum()
    decay = 4.0 ** (candidates[reference] - np.array(candidates, dtype=np.float64))
    result: FloatArray = costs + SHRINKAGE * even * decay
    return result


def omega_error(sensitivities: Sensitivities, candidates: tuple[int, ...], gamma: float) -> FloatArray:
    """Compute Omega_i ||W(B) - W||_F^2 / c_i: the paper's Omega with the measured rounding error for gamma^-B."""
    omegas = lampq(sensitivities, (0,), gamma)[:, 0]
    rows = zip(budgeted_layers(sensitivities), omegas.tolist(), strict=True)
    return np.array([[omega * _weight_error(u, bits) / u.parameters for bits in candidates] for u, omega in rows])


UNIFORM = "uniform"
"""The metric whose best plan is the budget's width everywhere."""

_OMEGA: frozenset[Measurement] = frozenset({"trace", "alpha"})

METRICS: dict[str, Metric] = {
    "lampq": Metric(lampq, "type-aware Fisher information, the metric of the LampQ paper", _OMEGA),
    "fisher": Metric(
        fisher,
        "trace of the Fisher information, without LampQ's factor for each type of layer",
        frozenset({"trace"}),
    ),
    "nuclear-norm": Metric(
        nuclear_norm,
        "nuclear norm of the layer's output times its rounding error (VT-PTQ)",
        frozenset({"nuclear_norm", "weight_error"}),
    ),
    UNIFORM: Metric(uniform, "every weight counts alike: the same width everywhere, for comparison", frozenset()),
    "kl": Metric(
        kl,
        "KL divergence from the float model, measured with this layer alone rounded",
        frozenset({"weight_cost"}),
        measured=True,
    ),
    "omega-error": Metric(
        omega_error, "LampQ's factor of the layer times its measured rounding error", _OMEGA | {"weight_error"}
    ),
}
"""Metrics by the name that a plan and the command line give them."""

MEASURED_METRICS = frozenset(name for name, metric in METRICS.items() if metric.measured)
"""Metrics in nats of mean KL, like the costs of the inputs."""


def _decaying(factors: list[float], candidates: tuple[int, ...], gamma: float) -> FloatArray:
    return np.array(factors, dtype=np.float64)[:, None] * float(gamma) ** -np.array(candidates, dtype=np.float64)


def at_width(layer: LayerSensitivity, values: Mapping[int, float], bits: int, what: str, hint: str) -> float:
    """Return what was measured for a layer at one width.

    Raises:
        LampqError: nothing was measured; names the layer, the width and the measured widths.
    """
    if bits in values:
        return values[bits]
    known = ", ".join(map(str, sorted(values))) or "no width"
    raise LampqError(f"layer {layer.name} has no {what} at {bits} bits (measured: {known})", hint=hint)


def _weight_cost(layer: LayerSensitivity, bits: int) -> float:
    hint = (
        "Measure the sensitivities at this width too, leave it out of the candidates, or use the metric "
        "'lampq', which needs no measured costs."
    )
    return at_width(layer, layer.weight_cost, bits, "weight cost", hint)


def _nuclear_norm(layer: LayerSensitivity) -> float:
    if layer.nuclear_norm is None:
        raise LampqError(
            f"the sensitivities have no nuclear norm of layer {layer.name}",
            hint="analyze measures what every metric needs; quantize only what its own metric and baselines need",
        )
    return layer.nuclear_norm


def _weight_error(layer: LayerSensitivity, bits: int) -> float:
    hint = "Measure the sensitivities at this width too, or leave it out of the candidates."
    return at_width(layer, layer.weight_error, bits, "weight error", hint)
