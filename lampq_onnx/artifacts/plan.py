"""Bit-widths by layer name: what the allocation decides and a person may edit."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, Strict, model_validator

from lampq_onnx.artifacts.sensitivities import ActivationRange
from lampq_onnx.disk.records import Artifact, Record
from lampq_onnx.targets import Packing

FLOAT_BITS = 32
"""A layer with this width is left in float."""

FIXED_BITS = 8
"""Weights and inputs of the layers outside the budget, unless a plan says otherwise."""

WEIGHT_BITS = (1, 2, 3, 4, 5, 6, 7, 8, FLOAT_BITS)
WIDE_ACTIVATION_BITS = 16
"""Width of inputs that 8 bits cannot hold; such a layer runs on the float kernel."""

ACTIVATION_BITS = (2, 3, 4, 5, 6, 7, 8, WIDE_ACTIVATION_BITS, FLOAT_BITS)


def _one_of(allowed: tuple[int, ...], what: str, value: int) -> int:
    if value not in allowed:
        raise ValueError(f"{what} must be one of {', '.join(map(str, allowed))}, not {value} ({FLOAT_BITS} is float)")
    return value


WeightBits = Annotated[int, Strict(), AfterValidator(lambda v: _one_of(WEIGHT_BITS, "weight_bits", v))]
ActivationBits = Annotated[int, Strict(), AfterValidator(lambda v: _one_of(ACTIVATION_BITS, "activation_bits", v))]


class LayerPlan(Record):
    """Widths of one layer. Only the two widths are needed in a plan written by hand."""

    weight_bits: WeightBits
    activation_bits: ActivationBits
    type: str | None = None
    parameters: int | None = Field(default=None, gt=0, description="number of weights, without the bias")
    fixed: bool = Field(default=False, description="outside the budget")
    activation_range: ActivationRange | None = Field(
        default=None, description="absent: convert measures it from --calibration"
    )
    input_elements: int | None = Field(default=None, gt=0, description="numbers in the layer's input, one image")
    sketch: tuple[float, ...] | None = Field(
        default=None, description="norm and random projections of the weight before equalization, to know it again by"
    )
    storage: Packing | None = Field(default=None, description="of its weights in the file; absent: as --packing says")

    @model_validator(mode="after")
    def _no_input_alone(self) -> Self:
        if self.weight_bits == FLOAT_BITS and self.activation_bits != FLOAT_BITS:
            raise ValueError(
                "a layer with 32 weight_bits stays in float and has 32 activation_bits too: "
                "quantizing its input alone saves neither space nor time"
            )
        return self

    @property
    def quantized(self) -> bool:
        """Whether the layer is quantized at all."""
        return self.weight_bits != FLOAT_BITS

    @property
    def input_quantized(self) -> bool:
        """Whether the layer's input is quantized; with 32 activation bits only the weights are."""
        return self.activation_bits != FLOAT_BITS


class BitPlan(Artifact):
    """Layer name -> widths, with the budget they were found under."""

    format: Literal["lampq-onnx/plan"] = "lampq-onnx/plan"
    version: Literal[1] = 1
    model: str | None = None
    metric: str | None = None
    budget: float | None = Field(default=None, gt=0, description="average weight bits asked for")
    activation_budget: float | None = Field(
        default=None, gt=0, description="average input bits asked for; absent: the inputs had no budget of their own"
    )
    promised_bytes: int | None = Field(default=None, gt=0, description="size of the file, as it was predicted")
    promised_ms: float | None = Field(default=None, gt=0, description="its latency where the layers were probed")
    promised_agreement: float | None = Field(
        default=None, description="fraction of images with the answer of the float model, as it was predicted"
    )
    layers: dict[str, LayerPlan] = Field(min_length=1)

    def _counted(self) -> list[LayerPlan]:
        return [layer for layer in self.layers.values() if not layer.fixed]

    def weight_average(self) -> float | None:
        """sum(c_i B_i) / sum(c_i) over the layers in the budget; None if the plan does not say every c_i."""
        counted = self._counted()
        sizes = [layer.parameters for layer in counted]
        if not counted or any(size is None for size in sizes):
            return None
        total = sum(size or 0 for size in sizes)
        return sum((layer.parameters or 0) * layer.weight_bits for layer in counted) / total

    def weight_average_unweighted(self) -> float:
        """Plain mean of the widths over the layers in the budget."""
        counted = self._counted() or list(self.layers.values())
        return sum(layer.weight_bits for layer in counted) / len(counted)

    def activation_average(self) -> float | None:
        """Input bits averaged over the numbers in the inputs of the layers in the budget that are quantized.

        Layers of which only the weights are quantized do not count. None if the plan does not say how many numbers
        every input has.
        """
        counted = [layer for layer in self._counted() if layer.input_quantized or not layer.quantized]
        elements = [layer.input_elements for layer in counted]
        if not counted or any(count is None for count in elements):
            return None
        total = sum(count or 0 for count in elements)
        return sum((layer.input_elements or 0) * layer.activation_bits for layer in counted) / total

    def activation_average_unweighted(self) -> float:
        """Plain mean of the input widths over the layers in the budget."""
        counted = self._counted() or list(self.layers.values())
        return sum(layer.activation_bits for layer in counted) / len(counted)

    def with_weight_bits(self, bits: dict[str, int]) -> BitPlan:
        """The same plan with some layers' weight widths replaced."""
        layers = {
            name: layer.model_copy(update={"weight_bits": bits[name]}) if name in bits else layer
            for name, layer in self.layers.items()
        }
        return self.model_copy(update={"layers": layers})

    def with_coupled_bits(self, bits: dict[str, int], ranges: dict[str, dict[int, ActivationRange]]) -> BitPlan:
        """The same plan with some layers' weights and inputs both at another width, with that width's range."""
        layers = {
            name: layer.model_copy(
                update={
                    "weight_bits": bits[name],
                    "activation_bits": bits[name] if layer.input_quantized else FLOAT_BITS,
                    "activation_range": ranges[name].get(bits[name], layer.activation_range),
                }
            )
            if name in bits
            else layer
            for name, layer in self.layers.items()
        }
        return self.model_copy(update={"layers": layers})
