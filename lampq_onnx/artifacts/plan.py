"""Bit-widths by layer name: the allocation decides them, and a person may edit them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    Strict,
    model_serializer,
    model_validator,
)

from lampq_onnx.artifacts.channel_widths import ChannelWidths, bits_text
from lampq_onnx.artifacts.granularity import GranularityTrial
from lampq_onnx.artifacts.sensitivities import ActivationRange
from lampq_onnx.artifacts.shown import Cell, Shown
from lampq_onnx.disk.records import Artifact, Record
from lampq_onnx.targets import Packing

FLOAT_BITS = 32
"""A layer with this width is left in float."""

FIXED_BITS = 8
"""Weight and input width of the layers outside the budget, unless a plan says otherwise."""

WEIGHT_BITS = (1, 2, 3, 4, 5, 6, 7, 8, FLOAT_BITS)
WIDE_ACTIVATION_BITS = 16
"""Width of inputs that lose too much at 8 bits; such a layer runs on the float kernel."""

ACTIVATION_BITS = (2, 3, 4, 5, 6, 7, 8, WIDE_ACTIVATION_BITS, FLOAT_BITS)


def _one_of(allowed: tuple[int, ...], what: str, value: int) -> int:
    if value not in allowed:
        raise ValueError(f"{what} must be one of {', '.join(map(str, allowed))}, not {value} ({FLOAT_BITS} is float)")
    return value


WeightBits = Annotated[int, Strict(), AfterValidator(lambda v: _one_of(WEIGHT_BITS, "weight_bits", v))]
ActivationBits = Annotated[int, Strict(), AfterValidator(lambda v: _one_of(ACTIVATION_BITS, "activation_bits", v))]


class LayerPlan(Record):
    """Widths of one layer. A plan written by hand needs only the two widths.

    Beside ``channel_widths`` the width of the weights may be left out: it is the widest of them.
    """

    weight_bits: WeightBits = Field(
        description="width of the weights, 1 to 8; 32 leaves the layer in float; beside channel_widths: the widest"
    )
    activation_bits: ActivationBits = Field(description="width of the input, 2 to 8 or 16; 32 leaves it in float")
    type: str | None = Field(default=None, description="qkv, proj, fc1, fc2, patch_embed, head, linear or conv")
    parameters: int | None = Field(default=None, gt=0, description="number of weights, without the bias")
    fixed: bool = Field(default=False, description="the layer is outside the budget")
    activation_range: ActivationRange | None = Field(
        default=None, description="absent: convert measures it from --calibration"
    )
    output_range: ActivationRange | None = Field(
        default=None,
        description="range of its product, before the bias; only for targets whose products have quantized results. "
        "Absent: convert measures it from --calibration",
    )
    input_elements: int | None = Field(
        default=None, gt=0, description="number of elements of the layer's input, for one image"
    )
    sketch: tuple[float, ...] | None = Field(
        default=None, description="norm and random projections of the weight before equalization, to find the layer by"
    )
    storage: Packing | None = Field(
        default=None, description="storage of its weights in the file; absent: as --packing says"
    )
    channel_widths: ChannelWidths | None = Field(
        default=None, description="widths of the single output channels; absent: all have the width weight_bits"
    )

    @model_serializer(mode="wrap")
    def _without_absent_widths(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the key out if all channels have one width: earlier versions do not know it."""
        data: dict[str, Any] = write(self)
        if data.get("channel_widths", self) is None:
            del data["channel_widths"]
        return data

    @model_validator(mode="before")
    @classmethod
    def _widest_of_channels(cls, data: Any) -> Any:
        """Fill in the width of the weights from those of the channels."""
        if not isinstance(data, Mapping) or "weight_bits" in data:
            return data
        widths = data.get("channel_widths")
        counts = widths.counts if isinstance(widths, ChannelWidths) else None
        if isinstance(widths, Mapping):
            counts = widths.get("counts")
        if not isinstance(counts, Mapping):
            return data
        used = [int(width) for width, count in counts.items() if count and str(width).isdecimal()]
        return {**data, "weight_bits": max(used)} if used else data

    @model_validator(mode="after")
    def _channels_agree(self) -> Self:
        widths = self.channel_widths
        if widths is not None and widths.widest != self.weight_bits:
            raise ValueError(
                f"weight_bits is {self.weight_bits}, and the widest of channel_widths is {widths.widest}: "
                "make them equal, or remove one of the two keys"
            )
        return self

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

    @property
    def widths(self) -> int | ChannelWidths:
        """The width of the weights, or those of the output channels if they differ."""
        return self.weight_bits if self.channel_widths is None else self.channel_widths

    @property
    def mean_weight_bits(self) -> float:
        """Average width of the weights."""
        return float(self.weight_bits) if self.channel_widths is None else self.channel_widths.mean

    @property
    def bits_text(self) -> str:
        """The width of the weights as text: average and span if output channels differ."""
        return bits_text(self.weight_bits, None if self.channel_widths is None else self.channel_widths.counts)

    def row_bits(self, rows: int) -> npt.NDArray[np.int8]:
        """Return the width of each output channel in its natural order, int8 (rows,).

        Args:
            rows: number of output channels.

        Raises:
            ValueError: the plan gives widths to another number of channels.
        """
        if self.channel_widths is None:
            return np.full(rows, self.weight_bits, np.int8)
        if len(self.channel_widths.order) != rows:
            raise ValueError(f"the plan has widths of {len(self.channel_widths.order)} output channels, not of {rows}")
        return self.channel_widths.row_bits()


