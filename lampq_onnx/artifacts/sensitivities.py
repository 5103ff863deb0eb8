"""What the front end measured about every layer: the input of the allocation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lampq_onnx.artifacts.shown import Cell, Shown
from lampq_onnx.artifacts.timed import timed_elements
from lampq_onnx.disk.records import Artifact, Record
from lampq_onnx.errors import LampqError

FLOAT32_MAX = 3.4028234663852886e38


class ActivationRange(Record):
    """Range of real values over which the input of a layer, or its product, is quantized."""

    low: float = Field(description="lower end")
    high: float = Field(description="upper end")
    method: str = Field(default="given", description="how the interval was found, e.g. minmax or mse")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low is {self.low:g}, above high, which is {self.high:g}")
        if max(-self.low, self.high) > FLOAT32_MAX / 2:
            raise ValueError(f"{self.low:g} ... {self.high:g} is wider than float32 can hold")
        return self


class LayerSensitivity(Record):
    """Measurements of one layer."""

    name: str = Field(description="name of the layer")
    type: str = Field(description="qkv, proj, fc1, fc2, patch_embed, head or linear")
    parameters: int = Field(gt=0, description="number of weights c_i, without the bias")
    shape: tuple[int, int] = Field(description="(outputs, inputs) of the weight as a matrix")
    fixed: bool = Field(default=False, description="outside the budget: keeps its width (patch_embed, head)")
    float_input: bool = Field(
        default=False,
        description="the input stays in float if the target has a kernel for that: a pointwise convolution",
    )
    trace: float | None = Field(
        default=None, ge=0, description="tr(F_i): mean over images of the squared gradient norm; null: not measured"
    )
    nuclear_norm: float | None = Field(
        default=None,
        ge=0,
        description="mean nuclear norm of the layer's output matrix (tokens x features); null: not measured",
    )
    weight_error: dict[int, float] = Field(
        default_factory=dict,
        description="bits -> squared Frobenius error of the rounded weights; absent: not measured",
    )
    weight_cost: dict[int, float] = Field(
        default_factory=dict,
        description="bits -> mean KL to the float model (nats) that the rounded weights of this width cost; "
        "absent: not measured",
    )
    channel_shares: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] | None = Field(
        default=None,
        description="share of each output channel in weight_cost, about the same at all widths; absent: not measured",
    )
    activation_range: ActivationRange = Field(description="range of its input at the width in activation_bits")
    activation_ranges: dict[int, ActivationRange] = Field(
        default_factory=dict, description="bits -> range chosen for that input width, if it differs by width"
    )
    output_range: ActivationRange | None = Field(
        default=None, description="range of its product, before the bias; absent: the target does not need it"
    )
    activation_cost: dict[int, float] = Field(
        default_factory=dict,
        description="bits -> mean KL to the float model (nats) that an input of this width costs; absent: not measured",
    )
    activation_elements: int | None = Field(
        default=None, gt=0, description="number of elements of the layer's input, for one image"
    )
    computed_elements: int | None = Field(
        default=None,
        gt=0,
        description="how many of them the quantized file computes, if fewer: the class token alone in the last block",
    )
    sketch: tuple[float, ...] | None = Field(
        default=None, description="norm and random projections of the weight before equalization, to find the layer by"
    )

    @property
    def timed_elements(self) -> int | None:
        """Elements of its input that count for the time of the file, see `timed_elements`; None: not known."""
        if self.activation_elements is None:
            return None
        return timed_elements(self.activation_elements, self.computed_elements, self.shape[1])

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        outputs, inputs = self.shape
        if min(self.shape) < 1 or outputs * inputs != self.parameters:
            raise ValueError(f"shape {outputs} x {inputs} does not have {self.parameters} parameters")
        if self.channel_shares is not None and len(self.channel_shares) != outputs:
            raise ValueError(f"{len(self.channel_shares)} channel_shares do not fit {outputs} output channels")
        return self


class ModelIdentity(Record):
    """The model that an artifact describes."""

    name: str = Field(description="name of the model")
    weights_sha256: str = Field(description="over the names, shapes and bytes of all parameters and buffers")
    num_classes: int = Field(description="number of classes, or of outputs")


class AgreementPoint(Record):
    """A simulated plan: the summed cost of its layers, each measured alone, and the agreement of the whole model."""

    cost: float = Field(ge=0, description="sum of the measured costs of its weights and inputs in nats")
    agreement: float = Field(ge=0, le=1, description="fraction of images with the same top answer as the float model")
    bits: float = Field(description="average weight bits of the plan")
    images: int = Field(gt=0, description="number of images that it was measured on")


class Sensitivities(Shown, Artifact):
    """Sensitivities of all layers of one model (paper sections 2 and 4; docs/method.md)."""

    format: Literal["lampq-onnx/sensitivities"] = "lampq-onnx/sensitivities"
    version: Literal[1] = 1
    model: ModelIdentity = Field(description="the model that was measured")
    layers: tuple[LayerSensitivity, ...] = Field(description="all layers, in the order of the graph")
    alpha: dict[str, float] = Field(
        default_factory=dict,
        description="type -> factor that turns a trace into an expected loss; empty: not measured",
    )
    alpha_loss: dict[str, float] = Field(
        default_factory=dict, description="layer -> loss measured with only that layer at alpha_bits"
    )
    alpha_floored: tuple[str, ...] = Field(
        default=(),
        description="sampled layers whose measured loss was not positive: a small positive floor is used instead",
    )
    alpha_bits: int = Field(description="width at which alpha was measured")
    alpha_measure: Literal["kl", "nll", "top1"] = Field(description="loss that alpha is measured with")
    activation_bits: int = Field(description="input width for which the activation ranges were chosen")
    labels: Literal["sampled", "given"] = Field(description="where the labels of the Fisher traces come from")
    calibration_made: bool = Field(default=False, description="whether the calibration images were made from the model")
    calibration_images: int = Field(description="number of calibration images")
    seed: int = Field(description="seed of the image choice and of sampled labels")
    cost_estimator: Literal["measured", "directional", "none"] = Field(
        default="none",
        description="where weight_cost comes from: KL with only the layer rounded, or its Fisher approximation",
    )
    equalized: dict[str, str] = Field(
        default_factory=dict, description="layer whose input channels were equalized -> how"
    )
    skipped: dict[str, str] = Field(default_factory=dict, description="layers left in float -> why")
    seconds: dict[str, float] = Field(default_factory=dict, description="stage -> seconds that it took")
    float_bytes: int | None = Field(default=None, gt=0, description="size of the float file")
    float_numbers: int | None = Field(
        default=None, gt=0, description="numbers in the constants of the float file; absent: those of the layers"
    )
    answers: int = Field(
        default=1,
        ge=1,
        description="answers for each image whose distances add up: queries of a detector, steps of a sequence",
    )
    agreement: tuple[AgreementPoint, ...] = Field(
        default=(), description="simulated plans on held-out calibration images; empty: not measured"
    )

    @model_validator(mode="before")
    @classmethod
    def _read_earlier(cls, values: object) -> object:
        """Files of earlier versions call the layers units."""
        earlier = "units"
        if isinstance(values, dict) and earlier in values and "layers" not in values:
            return {("layers" if key == earlier else key): value for key, value in values.items()}
        return values

    def omega(self, layer: LayerSensitivity) -> float:
        """Compute Omega_i = alpha_t * tr(F_i), the paper's equation for the type-aware Fisher metric.

        Args:
            layer: one of the layers.

        Raises:
            LampqError: its trace or the factor of its type was not measured.
        """
        if layer.type not in self.alpha:
            raise LampqError(
                f"the sensitivities have no alpha for type {layer.type} of layer {layer.name}",
                hint="Measure the sensitivities again, or use the metric 'fisher', which needs no alpha.",
            )
        return self.alpha[layer.type] * self.trace(layer)

    def trace(self, layer: LayerSensitivity) -> float:
        """Return the Fisher trace of a layer, tr(F_i).

        Args:
            layer: one of the layers.

        Raises:
            LampqError: it was not measured.
        """
        if layer.trace is None:
            raise LampqError(
                f"the sensitivities have no Fisher trace of layer {layer.name}",
                hint="analyze measures what every metric needs; quantize only what its own metric and baselines need",
            )
        return layer.trace

    @property
    def omegas(self) -> bool:
        """Whether traces and factors were measured."""
        return bool(self.alpha) and all(layer.trace is not None for layer in self.layers)

    def cost_at(self, agreement: float) -> float:
        """Return the largest summed cost in nats at which the simulated plans keep ``agreement``.

        Values between simulated plans are interpolated (a cost of 0 agrees on all images). Nothing is extrapolated:
        below the lowest simulated agreement, the cost of that plan is returned.

        Args:
            agreement: fraction of images, 0 to 1.

        Raises:
            LampqError: no plan was simulated.
        """
        curve = self._curve()
        for (low, high), (cost, kept) in pairwise(curve):
            if kept < agreement:
                return low + (cost - low) * (high - agreement) / (high - kept)
        return curve[-1][0]

    def agreement_at(self, cost: float) -> float | None:
        """Predict the agreement at a summed cost in nats; None if no plan was simulated, or only cheaper ones.

        Args:
            cost: summed cost in nats.
        """
        if not self.agreement:
            return None
        curve = self._curve()
        for (low, high), (own, kept) in pairwise(curve):
            if cost <= own:
                return high + (kept - high) * (cost - low) / max(own - low, 1e-300)
        return None

    def _curve(self) -> list[tuple[float, float]]:
        """Return points (cost, agreement) from (0, 1) on, rising in cost and falling in agreement."""
        if not self.agreement:
            raise LampqError(
                f"the sensitivities of {self.model.name} hold no simulated plans, from which agreement is predicted",
                hint="measure them again with analyze, with the metric kl and an effort that measures costs",
            )
        curve = [(0.0, 1.0)]
        for point in sorted(self.agreement, key=lambda p: p.cost):
            curve.append((point.cost, min(point.agreement, curve[-1][1])))
        return curve

    def _line(self) -> str:
        return f"{self.model.name}: {len(self.layers)} layers measured on {self.calibration_images} images"

    def _card(self) -> Mapping[str, str]:
        return {
            "layers": str(len(self.layers)),
            "weights": f"{sum(layer.parameters for layer in self.layers):,}",
            "images": str(self.calibration_images),
            "costs": self.cost_estimator,
        }

    def _rows(self) -> Sequence[Mapping[str, Cell]]:
        widths = sorted({bits for layer in self.layers for bits in layer.weight_cost})
        return [
            {
                "layer": layer.name,
                "type": layer.type,
                "parameters": layer.parameters,
                "trace": layer.trace,
                "low": layer.activation_range.low,
                "high": layer.activation_range.high,
                **{f"cost_{bits}_bits": layer.weight_cost.get(bits) for bits in widths},
            }
            for layer in self.layers
        ]