class BitPlan(Shown, Artifact):
    """Widths by layer name, with the budget they were found under."""

    format: Literal["lampq-onnx/plan"] = "lampq-onnx/plan"
    version: Literal[1] = 1
    model: str | None = Field(default=None, description="name of the model")
    metric: str | None = Field(default=None, description="metric that gave the costs; absent: written by hand")
    budget: float | None = Field(default=None, gt=0, description="requested average weight bits")
    activation_budget: float | None = Field(
        default=None, gt=0, description="requested average input bits; absent: the inputs had no separate budget"
    )
    promised_bytes: int | None = Field(default=None, gt=0, description="predicted size of the file")
    promised_ms: float | None = Field(default=None, gt=0, description="predicted latency, if the layers were probed")
    promised_agreement: float | None = Field(
        default=None, description="predicted fraction of images with the float model's answer"
    )
    granularity: GranularityTrial | None = Field(
        default=None, description="what layers or groups of channels were chosen by; absent: nothing was compared"
    )
    layers: dict[str, LayerPlan] = Field(min_length=1, description="layer name -> widths")

    @model_serializer(mode="wrap")
    def _without_absent_trial(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the key out if nothing was compared."""
        data: dict[str, Any] = write(self)
        if data.get("granularity", self) is None:
            del data["granularity"]
        return data

    def _counted(self) -> list[LayerPlan]:
        return [layer for layer in self.layers.values() if not layer.fixed]

    def weight_average(self) -> float | None:
        """Average weight width over the layers in the budget, sum(c_i B_i) / sum(c_i); None if a c_i is missing."""
        counted = self._counted()
        sizes = [layer.parameters for layer in counted]
        if not counted or any(size is None for size in sizes):
            return None
        total = sum(size or 0 for size in sizes)
        return sum((layer.parameters or 0) * layer.mean_weight_bits for layer in counted) / total

    def weight_average_unweighted(self) -> float:
        """Plain mean of the widths over the layers in the budget."""
        counted = self._counted() or list(self.layers.values())
        return sum(layer.mean_weight_bits for layer in counted) / len(counted)

    def activation_average(self) -> float | None:
        """Average input width over the quantized layers in the budget, weighted by the number of input elements.

        Layers with float inputs do not count. None if the plan does not say how many elements every input has.
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
        """Return the plan with the weight widths of some layers replaced; all their channels get the same width.

        Args:
            bits: layer name -> new width of its weights.
        """
        layers = {
            name: layer.model_copy(update={"weight_bits": bits[name], "channel_widths": None})
            if name in bits
            else layer
            for name, layer in self.layers.items()
        }
        return self.model_copy(update={"layers": layers})

    def with_channel_widths(self, widths: Mapping[str, ChannelWidths]) -> BitPlan:
        """Return the plan with other widths of the output channels of some layers.

        Args:
            widths: layer name -> widths of its channels. A layer with one width for all of them gets it as a layer.
        """
        layers = {
            name: layer.model_copy(
                update={
                    "weight_bits": widths[name].widest,
                    "channel_widths": widths[name] if len(widths[name].counts) > 1 else None,
                }
            )
            if name in widths
            else layer
            for name, layer in self.layers.items()
        }
        return self.model_copy(update={"layers": layers})

    def with_coupled_bits(self, bits: dict[str, int], ranges: dict[str, dict[int, ActivationRange]]) -> BitPlan:
        """Return the plan with weights and inputs of some layers at another width, with the range of that width.

        Args:
            bits: layer name -> new width of its weights and its input.
            ranges: layer name -> width -> range of the input at that width.
        """
        layers = {
            name: layer.model_copy(
                update={
                    "weight_bits": bits[name],
                    "channel_widths": None,
                    "activation_bits": bits[name] if layer.input_quantized else FLOAT_BITS,
                    "activation_range": ranges[name].get(bits[name], layer.activation_range),
                }
            )
            if name in bits
            else layer
            for name, layer in self.layers.items()
        }
        return self.model_copy(update={"layers": layers})

    def _line(self) -> str:
        average = self.weight_average()
        bits = self.weight_average_unweighted() if average is None else average
        name = f"{self.model}: " if self.model else ""
        return f"{name}{len(self.layers)} layers, {bits:.3f} weight bits on average"

    def _card(self) -> Mapping[str, str]:
        quantized = [layer for layer in self.layers.values() if layer.quantized]
        mixes = [layer.channel_widths.counts for layer in quantized if layer.channel_widths is not None]
        widths = sorted({layer.weight_bits for layer in quantized}.union(*mixes))
        average = self.weight_average()
        card = {
            "average bits": f"{self.weight_average_unweighted() if average is None else average:.3f}",
            "widths": ", ".join(map(str, widths)),
            "quantized": f"{len(quantized)} of {len(self.layers)} layers",
        }
        return card if self.metric is None else {**card, "metric": self.metric}

    def _rows(self) -> Sequence[Mapping[str, Cell]]:
        return [
            {
                "layer": name,
                "type": layer.type,
                "weight_bits": layer.weight_bits,
                "activation_bits": layer.activation_bits,
                "parameters": layer.parameters,
                "fixed": layer.fixed,
                "storage": layer.storage,
            }
            for name, layer in self.layers.items()
        ]
